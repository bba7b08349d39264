"""The fast kernels are chosen by the machine, compute the same, and are put back."""

import importlib
import shutil
from types import SimpleNamespace

import pytest
import torch

from modeling import OzymandiasForCausalLM, preset_config
from tests.conftest import PROJECT, VOCAB, ids
from tokenizer import build_character_tokenizer
from training.command import UserError
from training.engine import kernels
from training.engine.attention import CAUSAL_CHUNKS
from training.engine.kernels import choose_kernels, compiled
from training.engine.loop import Run, train
from training.engine.recipe import load_recipe
from training.evaluation.search import embed
from training.loading import choose_device

AMD = {"cpu_name": "AMD EPYC", "avx512_f": True}
CPU = torch.device("cpu")
CHECKPOINTS = PROJECT / "space" / "checkpoints"


def test_the_accelerator_is_chosen_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert choose_device(None) == CPU
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert choose_device(None) == torch.device("mps")
    assert choose_device("cpu") == CPU
    with pytest.raises(UserError, match=r"--device nonsense cannot be used here.*--device cpu"):
        choose_device("nonsense")


class Reached(Exception):
    """The work began, on this device."""


@pytest.mark.parametrize(
    ("module", "worker", "arguments"),
    [
        ("evaluate", "training.evaluate.score_text", ["--corpus", "sampler"]),
        ("evaluation.search", "training.evaluation.search.passage_vectors", ["--corpus", "sampler", "--checkpoint"]),
        ("evaluation.quatrains", "training.evaluation.sampling.stream_text", []),
    ],
)
def test_commands_move_the_model_to_the_device(trained, monkeypatch, module, worker, arguments):
    """The meta device stands for a GPU, which the machine of the tests may lack."""
    main = importlib.import_module(f"training.{module}").main
    checkpoint = CHECKPOINTS / "oz-encoder" if module == "evaluation.search" else trained / "best"
    command = (
        ["the moon", *arguments, str(checkpoint)] if module == "evaluation.search" else [str(checkpoint), *arguments]
    )

    def work(model, *args, **options):
        raise Reached(model.device.type)

    monkeypatch.setattr(worker, work)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    for options, device in (([], "meta"), (["--device", "cpu"], "cpu")):
        monkeypatch.setattr("sys.argv", [module, *command, *options])
        with pytest.raises(Reached, match=device):
            main()


def test_passages_are_read_on_the_models_device_and_their_vectors_come_back():
    read = []

    def encoder(*inputs):
        read.extend(tensor.device.type for tensor in inputs)
        return (torch.zeros(*inputs[0].shape, 8),)

    config = preset_config("gpt", vocab_size=300)
    model = SimpleNamespace(config=config, device=torch.device("meta"), base_model=encoder)
    (vectors,) = embed(model, build_character_tokenizer("the moon"), ["the moon"], progress=False)
    assert read == ["meta", "meta"]
    assert (vectors.shape, vectors.device) == ((2, 8), CPU)


def small_model() -> OzymandiasForCausalLM:
    torch.manual_seed(0)
    return OzymandiasForCausalLM(preset_config("modern", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2))


@pytest.mark.parametrize(
    ("abilities", "context", "precision", "attention"),
    [
        (AMD, 64, "medium", CAUSAL_CHUNKS),
        (AMD, 2048, "highest", "sdpa"),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, 64, "highest", CAUSAL_CHUNKS),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_f": True}, 64, "highest", CAUSAL_CHUNKS),
        ({}, 64, "highest", CAUSAL_CHUNKS),  # a Mac, or a torch that does not tell
    ],
)
def test_the_kernels_follow_from_the_machine(monkeypatch, abilities, context, precision, attention):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    model = small_model()
    choose_kernels(model, CPU, context)
    assert torch.get_float32_matmul_precision() == precision
    assert model.config._attn_implementation == attention


def test_the_chosen_kernels_compute_the_same(monkeypatch):
    monkeypatch.setattr(kernels, "other_than_intel_with_avx512", lambda: True)
    model, batch = small_model(), ids(3, 48)
    plain = model(input_ids=batch, labels=batch)
    choose_kernels(model, CPU, context=48)
    chosen = model(input_ids=batch, labels=batch)
    assert (chosen.logits - plain.logits).abs().max() < 1e-5
    assert abs(chosen.loss - plain.loss) < 1e-6


def test_training_puts_the_precision_back(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "other_than_intel_with_avx512", lambda: True)
    seen = []
    recipe = load_recipe("smoke", [("steps", "2"), ("sample_length", "1")])
    monkeypatch.setattr(
        "training.engine.loop.Run.evaluate",
        lambda self: seen.append(torch.get_float32_matmul_precision()),
        raising=True,
    )
    train(recipe, tmp_path / "run")
    assert seen[0] == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_gradient_checkpointing_changes_no_loss(tmp_path):
    losses = []
    for value in ("false", "true"):
        run = Run(load_recipe("smoke", [("gradient_checkpointing", value)]), tmp_path / value)
        run.start()
        losses.append([float(run.step()) for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, kernels.COMPILERS)), reason="there is no C++ compiler")
def test_a_compiled_run_has_the_same_losses(tmp_path):
    losses = []
    for value in ("false", "true"):
        # One layer: compiling is what takes the time.
        run = Run(load_recipe("smoke", [("compile", value), ("model.num_hidden_layers", "1")]), tmp_path / value)
        run.start()
        losses.append([float(run.step()) for _ in range(5)])
        assert not any("_orig_mod" in name for name in run.model.state_dict())
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_without_a_compiler_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"g\+\+"):
        compiled(small_model(), CPU)
