import pytest
import torch

from modeling import PRESETS, OzymandiasForCausalLM, preset_config
from modeling.interop.verify import TOLERANCE, as_table, verify
from modeling.modeling_ozymandias import model_class
from tests.conftest import PROJECT
from tests.forks import run_forked


def texts() -> list[torch.Tensor]:
    return [torch.randint(3, 50, (1, length)) for length in (5, 12, 30)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_passes(preset):
    rows = verify(OzymandiasForCausalLM(preset_config(preset, vocab_size=50)), texts())
    assert len(rows) == 7
    assert all(value <= TOLERANCE for _, value in rows if not isinstance(value, str))
    assert ("Qwen3ForCausalLM" in as_table(rows)) == (preset == "modern")


@pytest.mark.parametrize(
    ("fields", "rows"),
    [({"is_causal": False}, 6), ({"is_encoder_decoder": True, "bos_token_id": 0}, 7)],
    ids=["encoder", "encoder-decoder"],
)
def test_other_architectures_pass(fields, rows):
    config = preset_config("modern", vocab_size=50, **fields)
    certificate = verify(model_class(config)(config), texts())
    assert len(certificate) == rows
    assert all(value <= TOLERANCE for _, value in certificate if not isinstance(value, str))


def test_a_broken_equivalence_shows():
    """An eager attention that ignores its mask, as a fallback of sdpa once did (transformers#30978)."""
    import modeling.attention as attention

    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=50))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3)
    right = attention.eager_attention_forward
    nothing = torch.zeros(1)  # hides no key
    attention.eager_attention_forward = lambda module, q, k, v, mask, **more: right(module, q, k, v, nothing, **more)
    try:
        rows = dict(verify(model, texts()))
    finally:
        attention.eager_attention_forward = right
    assert rows["eager and sdpa attention"] > TOLERANCE
    assert rows["cached and uncached"] <= TOLERANCE


def test_command():
    said = run_forked("-m", "modeling.interop.verify", PROJECT / "space" / "checkpoints" / "poetry-modern").stdout
    assert "eager and sdpa attention" in said
    missing = run_forked("-m", "modeling.interop.verify", "/no/such/folder", check=False)
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr
