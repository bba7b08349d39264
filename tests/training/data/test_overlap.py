import dataclasses
import json
import shutil

import pytest

from tests.forks import run_forked
from tests.hub_server import HubServer, Repo
from training.command import UserError
from training.data.corpora import Corpus, load_corpus
from training.data.overlap import describe, find_shared, without_shared
from training.engine.build import load_texts
from training.engine.loop import train
from training.engine.provenance import check_run, trained_on
from training.engine.recipe import Recipe, load_recipe
from training.publish import license_of, model_card

PASSAGE = "Nobody who has read this line before has forgotten what it says."  # 64 bytes
CHINESE = "一二三四五六七八九十甲乙丙丁戊己庚辛"  # 18 characters of 3 bytes


def small(**fields) -> Recipe:
    return load_recipe("smoke", [(name, str(value)) for name, value in fields.items()])


def words(seed: int, count: int = 400) -> str:
    return " ".join(f"{(seed * 7919 + n * 104729) % 99991:05}" for n in range(count))


@pytest.mark.parametrize("passage", [PASSAGE, CHINESE])
def test_shared_passages_are_found_to_the_character(passage):
    train, validation = f"{words(1)}\n{passage}\n{words(2)}", f"{words(3)}诗{passage}词{words(4)}"
    ((begin, end),) = find_shared(validation, train)
    assert validation[begin:end] == passage
    ((begin, end),) = find_shared(train, validation)
    assert train[begin:end] == passage


def test_text_shorter_than_a_passage_is_not_shared():
    assert find_shared(words(1) + PASSAGE[:47] + words(2), words(3) + PASSAGE[:47] + words(4)) == []
    assert len(find_shared(words(1) + PASSAGE[:48] + words(2), words(3) + PASSAGE[:48] + words(4))) == 1
    assert find_shared("short", words(1)) == find_shared(words(1), "") == []


def test_long_texts_are_searched_in_chunks(monkeypatch):
    monkeypatch.setattr("training.data.overlap.CHUNK", 100)
    text = words(1) + PASSAGE + words(2)
    ((begin, end),) = find_shared(text, words(3) + PASSAGE)
    assert text[begin:end] == PASSAGE


def test_paragraphs_with_shared_passages_are_left_out():
    train = f"first\n\n{words(1)}\n{PASSAGE} and more\nto its end\n\nlast\n\n{PASSAGE}"
    left = without_shared(train, words(2) + PASSAGE)
    assert left == "first\n\nlast"
    assert without_shared(train, words(2)) == train


def corpus(name: str, *texts: str) -> Corpus:
    return Corpus(name, texts)


def test_a_text_that_repeats_itself_is_reported_and_several_that_share_text_are_refused(capsys):
    own = f"{PASSAGE} {words(1, 2000)} {PASSAGE}"
    found, earlier = check_run(Recipe(), corpus("own", own), say=print)
    assert (found.train, earlier) == (corpus("own", own).train, [])
    assert "shares 1 passage" in capsys.readouterr().out
    one, other = f"{words(2)} {PASSAGE} {words(3, 2000)}", f"{words(4, 2000)} {PASSAGE}"
    with pytest.raises(UserError, match=r"shares 1 passage.*Nobody who.*--remove_overlap true"):
        check_run(Recipe(), corpus("one+other", one, other), say=print)
    left, _ = check_run(Recipe(remove_overlap=True), corpus("one+other", one, other), say=print)
    assert PASSAGE not in left.train
    assert left.validation == corpus("one+other", one, other).validation
    assert left.sha256 == corpus("one+other", one, other).sha256  # it is the same corpus


def test_fine_tuning_on_what_the_checkpoint_has_seen_is_refused(tmp_path, capsys):
    seen, mine = tmp_path / "seen.txt", tmp_path / "mine.txt"
    seen.write_text(f"{PASSAGE} {words(1, 2000)}", encoding="utf-8")
    mine.write_text(f"{words(2, 2000)} {PASSAGE}", encoding="utf-8")
    record = {"recipe": {"corpus": str(seen)}, "corpus": {"sha256": load_corpus(str(seen)).sha256}}
    (tmp_path / "best").mkdir()
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    recipe = Recipe(start_from=str(tmp_path / "best"))
    with pytest.raises(UserError, match=r"training text of seen shares 1 passage.*of mine.*has not seen them"):
        check_run(recipe, load_corpus(str(mine)), say=print)
    mine.write_text(words(3, 2000), encoding="utf-8")
    _, earlier = check_run(recipe, load_corpus(str(mine)), say=print)
    assert earlier == [{"name": str(seen), "sha256": record["corpus"]["sha256"]}]
    seen.unlink()
    check_run(recipe, load_corpus(str(mine)), say=print)
    assert "is not available here for comparison" in capsys.readouterr().out


def test_a_resumed_run_is_not_searched_again(tmp_path, capsys):
    """It reports no shared passages then, but leaves out the same ones and keeps its lineage."""
    mine, fine = tmp_path / "mine.txt", tmp_path / "fine"
    mine.write_text(f"{PASSAGE} {words(1)}\n\n{words(2, 2000)} {PASSAGE}", encoding="utf-8")
    fields = {"steps": 2, "checkpoint_every": 1, "log_every": 1, "sample_length": 1, "batch_size": 2, "context": 16}
    fields |= {"model.hidden_size": 32, "model.num_hidden_layers": 1}
    train(small(**fields), tmp_path / "base")
    del fields["model.hidden_size"], fields["model.num_hidden_layers"]
    recipe = small(**fields, corpus=mine, start_from=tmp_path / "base" / "best", remove_overlap="true", model="{}")

    def go_on(**options) -> tuple[str, list, list]:
        """What the run prints, its earlier stages, and its losses."""
        capsys.readouterr()
        train(recipe, fine, **options)
        lines = [json.loads(line) for line in (fine / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        losses = [line.get("train_loss", line.get("validation_loss")) for line in lines]
        return capsys.readouterr().out, json.loads((fine / "run.json").read_text())["trained_on_before"], losses

    said, earlier, losses = go_on()
    assert "training text of mine shares no passage" in said
    assert "training text of sampler shares no passage" in said
    assert [stage["name"] for stage in earlier] == ["sampler"]
    shutil.rmtree(fine / "checkpoint-2")
    (fine / "run.json").write_text(json.dumps({**json.loads((fine / "run.json").read_text()), "finished": False}))
    resumed, *rest = go_on()
    assert "resuming from step 1" in resumed
    assert "shares" not in resumed
    (left_out,) = [line for line in said.splitlines() if line.startswith("left out of training")]
    assert left_out in resumed
    assert rest == [earlier, losses]
    assert "shares no passage" in go_on(overwrite=True)[0]


def test_the_lineage_grows_with_every_stage(tmp_path):
    before = {"name": "classics", "sha256": "01"}
    record = {"recipe": {"corpus": "oz"}, "corpus": {"sha256": "02"}, "trained_on_before": [before]}
    (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    assert trained_on(str(tmp_path)) == [before, {"name": "oz", "sha256": "02"}]
    assert trained_on(None) == []


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub on loopback, with one checkpoint that has a run record and two that have none."""
    with HubServer() as server:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.endpoint)
        template = f"{server.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        record = {"recipe": {"corpus": "oz"}, "corpus": {"sha256": "02"}}
        for name, files in (
            ("user/recorded", {"run.json": json.dumps(record).encode()}),
            ("user/gpt2", {"README.md": b"---\nlicense: mit\n---\n"}),
            ("user/silent", {}),
        ):
            server.repos[f"models/{name}"] = repo = Repo("models", name)
            repo.commit("files", {"config.json": b"{}", **files})
        yield server


def test_the_lineage_of_a_checkpoint_on_the_hub_is_read_from_there(hub):
    assert trained_on("user/recorded") == [{"name": "oz", "sha256": "02"}]
    asked = len(hub.requests)
    assert trained_on("user/recorded") == [{"name": "oz", "sha256": "02"}]  # from the cache
    assert len(hub.requests) == asked


@pytest.mark.parametrize("place", ["hub", "folder"])
def test_a_checkpoint_of_unknown_origin_is_reported_and_recorded(hub, tmp_path, place, capsys):
    """Such as GPT-2 from the Hub, or converted into a folder: no record of a stage does not mean there was none."""
    (tmp_path / "converted").mkdir()
    start = "user/gpt2" if place == "hub" else str(tmp_path / "converted")
    text = corpus("mine", words(3, 2000))
    _, earlier = check_run(Recipe(start_from=start), text, say=print)
    assert earlier == [{"name": None, "sha256": None, "checkpoint": start}]
    assert f"it is not known what {start} was trained on" in capsys.readouterr().out
    # Models trained from it keep the entry, even if their record was written before such entries existed.
    for before in ({"trained_on_before": earlier}, {"trained_on_before": []}):
        run = {"recipe": {"corpus": "mine", "start_from": start}, "corpus": {"sha256": "03"}, **before}
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "run.json").write_text(json.dumps(run), encoding="utf-8")
        assert trained_on(str(tmp_path / "run")) == [*earlier, {"name": "mine", "sha256": "03"}]


def test_a_stream_is_compared_with_the_training_text_of_its_checkpoint(tmp_path, capsys):
    for shard in range(2):
        (tmp_path / f"{shard}.txt").write_text(f"{words(shard, 2000)}\n" * 2, encoding="utf-8")
    recipe = Recipe(corpus=str(tmp_path), stream=True, stream_validation=100, start_from="user/nothing")
    check_run(recipe, load_texts(recipe), say=print)
    assert "it is not known what user/nothing was trained on" in capsys.readouterr().out
    with pytest.raises(UserError, match="remove_overlap"):
        load_texts(dataclasses.replace(recipe, remove_overlap=True))


@pytest.mark.parametrize(("start", "license"), [("user/gpt2", "mit"), ("user/silent", None), (None, "apache-2.0")])
def test_licence_and_preset_of_a_card_are_never_invented(hub, trained, start, license):
    record = json.loads((trained / "run.json").read_text(encoding="utf-8"))
    if start:
        record["recipe"] |= {"start_from": start, "preset": None}
    assert license_of(record) == license
    card = str(model_card(record, "user/mine", license, "AutoModelForCausalLM", "", None))
    assert (f"license: {license}" in card) == (license is not None)
    assert ("no licence is known" in card) == (license is None)
    if start:
        assert f"that of the checkpoint `{start}`" in card
        assert f"after the unknown training data of `{start}`" in card
        assert "only on the corpus" not in card
        assert "preset" not in card
    else:
        assert "the preset `modern` of Ozymandias" in card
        assert "trained only on the corpus" in card
    assert "None" not in card


def test_the_record_of_a_fine_tuning_names_no_preset(trained, tmp_path):
    recipe = load_recipe("smoke", [("start_from", str(trained / "best")), ("steps", "1"), ("sample_length", "1")])
    recipe = dataclasses.replace(recipe, model={}, context=64)
    train(recipe, tmp_path / "fine")
    record = json.loads((tmp_path / "fine" / "run.json").read_text(encoding="utf-8"))
    assert record["recipe"]["preset"] is None
    assert [stage["name"] for stage in record["trained_on_before"]] == ["sampler"]


def test_command(tmp_path):
    (tmp_path / "a.txt").write_text(f"{PASSAGE} {words(1)}", encoding="utf-8")
    (tmp_path / "b.txt").write_text(f"{words(2)} {PASSAGE}", encoding="utf-8")
    found = run_forked("-m", "training.data.overlap", tmp_path / "a.txt", tmp_path / "b.txt", check=False)
    assert found.returncode == 1
    assert "training text of a shares 1 passage" in found.stderr
    assert (
        "shares no passage" in run_forked("-m", "training.data.overlap", tmp_path / "b.txt", tmp_path / "a.txt").stdout
    )


@pytest.mark.corpora
@pytest.mark.slow
@pytest.mark.parametrize(("large", "small"), [("classics", "oz+poetry"), ("chinese-poems", "shijing+lunyu")])
def test_no_corpus_trains_on_what_another_is_scored_on(corpora, large, small):
    for name in (large, small):
        assert describe(name, load_corpus(name).train, small, load_corpus(small).validation)[0] == 0


@pytest.mark.corpora
@pytest.mark.slow
def test_duplicate_poems_are_left_out(corpora):
    poems = Corpus("poems", (load_corpus("chinese-poems").text[-4_000_000:],))
    said = []
    check_run(Recipe(), poems, say=said.append)
    assert "the loss flatters" in said[-1]
    left, _ = check_run(Recipe(remove_overlap=True), poems, say=said.append)
    assert "shares no passage" in said[-1]
    assert 0.98 < len(left.train) / len(poems.train) < 1
