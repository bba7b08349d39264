import itertools
import os
import random

import pytest
import torch
from transformers import AutoTokenizer

from modeling import OzymandiasForConditionalGeneration, OzymandiasForMaskedLM, preset_config
from modeling.loading import load_model
from tests.forks import run_forked
from tokenizer import build_character_tokenizer
from training.data.corpora import load_corpus
from training.evaluation.search import CHECKPOINT, compare, cut_passages, embed, passage_vectors

TEXT = (
    "The first sentence is here. The second one, a little longer, follows it!\n\n"
    "A new paragraph begins. “And a voice speaks.” It says a word: incomprehensibilities.\n\n\n  \nEnd\n"
)


@pytest.mark.parametrize("longest", [5, 12, 30, 60, 1000])
def test_passages_cover_the_text_in_order_and_keep_their_length(longest):
    passages = cut_passages(TEXT, longest)
    assert all(0 < end - begin <= longest for begin, end in passages)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(passages))
    assert "".join("".join(TEXT[b:e] for b, e in passages).split()) == "".join(TEXT.split())
    # No passage goes over the end of a paragraph.
    assert not any("\n\n" in TEXT[b:e] for b, e in passages)


def test_passages_end_with_sentences_if_they_fit():
    texts = [TEXT[b:e].strip() for b, e in cut_passages(TEXT, 60)]
    assert texts[0] == "The first sentence is here."
    assert texts[2:4] == ["A new paragraph begins. “And a voice speaks.”", "It says a word: incomprehensibilities."]


def test_no_passage_without_text():
    assert cut_passages(" \n\n ", 10) == []


def build(folder=None, **fields):
    tokenizer = build_character_tokenizer(TEXT)
    torch.manual_seed(0)
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = preset_config("gpt", vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, **tokens, **fields)
    model_class = OzymandiasForConditionalGeneration if config.is_encoder_decoder else OzymandiasForMaskedLM
    model = model_class(config).eval()
    if folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model, tokenizer


def test_a_special_token_in_a_passage_is_text():
    model, tokenizer = build(is_causal=False)
    seen = []
    model.base_model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    embed(model, tokenizer, ["a<|end|>b"], progress=False)
    assert tokenizer.decode(seen[0][0]) == "a<|end|>b"
    assert tokenizer.eos_token_id not in seen[0]


@pytest.mark.parametrize("fields", [{"is_encoder_decoder": True}, {"is_causal": False}])
def test_each_word_has_a_vector_which_a_longer_text_in_the_batch_does_not_change(fields):
    model, tokenizer = build(**fields)
    (alone,) = embed(model, tokenizer, ["a wörd, 诗"], progress=False)
    beside = embed(model, tokenizer, ["a wörd, 诗", "The second one, a little longer", "?!"], progress=False)
    assert [tuple(words.shape) for words in beside] == [(3, 32), (6, 32), (1, 32)]
    torch.testing.assert_close(alone, beside[0], atol=1e-5, rtol=1e-4)


def test_a_passage_scores_by_its_nearest_words():
    vectors = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    passages = torch.tensor([0, 0, 1, 1])
    scores = compare(torch.tensor([[1.0, 0], [0, -1]]), vectors, passages)
    assert scores.tolist() == pytest.approx([(1 + 0) / 2, (0 + 1) / 2])


def test_a_passage_is_nearest_to_itself():
    model, tokenizer = build(is_encoder_decoder=True)
    texts = [TEXT[b:e] for b, e in cut_passages(TEXT, 60)]
    words = embed(model, tokenizer, texts, progress=False)
    passages = torch.cat([torch.full((len(w),), number) for number, w in enumerate(words)])
    for number, query in enumerate(words):
        scores = compare(query, torch.cat(words), passages)
        assert int(scores.argmax()) == number
        assert scores.max() == pytest.approx(1, abs=1e-4)


def test_vectors_are_cached_and_recomputed_for_another_model_or_a_damaged_file(tmp_path):
    model, tokenizer = build(is_encoder_decoder=True)
    texts = ["one text", "and another one"]
    path = tmp_path / "vectors.safetensors"
    vectors, passages = passage_vectors(model, tokenizer, texts, path)
    assert vectors.shape == (5, 32)
    assert passages.tolist() == [0, 0, 1, 1, 1]
    written = os.stat(path).st_mtime_ns
    assert torch.equal(passage_vectors(model, tokenizer, texts, path)[0], vectors.half().float())
    assert os.stat(path).st_mtime_ns == written
    torch.nn.init.normal_(model.encoder.embed_tokens.weight)
    other, _ = passage_vectors(model, tokenizer, texts, path)
    assert not torch.equal(other, vectors)
    path.write_bytes(b"half a file")
    assert torch.equal(passage_vectors(model, tokenizer, texts, path)[0], other)


@pytest.mark.corpora
def test_words_of_oz_find_their_passage(corpora, tmp_path):
    """For most queries of a few words of a passage, in lower case, the passage is among the first five."""
    text = load_corpus("oz").text
    model = load_model(CHECKPOINT).eval()
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = [text[b:e] for b, e in cut_passages(text, model.config.max_position_embeddings)]
    found = passage_vectors(model, tokenizer, texts, tmp_path / "vectors.safetensors")
    chosen = random.Random(0).sample([n for n, passage in enumerate(texts) if len(passage.split()) > 8], 50)
    queries = [" ".join(texts[number].split()[2:6]).lower() for number in chosen]
    ranks = []
    for number, query in zip(chosen, embed(model, tokenizer, queries, progress=False), strict=True):
        scores = compare(query, *found)
        ranks.append(int((scores > scores[number]).sum()))
    share = sum(rank < 5 for rank in ranks) / len(ranks)
    print(f"found among the first five: {share:.0%}")
    assert share > 0.7


def test_command(tmp_path):
    build(tmp_path / "model", is_encoder_decoder=True)
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    options = ["--corpus", tmp_path / "my.txt", "--vectors", tmp_path / "v.safetensors", "--top", 2]
    said = run_forked(
        "-m", "training.evaluation.search", "A new paragraph begins.", "--checkpoint", tmp_path / "model", *options
    ).stdout
    assert len(said.splitlines()) == 2
    assert float(said.split()[0]) >= float(said.splitlines()[1].split()[0])
    for wrong, words in (
        (["  ", "--checkpoint", tmp_path / "model"], "the query is empty"),
        (["a", "--checkpoint", tmp_path / "none"], "there is no folder"),
        (["a", "--checkpoint", "space/checkpoints/poetry-gpt"], "is a decoder"),
    ):
        refused = run_forked("-m", "training.evaluation.search", *wrong, *options, check=False)
        assert refused.returncode == 1
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
