"""Mixtures of corpora: what an epoch reads, in which order, and what it must leave out."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from tokenizer import build_bpe_tokenizer, build_character_tokenizer
from training.command import UserError
from training.data import library, mixture
from training.data.corpora import load_corpus
from training.data.documents import Documents, Phases, encode_documents, stored_documents
from training.data.library import SHELVES, SPLITS
from training.data.mixture import cut, draw, load_mixture
from training.data.windows import NextToken
from training.engine.loop import Run, train
from training.engine.provenance import trained_on
from training.engine.recipe import Recipe, check_inputs, load_recipe
from training.publish import model_card

END = 1


def documents(*weights: float, counts: int = 12, whole: bool = True, seed: int = 3) -> Documents:
    """Corpora of documents of 3, 4, 5 ... tokens; those of document `d` of corpus `c` are `1000 (c + 1) + d`."""
    corpora = []
    for corpus, weight in enumerate(weights):
        ids = [token for d in range(counts) for token in [1000 * (corpus + 1) + d] * (2 + d) + [END]]
        corpora.append((torch.tensor(ids, dtype=torch.uint16), weight, whole))
    return Documents(corpora, END, seed)


def epoch(laid: Documents, number: int) -> list[int]:
    return laid.read(number, 0, len(laid)).tolist()


def test_an_epoch_has_each_whole_document_as_often_as_its_weight():
    laid = documents(3, 1)
    for number in range(2):
        tokens = epoch(laid, number)
        pieces = Counter(" ".join(map(str, tokens)).removesuffix(f" {END}").split(f" {END} "))
        assert pieces == {
            " ".join([str(1000 * (c + 1) + d)] * (2 + d)): weight for c, weight in ((0, 3), (1, 1)) for d in range(12)
        }
    assert epoch(laid, 0) != epoch(laid, 1)


def test_a_fractional_weight_reads_a_random_part_and_all_epochs_are_equally_long():
    laid, whole = documents(1.5, 0.25), documents(1)
    assert len(laid) == int(1.5 * len(whole)) + int(0.25 * len(whole))
    read = [Counter(epoch(laid, number)) for number in range(30)]
    for counts in read:
        assert sum(counts[token] for token in counts if token >= 2000) in range(
            int(0.25 * len(whole)) - 12, int(0.25 * len(whole)) + 1
        )
        assert all(counts[1000 + d] >= 2 + d for d in range(12))
    assert len({tuple(sorted(counts.items())) for counts in read}) > 4
    assert {token for counts in read for token in counts} >= {2000 + d for d in range(12)}


def test_passages_of_a_text_have_no_end_token():
    assert END not in epoch(documents(2, 0.5, whole=False), 0)


def test_reading_part_of_an_epoch_gives_a_slice_of_the_whole():
    laid = documents(1, 2.5)
    whole = epoch(laid, 4)
    for begin, length in ((0, 1), (17, 40), (len(whole) - 3, 3)):
        assert laid.read(4, begin, length).tolist() == whole[begin : begin + length]


def test_windows_depend_only_on_step_and_seed():
    def batches(seed: int) -> NextToken:
        return NextToken(build_character_tokenizer("a"), documents(1.5, 1, seed=seed), 8, 5, seed)

    straight = batches(3)
    seen = [straight.at(step)["input_ids"] for step in range(40)]
    jumping = batches(3)
    for step in (39, 2, 20, 3):
        assert torch.equal(jumping.at(step)["input_ids"], seen[step])
    assert not torch.equal(batches(4).at(0)["input_ids"], seen[0])
    assert straight.windows * 3 < 40 * 5  # several epochs


def test_the_last_phase_begins_at_its_step():
    first, last = (NextToken(build_character_tokenizer("a"), documents(1, seed=seed), 8, 5, seed) for seed in (1, 2))
    phases = Phases(first, last, 7)
    assert torch.equal(phases.at(6)["labels"], first.at(6)["labels"])
    assert torch.equal(phases.at(7)["labels"], last.at(0)["labels"])
    assert phases.windows == first.windows


@pytest.fixture
def shelves(tmp_path, monkeypatch):
    """A prepared library of three small shelves; every document has 30 to 40 characters of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "fetch_library", lambda: None)
    monkeypatch.setattr(library, "list_poets", lambda: [library.Poet("train", "verse 3", "verse 3", "classic")])
    for shelf in SHELVES:
        folder = library.shelf_folder(shelf)
        folder.mkdir(parents=True)
        for split, count in zip(SPLITS, (40, 6, 4), strict=True):
            name = "train-00" if split == "train" else split
            texts = [
                f"{shelf} {split} {n}: " + "".join(chr(97 + (n * k) % 26) for k in range(20)) for n in range(count)
            ]
            rows = [{"author": f"{shelf} {n}", "title": "", "text": text} for n, text in enumerate(texts)]
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def mixed(weights: dict, final: dict | None = None, held_out: list | None = None) -> mixture.Mixture:
    return load_mixture(weights, final or {}, held_out or [], accept_changed=True)


def test_a_shelf_is_the_same_corpus_inside_and_outside_a_mixture(shelves):
    (part,) = mixed({"tales": 2}).parts
    corpus = load_corpus("tales", accept_changed=True)
    assert (part.sha256, part.characters, part.source) == (corpus.sha256, len(corpus.text), corpus.source)
    assert (part.validation, part.test, part.letters) == (corpus.validation, corpus.test, frozenset(corpus.text))
    assert "\n\n".join(part.documents()) + "\n\n" == corpus.train
    assert part.lengths == tuple(map(len, part.documents()))


def test_a_subset_has_the_chosen_poets_and_the_splits_of_its_shelf(shelves):
    subset, verse = load_corpus("verse-classics", accept_changed=True), load_corpus("verse", accept_changed=True)
    assert subset.train.startswith("verse train 3: ")
    assert len(subset.train) < len(verse.train) / 30
    assert "the best known" in subset.source
    assert [poet.name for poet in library.list_poets()] == ["verse 3"]


def test_known_poets_are_of_the_training_split():
    known = [poet for poet in library.read_table("poets.tsv") if poet[3]]
    assert {row[0] for row in known} == {"train"}
    assert {row[3] for row in known} == {"classic"}
    assert {"William Wordsworth", "John Keats", "Christina Georgina Rossetti"} <= {row[2] for row in known}
    assert 40 < len(known) < 70


def test_name_figures_and_scored_parts(shelves):
    both = mixed({"baum": 3, "tales": 1, "verse": 0.5}, {"baum": 1, "sampler": 2})
    assert both.name == "baum x 3, tales, verse x 0.5; at last baum, sampler x 2"
    figures = both.figures()
    assert [part["weight"] for part in figures["parts"]] == [3, 1, 0.5]
    assert figures["validation_characters"] == len(both.validation)
    assert {name: len(text) for name, text in both.scored(30).items()} == {"baum": 10, "tales": 10, "verse": 10}
    assert list(both.scored(None).values()) == [part.validation for part in both.parts]
    assert both.sha256 != mixed({"baum": 3, "tales": 1, "verse": 1}, {"baum": 1, "sampler": 2}).sha256
    assert json.loads(json.dumps(figures)) == figures
    verse = mixed({"verse": 1})
    assert mixed({"verse": 1}, {"verse-classics": 1}).characters == verse.characters


def test_the_tokenizers_sample_has_the_proportions_and_is_bounded(shelves, monkeypatch):
    both = mixed({"baum": 3, "verse": 0.5})
    counts = Counter(text.split()[0] for text in both.sample())
    assert counts["baum"] == pytest.approx(120, abs=3)  # all of it three times, since the mixture is small
    assert counts["verse"] == pytest.approx(20, abs=3)
    monkeypatch.setattr(mixture, "VOCABULARY_CHARACTERS", 1000)
    sample = both.sample()
    assert sum(map(len, sample)) == pytest.approx(1000, abs=100)
    assert sample == both.sample()
    assert [int(text.split()[2][:-1]) for text in sample] != sorted(int(text.split()[2][:-1]) for text in sample)
    assert draw(both.parts[0], 0) == []


def test_a_text_is_cut_at_blank_lines_and_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(mixture, "PASSAGE", 10)
    text = "one two three\n\n\nfour\n\nfive six seven eight\n\nnine"
    passages = list(cut(text))
    assert passages == ["one two three\n\n\n", "four\n\nfive six seven eight\n\n", "nine"]


def test_documents_are_encoded_once_with_an_end_after_each(shelves, monkeypatch):
    (part,) = mixed({"verse": 1}).parts
    tokenizer = build_bpe_tokenizer(list(part.documents()), 300)
    ids = stored_documents(tokenizer, part)
    text = tokenizer.decode(ids.tolist())
    assert text == "".join(document + tokenizer.eos_token for document in part.documents())
    monkeypatch.setattr("training.data.documents.encode_documents", None)  # nothing is encoded again
    assert torch.equal(stored_documents(tokenizer, part).long(), ids.long())


def test_a_small_cache_of_words_gives_the_same_ids(shelves, monkeypatch):
    (part,) = mixed({"verse": 1}).parts
    tokenizer = build_bpe_tokenizer(list(part.documents()), 300)
    many = np.concatenate(list(encode_documents(tokenizer, part)))
    monkeypatch.setattr("training.data.documents.MOST_KNOWN", 3)
    assert np.array_equal(np.concatenate(list(encode_documents(tokenizer, part))), many)


def tiny(**fields) -> Recipe:
    settings = {
        "corpus": {"baum": 2, "verse": 0.5},
        "accept_changed_corpus": True,
        "model": {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2},
        "context": 16,
        "batch_size": 4,
        "steps": 10,
        "warmup_steps": 1,
        "sample_length": 5,
        "evaluate_every": 5,
        "checkpoint_every": 5,
        "log_every": 1,
    }
    return Recipe(**{**settings, **fields})


LEAK = "This sentence is longer than a passage, and stands in both of the two texts that are compared."


def add_document(shelf: str, split: str, text: str) -> None:
    path = library.shelf_folder(shelf) / f"{'train-00' if split == 'train' else split}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps({"author": "a", "title": "", "text": text}) + "\n")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_mixture_that_trains_on_held_out_text_is_refused_or_cleaned(shelves, tmp_path, split, capsys):
    add_document("tales", split, LEAK)
    add_document("verse", "train", f"A new poem\n{LEAK}")
    recipe = tiny(held_out=["tales"])
    with pytest.raises(UserError, match=r"training text of verse shares 1 passage.*split of tales.*--remove_overlap"):
        Run(recipe, tmp_path / "run")
    run = Run(tiny(held_out=["tales"], remove_overlap=True), tmp_path / "run")
    assert "left out of verse: 1 documents" in capsys.readouterr().out
    baum, verse = run.corpus.parts
    assert (baum.left_out, verse.left_out) == (frozenset(), {40})
    assert LEAK not in "".join(verse.documents())
    assert LEAK not in "".join(run.corpus.sample())
    assert LEAK not in run.tokenizer.decode(stored_documents(run.tokenizer, verse).tolist())
    Run(tiny(), tmp_path / "run")  # without it nothing is shared


def test_a_run_records_its_corpora_and_their_losses_and_a_later_stage_knows_them(shelves, tmp_path):
    recipe = tiny(final_corpus={"tales": 1}, final_share=0.4, validation_characters=60, held_out=["sampler"])
    train(recipe, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    parts = {part.name: part.sha256 for part in mixed({"baum": 1, "verse": 1, "tales": 1}).parts}
    assert record["corpus"]["name"] == "baum x 2, verse x 0.5; at last tales"
    stages = trained_on(str(tmp_path / "run" / "best"))
    assert stages == [{"name": n, "sha256": s, "held_out": [*parts, "sampler"]} for n, s in parts.items()]
    card = str(model_card(record, "name", "apache-2.0", "AutoModelForCausalLM", "", None))
    assert "`baum x 2, verse x 0.5; at last tales`" in card
    characters = f"{record['corpus']['validation_characters']:,}"
    assert f"a part of each corpus ({characters} characters in all) for validation" in card
    both = [record[f"validation_loss_{name}"] for name in ("baum", "verse")]
    sizes = [len(part.validation) for part in mixed({"baum": 1, "verse": 1}).parts]
    assert record["best_validation_loss"] == pytest.approx(np.average(both, weights=sizes), abs=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("validation_loss_baum" in line for line in lines if "validation_loss" in line)


def test_a_run_resumes_in_its_last_phase_as_if_unbroken(shelves, tmp_path, monkeypatch):
    recipe = tiny(final_corpus={"tales": 1, "baum": 0.5}, final_share=0.4)

    def losses(name: str) -> list[float]:
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [line["train_loss"] for line in lines if "train_loss" in line]

    train(recipe, tmp_path / "unbroken")
    step = Run.step

    def killed(run):
        if run.record.step == 8:
            raise KeyboardInterrupt
        return step(run)

    monkeypatch.setattr(Run, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "broken")
    monkeypatch.setattr(Run, "step", step)
    train(recipe, tmp_path / "broken")
    assert losses("broken") == losses("unbroken")
    assert losses("unbroken")[:6] != losses("unbroken")[6:]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"corpus": "{baum: 0}"}, ["corpus of baum (on the command line)", "greater than 0", "0"]),
        ({"corpus": "{baum: much}"}, ["corpus of baum", "number", "much"]),
        ({"corpus": "{}"}, ["corpus", "at least 1"]),
        ({"final_corpus": "{baum: 1}"}, ["final_corpus needs a mixture as the corpus", "{sampler: 1}"]),
        ({"held_out": "[oz]"}, ["held_out needs a mixture"]),
        ({"corpus": "{baum: 1}", "stream": "true"}, ["mixture, which cannot be streamed"]),
        ({"corpus": "{baum: 1}", "task": "copy"}, ["task copy", "one corpus"]),
        ({"corpus": "{baum: 1}", "final_share": "1"}, ["final_share", "less than 1"]),
    ],
)
def test_wrong_mixtures_are_refused(fields, words):
    with pytest.raises(UserError) as caught:
        load_recipe("smoke", list(fields.items()))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_weights_on_the_command_line_and_unknown_names():
    recipe = load_recipe("smoke", [("corpus", "{oz: 1, quatrains: 3}"), ("final_corpus", "{oz: 0.5}")])
    assert (recipe.corpus, recipe.final_corpus) == ({"oz": 1, "quatrains": 3}, {"oz": 0.5})
    check_inputs(recipe)
    for field in ("corpus", "final_corpus", "held_out"):
        wrong = "[bamu]" if field == "held_out" else "{bamu: 1}"
        others = [("corpus", "{oz: 1}")] if field != "corpus" else []
        with pytest.raises(UserError, match=r"corpus 'bamu' is neither.*did you mean baum"):
            check_inputs(load_recipe("smoke", [*others, (field, wrong)]))
