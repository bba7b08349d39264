"""The encoder-decoder: what users of transformers expect from a model that reads a source and writes a target."""

import math

import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, BatchEncoding, DataCollatorForSeq2Seq

from modeling import OzymandiasForConditionalGeneration, OzymandiasModel, preset_config
from modeling.cache import CACHE_NAME
from tests.conftest import VOCAB, ids, random_model
from tokenizer import build_character_tokenizer

CLOSE = {"atol": 2e-5, "rtol": 1e-4}
TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SHAPES = {
    "modern": ("modern", {"num_hidden_layers": 2, "num_encoder_layers": 3}),
    "2017": ("gpt", {"num_hidden_layers": 2, "norm_placement": "post", "position_type": "sinusoidal"}),
}
shapes = pytest.mark.parametrize("shape", SHAPES)
GREEDY = {"max_new_tokens": 15, "do_sample": False, "eos_token_id": None}


def build(shape: str, implementation: str = "sdpa", **fields) -> OzymandiasForConditionalGeneration:
    preset, more = SHAPES[shape]
    config = preset_config(preset, vocab_size=VOCAB, is_encoder_decoder=True, **TOKENS, **{**more, **fields})
    return random_model(config, implementation)


def source_mask() -> torch.Tensor:
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 7:] = 0
    return mask


@shapes
def test_loss_starts_near_the_logarithm_of_the_vocabulary_and_reaches_every_parameter(shape):
    torch.manual_seed(0)
    loss = OzymandiasForConditionalGeneration(build(shape).config)(ids(8, 20), labels=ids(8, 30)).loss.detach()
    assert abs(float(loss) - math.log(VOCAB)) < 0.15
    model = build(shape).train()
    model(ids(2, 12), labels=ids(2, 9)).loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@shapes
def test_the_target_is_seen_up_to_each_position_and_the_source_whole(shape):
    model = build(shape)
    source, target = ids(1, 12), ids(1, 10, seed=2)
    before = model(source, decoder_input_ids=target).logits
    changed = target.clone()
    changed[0, 6] = target[0, 6] % 50 + 4
    differs = (model(source, decoder_input_ids=changed).logits - before).abs().amax(-1)[0] > 1e-6
    assert not differs[:6].any()
    assert differs[6]
    source[0, -1] = source[0, -1] % 50 + 4
    assert ((model(source, decoder_input_ids=target).logits - before).abs().amax(-1) > 1e-6).all()


@shapes
def test_eager_equals_sdpa_and_padding_changes_nothing(shape):
    eager, sdpa = build(shape, "eager"), build(shape)
    source, target = ids(2, 12), ids(2, 9, seed=2)
    one, other = (m(source, source_mask(), decoder_input_ids=target).logits for m in (eager, sdpa))
    torch.testing.assert_close(one, other, **CLOSE)
    torch.testing.assert_close(other[1:], sdpa(source[1:, :7], decoder_input_ids=target[1:]).logits, **CLOSE)


@shapes
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
def test_generation_is_the_same_with_and_without_cache(shape, options):
    model = build(shape)
    beams = {name: value for name, value in options.items() if name == "num_beams"}
    inputs = {"input_ids": ids(2, 12), "attention_mask": source_mask()}
    uncached = model.generate(**inputs, use_cache=False, **GREEDY, **beams)
    assert torch.equal(model.generate(**inputs, **GREEDY, **options), uncached)
    assert uncached[:, 0].tolist() == [0, 0]


@shapes
def test_cached_equals_uncached_token_by_token(shape):
    model = build(shape)
    source, target = ids(2, 12), ids(2, 10, seed=2)
    read = model.encoder(source, source_mask())
    cache, steps = None, []
    for t in range(10):
        outputs = model(
            encoder_outputs=read,
            attention_mask=source_mask(),
            decoder_input_ids=target[:, t : t + 1],
            past_key_values=cache,
            use_cache=True,
        )
        cache = outputs[CACHE_NAME]
        steps.append(outputs.logits)
    expected = model(source, source_mask(), decoder_input_ids=target).logits
    torch.testing.assert_close(torch.cat(steps, 1), expected, **CLOSE)


@shapes
def test_recorded_outputs(shape):
    model = build(shape, "eager")
    outputs = model(ids(2, 12), labels=ids(2, 9), output_hidden_states=True, output_attentions=True)
    encoder_layers = model.config.num_encoder_layers
    assert [tuple(h.shape) for h in outputs.encoder_hidden_states] == [(2, 12, 128)] * (encoder_layers + 1)
    assert [tuple(h.shape) for h in outputs.decoder_hidden_states] == [(2, 9, 128)] * 3
    assert [tuple(a.shape) for a in outputs.encoder_attentions] == [(2, 4, 12, 12)] * encoder_layers
    assert [tuple(a.shape) for a in outputs.decoder_attentions] == [(2, 4, 9, 9)] * 2
    assert [tuple(a.shape) for a in outputs.cross_attentions] == [(2, 4, 9, 12)] * 2
    as_tuple = model(ids(2, 12), labels=ids(2, 9), return_dict=False)
    torch.testing.assert_close(as_tuple[0], outputs.loss)
    torch.testing.assert_close(as_tuple[1], outputs.logits)


@shapes
def test_saved_and_loaded(shape, tmp_path):
    model = build(shape)
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    source, target = ids(1, 8), ids(1, 6)
    assert torch.equal(loaded.eval()(source, labels=target).logits, model(source, labels=target).logits)
    tied = {w.data_ptr() for w in (loaded.encoder.embed_tokens.weight, loaded.lm_head.weight)}
    assert tied == {loaded.decoder.embed_tokens.weight.data_ptr()}
    with pytest.raises(ValueError, match="AutoModelForSeq2SeqLM"):
        AutoModel.from_pretrained(tmp_path)


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, checkpointed = build("modern").train(), build("modern").train()
    checkpointed.gradient_checkpointing_enable()
    for model in (plain, checkpointed):
        model(ids(2, 10), labels=ids(2, 10)).loss.backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_labels_are_moved_on_by_one_for_the_decoder_also_by_the_collator():
    model = build("modern")
    labels = torch.tensor([[5, 6, 7], [8, 1, -100]])
    assert model.prepare_decoder_input_ids_from_labels(labels).tolist() == [[0, 5, 6], [0, 8, 1]]
    assert labels.tolist() == [[5, 6, 7], [8, 1, -100]]
    tokenizer = build_character_tokenizer("the moon")
    tokenizer.padding_side = "right"
    features = [{"input_ids": [5, 6], "labels": [7, 8, 9]}, {"input_ids": [5], "labels": [7]}]
    batch = DataCollatorForSeq2Seq(tokenizer, model)(features)
    assert isinstance(batch, BatchEncoding)
    assert batch["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 7, 2]]
    assert model(**batch).loss.isfinite()


def test_the_ablation_does_not_see_the_source():
    model = build("modern", add_cross_attention=False)
    target = ids(2, 9)
    one, other = (model(ids(2, 12, seed=seed), labels=target).logits for seed in (3, 4))
    assert torch.equal(one, other)
    assert torch.equal(model.generate(ids(2, 12), **GREEDY), model.generate(ids(2, 12), use_cache=False, **GREEDY))


def test_resized_embeddings_are_shared_by_both_stacks():
    model = build("modern")
    before = model(ids(1, 5), labels=ids(1, 5)).logits
    model.resize_token_embeddings(VOCAB + 7)
    after = model(ids(1, 5), labels=ids(1, 5)).logits
    torch.testing.assert_close(after[..., :VOCAB], before, **CLOSE)
    assert model(torch.full((1, 4), VOCAB + 6), labels=ids(1, 5)).logits.shape[-1] == VOCAB + 7


def test_what_is_missing_is_said():
    model = build("modern")
    with pytest.raises(ValueError, match="encoder_hidden_states"):
        model.decoder(ids(1, 4))
    with pytest.raises(ValueError, match="exactly one"):
        model(ids(1, 4))
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id"):
        model(ids(1, 4), labels=ids(1, 4))
    with pytest.raises(ValueError, match="is_encoder_decoder=True"):
        OzymandiasForConditionalGeneration(preset_config("gpt"))
    with pytest.raises(ValueError, match="two stacks"):
        OzymandiasModel(model.config)
