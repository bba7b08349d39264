"""What the page shows of a forward pass is what the model did, for every architecture that can be trained here."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoTokenizer

from modeling import preset_config
from modeling.loading import load_model
from space.inside import (
    LIMIT,
    cache_growth,
    embedding_map,
    load_traceable,
    logit_lens,
    make_traceable,
    residual_norms,
    score_tokens,
    show_token,
    trace,
    write_with_and_without,
)
from tests.conftest import PROJECT, random_model
from tokenizer import build_bpe_tokenizer, build_character_tokenizer
from training.command import UserError
from training.evaluation.scores import score_text

CHECKPOINTS = PROJECT / "space" / "checkpoints"
TEXT = "The moon upon the water, and the 诗 of Oz.\nDorothy looked up"
CHARACTERS = build_character_tokenizer(TEXT, with_mask=True)
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
SHAPES = {
    "gpt": ("gpt", {}),
    "experts": ("modern", {"feed_forward_type": "moe", "output_router_logits": True, "num_local_experts": 4}),
    "2017": ("gpt", {"norm_placement": "post", "position_type": "sinusoidal"}),
    "capped": ("gpt", {"norm_placement": "post", "use_final_norm": True, "final_logit_softcapping": 3.0}),
    "sliding": ("modern", {"sliding_window": 7, "attention_bias": True, "head_dim": 6}),
    "bert": ("gpt", {"is_causal": False, "norm_placement": "post", "mlp_bias": True, "use_embedding_norm": True}),
    "both": ("modern", {"is_encoder_decoder": True, "num_encoder_layers": 1}),
    "both, 2017": ("gpt", {"is_encoder_decoder": True, "norm_placement": "post", "position_type": "sinusoidal"}),
}
SHIPPED = (
    *("english", "poetry-bigram", "poetry-single-head", "poetry-gpt", "poetry-modern"),
    *("oz-encoder", "oz-next-passage"),
)
everything = pytest.mark.parametrize("name", [*SHAPES, *SHIPPED])


def build(name: str):
    """A shipped checkpoint, or a small random model, with its tokenizer."""
    if name in SHIPPED:
        return load_traceable(str(CHECKPOINTS / name))
    preset, fields = SHAPES[name]
    sizes = {"vocab_size": len(CHARACTERS), "num_hidden_layers": 3, "hidden_size": 32, "max_position_embeddings": 40}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    return make_traceable(random_model(preset_config(preset, **{**sizes, **tokens, **fields}))), CHARACTERS


def traced(model, tokenizer, text: str = TEXT, **options):
    source = "So she read all that the passage told" if model.config.is_encoder_decoder else ""
    return trace(model, tokenizer, text, source, **options)


def test_of_special_tokens_only_the_gap_of_an_encoder_can_be_written():
    text = "o <|end|> <|mask|>"
    for name in ("gpt", "both", "bert"):
        model, tokenizer = build(name)
        shown = traced(model, tokenizer, text)
        assert tokenizer.decode(shown.ids).endswith(text)
        special = [token for token in shown.ids if token in tokenizer.all_special_ids]
        assert special == {"gpt": [], "both": [tokenizer.bos_token_id], "bert": [tokenizer.mask_token_id]}[name]


def inputs_of(model, shown) -> dict[str, torch.Tensor]:
    if model.config.is_encoder_decoder:
        return {"input_ids": torch.tensor([shown.source_ids]), "decoder_input_ids": torch.tensor([shown.ids])}
    return {"input_ids": torch.tensor([shown.ids])}


@everything
def test_what_is_shown_is_what_the_model_does(name):
    model, tokenizer = build(name)
    shown = traced(model, tokenizer)
    outputs = model(**inputs_of(model, shown), output_attentions=True)
    torch.testing.assert_close(shown.logits[None], outputs.logits, **CLOSE)
    own = outputs.get("decoder_attentions", outputs.get("attentions"))
    assert len(shown.attention) == model.config.num_hidden_layers
    for mine, recorded in zip(shown.attention, own, strict=True):
        torch.testing.assert_close(mine[None], recorded, **CLOSE)
        assert mine.shape == (model.config.num_attention_heads, len(shown.ids), len(shown.ids))
        hidden = mine.triu(1)
        assert (hidden == 0).all() if model.config.is_causal else (hidden > 0).any()
    for mine, recorded in zip(shown.source_attention, outputs.get("encoder_attentions", ()), strict=True):
        torch.testing.assert_close(mine[None], recorded, **CLOSE)
    for mine, recorded in zip(shown.cross_attention, outputs.get("cross_attentions", ()), strict=True):
        torch.testing.assert_close(mine[None], recorded, **CLOSE)
        assert mine.shape[1:] == (len(shown.ids), len(shown.source_ids))
    for weights in (*shown.attention, *shown.source_attention, *shown.cross_attention):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    assert residual_norms(shown).shape == (model.config.num_hidden_layers + 1, len(shown.ids))


@pytest.mark.parametrize("name", ["english", "oz-encoder", "oz-next-passage"])
def test_the_model_that_is_looked_into_says_what_the_fast_one_says(name):
    model, tokenizer = build(name)
    shown = traced(model, tokenizer)
    fast = load_model(CHECKPOINTS / name)
    assert fast.config._attn_implementation != "eager"
    torch.testing.assert_close(fast(**inputs_of(model, shown)).logits[0], shown.logits, **CLOSE)


@everything
def test_the_lens_behind_the_last_layer_is_the_output(name):
    model, tokenizer = build(name)
    shown = traced(model, tokenizer)
    probabilities, ids = logit_lens(model, shown, top=3)
    own = shown.logits.softmax(-1)
    assert probabilities.shape == ids.shape == (model.config.num_hidden_layers + 1, len(shown.ids), 3)
    torch.testing.assert_close(probabilities[-1], own.topk(3).values, **CLOSE)
    torch.testing.assert_close(own.gather(1, ids[-1]), probabilities[-1], **CLOSE)


@pytest.mark.parametrize("name", ["experts", "capped", "bert"])
def test_the_lens_and_the_norms_behind_a_layer_are_of_the_model_that_ends_there(name):
    model, tokenizer = build(name)
    shown = traced(model, tokenizer)
    cut, states = copy.deepcopy(model), []
    cut.model.layers = cut.model.layers[:2]
    cut.model.config.layer_types = cut.model.config.layer_types[:2]
    cut.model.norm.register_forward_pre_hook(lambda module, args: states.append(args[0][0]))
    probabilities = cut(**inputs_of(model, shown)).logits[0].softmax(-1)
    torch.testing.assert_close(logit_lens(model, shown)[0][2], probabilities.topk(5).values, **CLOSE)
    torch.testing.assert_close(residual_norms(shown)[2], states[0].norm(dim=-1), **CLOSE)


@pytest.mark.parametrize("name", ["experts", "sliding", "bert", "both", "english"])
def test_a_muted_head_gives_nothing_and_the_model_stays_as_it_was(name):
    model, tokenizer = build(name)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    before = traced(model, tokenizer)
    muted = traced(model, tokenizer, muted=[(1, 2), (2, 0)])
    assert (muted.logits - before.logits).abs().max() > 1e-3
    hooked, size = copy.deepcopy(model), model.config.head_dim
    for layer, head in ((1, 2), (2, 0)):

        def silence(module, args, begin=head * size):
            heads = args[0].clone()
            heads[..., begin : begin + size] = 0
            return (heads,)

        stack = hooked.decoder if model.config.is_encoder_decoder else hooked.model
        stack.layers[layer].attention.o_proj.register_forward_pre_hook(silence)
    torch.testing.assert_close(muted.logits, traced(hooked, tokenizer).logits, **CLOSE)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_traces_at_the_same_time_do_not_mix():
    """They share the model's hooks; a list of the process in place of the thread's would hold the layers of both."""
    folder = str(CHECKPOINTS / "poetry-modern")
    texts = ["The moon", "Upon the water of the deep", "O", "And the rest is silence."] * 4
    alone = [trace(*load_traceable(folder), text) for text in texts]
    model, tokenizer = load_traceable.__wrapped__(folder)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: trace(model, tokenizer, text), texts))
    for one, other in zip(alone, together, strict=True):
        assert one.ids == other.ids
        torch.testing.assert_close(torch.stack(one.attention), torch.stack(other.attention), **CLOSE)
        torch.testing.assert_close(one.hidden, other.hidden, **CLOSE)


@pytest.mark.parametrize("name", ["experts", "both", "english"])
def test_without_the_mask_a_decoder_sees_what_comes_after(name):
    model, tokenizer = build(name)
    seen, open_ = traced(model, tokenizer), traced(model, tokenizer, causal=False)
    assert all((layer > 0).all() for layer in open_.attention)
    torch.testing.assert_close(open_.attention[0][:, -1], seen.attention[0][:, -1], **CLOSE)  # it saw all before too
    assert (open_.logits[0] - seen.logits[0]).abs().max() > 1e-3


def test_a_decoder_beside_an_encoder_writes_where_nothing_is_given():
    model, tokenizer = build("oz-next-passage")
    source = "Dorothy looked at the Scarecrow and said that he was the "
    shown = trace(model, tokenizer, "", source)
    ids = tokenizer(source, return_tensors="pt", add_special_tokens=False)["input_ids"]
    written = model.generate(ids, max_new_tokens=63, do_sample=False)[0]
    assert shown.ids == written.tolist()
    assert shown.shown[0] == "<|begin|>"
    again = trace(model, tokenizer, tokenizer.decode(written[1:]), source)
    assert again.ids == shown.ids
    with_more = trace(model, tokenizer, "x" * 70, "y" * 70)
    assert (with_more.left_out, with_more.source_left_out) == (7, 6)
    assert (len(with_more.ids), len(with_more.source_ids)) == (64, 64)


def test_the_last_tokens_of_a_long_text_are_shown():
    for name, longest in (("english", LIMIT), ("poetry-gpt", 64)):
        model, tokenizer = build(name)
        ids = tokenizer(TEXT * 6)["input_ids"]
        shown = trace(model, tokenizer, TEXT * 6)
        assert (shown.ids, shown.left_out) == (ids[-longest:], len(ids) - longest)
        assert len(shown.shown) == len(shown.logits) == longest


def test_tokens_are_shown_so_that_each_can_be_seen():
    pairs = build_bpe_tokenizer("the hat and the hat\n\n" * 20, 270)
    shown = [show_token(pairs, token) for token in pairs("the hat,\n\n 诗")["input_ids"]]
    assert shown == ["the", " hat", ",", "⏎⏎", "␣", "<E8>", "<AF>", "<97>"]
    assert [show_token(CHARACTERS, token) for token in CHARACTERS("o é\n诗<|mask|>")["input_ids"]] == [
        *("o", "␣", "<C3>", "<A9>", "⏎", "诗", "<|mask|>")
    ]


@pytest.mark.parametrize("name", ["experts", "english", "poetry-bigram"])
def test_scores_are_those_of_a_plain_forward_pass(name):
    model, tokenizer = build(name)
    prompt, answer = "The moon", " of 山 and\nOz"
    given, written = (tokenizer(text)["input_ids"] for text in (prompt, answer))
    probabilities = model(torch.tensor([given + written])).logits[0].softmax(-1)[len(given) - 1 : -1].detach()
    scored = score_tokens(model, tokenizer, prompt, answer, top=2)
    assert [token.id for token in scored] == written
    for token, row in zip(scored, probabilities, strict=True):
        assert token.probability == pytest.approx(float(row[token.id]), rel=1e-3)
        assert token.surprisal == pytest.approx(-math.log2(row[token.id]), rel=1e-3)
        assert [other.probability for other in token.alternatives] == pytest.approx(row.topk(2).values, rel=1e-3)
        assert row[token.alternatives[0].id] == row.max()
    assert "".join(answer[token.begin : token.end] for token in scored) == answer
    assert [answer[token.begin : token.end] for token in scored if "<" in token.shown] == ["", "", "山"]
    alone = score_tokens(model, tokenizer, "", prompt)
    assert (alone[0].probability, alone[0].surprisal, alone[0].alternatives) == (None, None, ())
    assert [token.id for token in alone] == given
    assert len(score_tokens(model, tokenizer, "", "T")) == 1


@pytest.mark.parametrize("name", ["experts", "poetry-gpt"])
def test_scores_past_the_context_are_those_of_the_evaluation(name):
    """Window by window they add up to its loss; and of a long prompt the end alone is read."""
    model, tokenizer = build(name)
    text = "".join(sorted(TEXT.replace("诗", "")) * 3)
    scored = score_tokens(model, tokenizer, "", text)
    nats = sum(token.surprisal for token in scored[1:]) * math.log(2)
    assert nats / (len(text) - 1) == pytest.approx(score_text(model, tokenizer, text)[0], rel=1e-4)
    context = model.config.max_position_embeddings
    half = score_tokens(model, tokenizer, "h" * 500 + text[:context], text[context : context + 3])
    assert [token.probability for token in half] == pytest.approx(
        [token.probability for token in score_tokens(model, tokenizer, text[:context], text[context : context + 3])]
    )


@pytest.mark.parametrize("name", ["poetry-modern", "poetry-gpt", "poetry-bigram", "experts"])
def test_the_cache_grows_by_its_keys_and_values(name):
    model, tokenizer = build(name)
    config = model.config
    a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4  # bytes, in float32
    steps = list(cache_growth(model, tokenizer, "The moon", 5))
    assert [step.tokens for step in steps] == [8, 9, 10, 11, 12]
    assert [step.bytes for step in steps] == [a_token * step.tokens for step in steps]
    assert all(step.cached_ms > 0 and step.uncached_ms > 0 for step in steps)
    context = config.max_position_embeddings
    assert [step.tokens for step in cache_growth(model, tokenizer, "x" * 200, 3)] == [context - 2, context - 1, context]
    assert [step.tokens for step in cache_growth(model, tokenizer, "The", 999)] == list(range(1, context + 1))


@pytest.mark.parametrize("name", ["english", "oz-encoder", "oz-next-passage"])
def test_the_map_keeps_as_much_of_the_variance_as_it_says(name):
    model, tokenizer = build(name)
    shown, again = (
        embedding_map(model, tokenizer, size=10_000),
        embedding_map(*load_traceable(str(CHECKPOINTS / name)), 9),
    )
    assert shown.points.shape == (len(shown.ids), 2)
    assert shown.shown[:9] == again.shown == [show_token(tokenizer, token) for token in again.ids]
    assert torch.equal(shown.points[:9], again.points)
    embeddings = model.get_input_embeddings().weight[shown.ids].detach()
    variances = embeddings.var(0).sum()
    assert (shown.points.var(0) / variances).tolist() == pytest.approx(shown.shares, rel=1e-3)
    directions = (embeddings - embeddings.mean(0)).T @ shown.points
    assert (directions.amax(0) == directions.abs().amax(0)).all()  # the sign is always the same
    assert 1 > shown.shares[0] > shown.shares[1] > 0
    assert "e" in shown.shown
    assert not any("<" in text and len(text) > 1 for text in shown.shown)


def test_written_with_and_without_a_head():
    model, tokenizer = build("poetry-modern")
    ids = tokenizer("The moon", return_tensors="pt")["input_ids"]
    own = tokenizer.decode(model.generate(ids, max_new_tokens=30, do_sample=False)[0, ids.shape[1] :])
    one, other = write_with_and_without(model, tokenizer, "The moon", [(0, 1)], 30)
    assert own == one != other
    assert len(write_with_and_without(model, tokenizer, "The moon", [], 100)[1]) == 100  # past its context
    model, tokenizer = build("oz-next-passage")
    source = "Dorothy looked at the Scarecrow"
    one, other = write_with_and_without(model, tokenizer, "The", [(0, 1)], 20, source)
    assert one != other
    assert len(one) == 20
    begun = write_with_and_without(model, tokenizer, "", [], 20, source)[0]
    assert "".join(trace(model, tokenizer, "", source).shown[1:21]) == begun.replace("\n", "⏎").replace(" ", "␣")
    assert len(write_with_and_without(model, tokenizer, "x" * 99, [], 99, source)[0]) == 1  # all that is left


def test_a_checkpoint_is_loaded_once_and_is_none_that_writes(tmp_path):
    model, _ = build("poetry-gpt")
    assert build("poetry-gpt")[0] is model
    assert model.config._attn_implementation == "eager"
    with pytest.raises(UserError, match=r"nowhere cannot be loaded.*pick another one"):
        load_traceable(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "call", "words"),
    [
        ("poetry-gpt", lambda *m: trace(*m, ""), "no text"),
        ("poetry-gpt", lambda *m: trace(*m, "a", "source"), "not an encoder-decoder"),
        ("oz-encoder", lambda *m: trace(*m, "a", "source"), "not an encoder-decoder"),
        ("oz-next-passage", lambda *m: trace(*m, "a"), "no source"),
        ("poetry-gpt", lambda *m: trace(*m, "a", muted=[(4, 0)]), "no head 1 in layer 5: this model has 4 layers"),
        (
            "poetry-gpt",
            lambda *m: trace(*m, "a", muted=[(0, 4)]),
            "no head 5 in layer 1: .* 4 heads, .* from 1",
        ),
        ("poetry-gpt", lambda *m: trace(*m, "half \ud83d"), "half a character"),
        ("oz-next-passage", lambda *m: trace(*m, "", "half \ud83d"), "half a character"),
        ("poetry-bigram", lambda *m: write_with_and_without(*m, "a", [(0, 0)], 5), "has no attention"),
        ("oz-encoder", lambda *m: write_with_and_without(*m, "a", [], 5), "An encoder .* writes nothing"),
        ("poetry-gpt", lambda *m: write_with_and_without(*m, "", [], 5), "no text"),
        ("poetry-gpt", lambda *m: score_tokens(*m, "a", ""), "no text"),
        ("oz-encoder", lambda *m: score_tokens(*m, "a", "b"), "needs a decoder-only model"),
        ("oz-next-passage", lambda *m: next(cache_growth(*m, "a", 2)), "needs a decoder-only model"),
        ("poetry-gpt", lambda *m: next(cache_growth(*m, "", 2)), "no text"),
    ],
)
def test_what_cannot_be_shown_is_told(name, call, words):
    with pytest.raises(UserError, match=words):
        call(*build(name))


def test_a_model_that_would_hide_something_is_refused():
    with pytest.raises(AssertionError, match="make_traceable"):
        trace(load_model(CHECKPOINTS / "poetry-gpt"), AutoTokenizer.from_pretrained(CHECKPOINTS / "poetry-gpt"), "a")
