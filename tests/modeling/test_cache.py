"""The cache is found under every name, and the text that is generated never depends on it."""

import inspect
import logging

import pytest
import torch
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutput
from transformers.utils import logging as transformers_logging

from modeling import OzymandiasForCausalLM, OzymandiasForConditionalGeneration, OzymandiasForMaskedLM, preset_config
from modeling.cache import CACHE_NAME, find_cache_name
from tests.conftest import VOCAB, ids, random_model

GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def build(**fields):
    return random_model(preset_config("modern", vocab_size=VOCAB, **TOKENS, **fields))


@pytest.mark.parametrize("name", ["past_key_values", "cache", "name_of_a_later_release"])
@pytest.mark.parametrize("stack", ["decoder", "decoder with head", "encoder-decoder"])
def test_a_cache_is_used_under_any_name(name, stack):
    model, x, start = build(is_encoder_decoder=stack == "encoder-decoder"), ids(2, 9), {}
    inputs = "input_ids"
    if stack == "encoder-decoder":
        inputs, start = "decoder_input_ids", {"encoder_outputs": model.encoder(ids(2, 5))}
    elif stack == "decoder":
        model = model.model
    whole = model(**{inputs: x}, **start)[0]
    first = model(**{inputs: x[:, :8]}, **start, use_cache=True)
    cache = first[CACHE_NAME]
    last = model(**{inputs: x[:, 8:]}, **start, **{name: cache}, use_cache=True)
    torch.testing.assert_close(last[0], whole[:, 8:], atol=5e-5, rtol=1e-4)
    assert last[CACHE_NAME] is cache


def test_a_transformers_without_a_cache_says_so():
    with pytest.raises(ImportError, match=r"transformers .*CausalLMOutput has no field of type Cache"):
        find_cache_name(CausalLMOutput)


def test_two_caches_are_refused():
    with pytest.raises(ValueError, match=r"past_key_values.*other|other.*past_key_values"):
        build()(ids(1, 4), past_key_values=DynamicCache(), other=DynamicCache())


def test_an_encoder_refuses_a_cache():
    encoder = random_model(preset_config("modern", vocab_size=VOCAB, **TOKENS, is_causal=False))
    assert isinstance(encoder, OzymandiasForMaskedLM)
    with pytest.raises(ValueError, match="encoder"):
        encoder(ids(1, 4), any_name=DynamicCache())


@pytest.mark.parametrize("architecture", [OzymandiasForCausalLM, OzymandiasForConditionalGeneration])
def test_generate_still_sees_the_arguments(architecture):
    """transformers reads the signature to learn which arguments a model takes."""
    taken = inspect.signature(architecture.forward).parameters
    assert {"attention_mask", "position_ids", "past_key_values", "use_cache"} <= taken.keys()


@pytest.mark.parametrize("fields", [{}, {"is_encoder_decoder": True}, {"is_causal": False}], ids=str)
def test_no_warning_with_or_without_cache(fields, caplog, recwarn):
    transformers_logging.get_logger("transformers").addHandler(caplog.handler)  # it does not propagate its records
    caplog.set_level(logging.WARNING)
    forget_warnings_shown_once()
    model = build(**fields)
    if "is_causal" in fields:
        model(ids(2, 8), attention_mask=torch.ones(2, 8))
    for use_cache in (True, False) if model.can_generate() else ():
        model.generate(ids(2, 8), attention_mask=torch.ones(2, 8), use_cache=use_cache, **GREEDY)
    transformers_logging.get_logger("transformers").removeHandler(caplog.handler)
    assert not caplog.records
    assert not [str(w.message) for w in recwarn if issubclass(w.category, FutureWarning | UserWarning)]


def forget_warnings_shown_once():
    for method in ("warning_once", "info_once"):
        if cached := getattr(getattr(logging.Logger, method, None), "cache_clear", None):
            cached()


def test_a_mixture_with_router_logits_writes_into_a_static_cache():
    model = build(feed_forward_type="moe", num_local_experts=4, output_router_logits=True)
    expected = model.generate(ids(2, 8), use_cache=False, **GREEDY)
    assert torch.equal(model.generate(ids(2, 8), cache_implementation="static", **GREEDY), expected)
