"""What else users try on a decoder: attention implementations, caches, decoding, precisions, and other libraries."""

import importlib.util

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    TextIteratorStreamer,
    Trainer,
    TrainingArguments,
    pipeline,
)

from modeling import OzymandiasForCausalLM, preset_config
from tests.conftest import VOCAB, ids, random_model
from tests.forks import run_forked
from tokenizer import build_character_tokenizer

CLOSE = {"atol": 5e-5, "rtol": 1e-4}
GREEDY = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def build(preset: str = "modern", implementation: str = "sdpa", **fields):
    """A model whose weights are all random and large enough to tell right from wrong."""
    config = preset_config(preset, vocab_size=VOCAB, **TOKENS, **fields)
    return random_model(config, implementation)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{}, {"sliding_window": 4}, {"is_encoder_decoder": True}], ids=["full", "sliding", "encoder-decoder"]
)
def test_flex_attention_agrees(fields):
    fields = {**fields, "num_hidden_layers": 1}  # because compiling takes long
    flex, sdpa = build("modern", "flex_attention", **fields), build("modern", **fields)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    inputs = {"input_ids": ids(2, 12), "attention_mask": mask}
    if "is_encoder_decoder" in fields:
        inputs["decoder_input_ids"] = ids(2, 9, seed=2)
    with torch.no_grad():  # on a CPU it has no backward
        one, other = flex(**inputs).logits, sdpa(**inputs).logits
    if "is_encoder_decoder" not in fields:
        one, other = one[mask.bool()], other[mask.bool()]
    torch.testing.assert_close(one, other, **CLOSE)


@pytest.mark.parametrize("implementation", ["dynamic", "static", "sliding_window"])
def test_caches_of_every_kind_give_the_same_text(implementation):
    model = build()
    expected = model.generate(ids(2, 8), use_cache=False, **GREEDY)
    assert torch.equal(model.generate(ids(2, 8), cache_implementation=implementation, **GREEDY), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offloads from a GPU")
@pytest.mark.parametrize("implementation", ["offloaded", "offloaded_static"])
def test_offloaded_caches_give_the_same_text(implementation):
    model = build().cuda()
    expected = model.generate(ids(2, 8).cuda(), use_cache=False, **GREEDY)
    assert torch.equal(model.generate(ids(2, 8).cuda(), cache_implementation=implementation, **GREEDY), expected)


@pytest.mark.skipif(not importlib.util.find_spec("optimum"), reason="needs optimum-quanto")
def test_quantized_cache_writes():
    config = {"backend": "quanto", "nbits": 4, "q_group_size": 16, "residual_length": 4}
    written = build().generate(ids(2, 8), cache_implementation="quantized", cache_config=config, **GREEDY)
    assert written.shape == (2, 20)


@pytest.mark.parametrize(
    "options",
    [{"assistant_model": 1}, {"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 3}],
    ids=["assisted", "prompt-lookup", "prefill-in-parts"],
)
def test_faster_decoding_writes_the_same_text(options):
    if "assistant_model" in options:
        options = {"assistant_model": build(num_hidden_layers=1)}
    model = build()
    assert torch.equal(model.generate(ids(1, 8), **options, **GREEDY), model.generate(ids(1, 8), **GREEDY))


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="waits for ever on a CPU in 5.17")
def test_continuous_batching_writes_the_same_text():
    model = build()
    expected = model.generate(ids(2, 8), **GREEDY)[:, 8:]
    config = model.generation_config
    config.update(**{**GREEDY, "eos_token_id": 1})
    room = transformers.ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)  # the default takes gigabytes
    written = model.generate_batch(ids(2, 8).tolist(), generation_config=config, continuous_batching_config=room)
    for row, request in zip(expected, written.values(), strict=True):
        assert request.generated_tokens == row[: len(request.generated_tokens)].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7, "top_p": 0.9, "top_k": 10},
        {"min_p": 0.1, "typical_p": 0.9},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"num_beams": 3},
        {"num_return_sequences": 2},
    ],
    ids=lambda options: "-".join(options),
)
def test_sampling_is_repeatable(options):
    model, written = build(), []
    for _ in range(2):
        torch.manual_seed(5)
        written.append(model.generate(ids(2, 8), max_new_tokens=10, do_sample=True, **options))
    assert torch.equal(*written)


def test_generation_returns_what_is_asked_for():
    outputs = build("modern", "eager").generate(
        ids(2, 8),
        return_dict_in_generate=True,
        output_scores=True,
        output_attentions=True,
        output_hidden_states=True,
        **GREEDY,
    )
    assert len(outputs.scores) == len(outputs.attentions) == len(outputs.hidden_states) == 12
    assert outputs.attentions[-1][0].shape == (2, 4, 1, 19)


def test_generation_from_embeddings_is_that_from_ids():
    model = build()
    embeddings = model.get_input_embeddings()(ids(2, 8))
    assert torch.equal(model.generate(inputs_embeds=embeddings, **GREEDY), model.generate(ids(2, 8), **GREEDY)[:, 8:])


def test_streamer_stop_string_and_pipeline(tmp_path):
    tokenizer = build_character_tokenizer("the moon upon the water")
    tokens = {name: getattr(tokenizer, name) for name in TOKENS}
    torch.manual_seed(0)
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=len(tokenizer), **tokens)).eval()
    with torch.no_grad():
        model.lm_head.weight.normal_()
        model.lm_head.weight[:259].zero_()  # only characters: a streamer may cut one in the middle of its bytes
    inputs = tokenizer("the moon", return_tensors="pt")
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    written = tokenizer.decode(model.generate(**inputs, streamer=streamer, **GREEDY)[0])
    assert "".join(streamer) == written.removeprefix("the moon")
    stop = written[10:12]
    stopped = tokenizer.decode(model.generate(**inputs, stop_strings=[stop], tokenizer=tokenizer, **GREEDY)[0])
    assert written.startswith(stopped)
    assert stopped.endswith(stop)
    assert stop not in stopped[8:-1]
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write = pipeline("text-generation", model=str(tmp_path), tokenizer=AutoTokenizer.from_pretrained(tmp_path))
    assert write("the moon", max_new_tokens=12, do_sample=False)[0]["generated_text"] == written


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["gpt", "modern"])
def test_exports_with_a_length_that_changes(preset):
    model = build(preset)
    length = torch.export.Dim("length", min=2, max=64)
    shapes = {"input_ids": {1: length}, "use_cache": None}
    exported = torch.export.export(model, (), {"input_ids": ids(2, 8), "use_cache": False}, dynamic_shapes=shapes)
    got = exported.module()(input_ids=ids(2, 20), use_cache=False).logits
    torch.testing.assert_close(got, model(ids(2, 20)).logits, **CLOSE)


@pytest.mark.parametrize("fields", [{}, {"feed_forward_type": "moe"}, {"is_encoder_decoder": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_near_and_trains(dtype, fields):
    """A forward pass in half precision differs only by rounding, and its gradients are finite."""
    full, half = build(**fields), build(**fields).to(dtype)
    inputs = {"input_ids": ids(2, 12), "labels": ids(2, 12)}
    with torch.no_grad():
        exact = full(**inputs).logits.log_softmax(-1)
        rounded = half(**inputs).logits.float().log_softmax(-1)
    assert half(**inputs).logits.dtype == dtype
    if "feed_forward_type" not in fields:  # rounding can send a token to another expert
        assert (exact - rounded).abs().mean() < (0.2 if dtype == torch.bfloat16 else 0.03)
    half.train()(**inputs).loss.backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())
    generated = half.eval().generate(ids(2, 8), **GREEDY)
    assert generated.shape[0] == 2


def test_loads_onto_devices_and_disk(tmp_path):
    model = build()
    expected = model.generate(ids(2, 8), **GREEDY)
    model.save_pretrained(tmp_path)
    parts = ["embed_tokens", "positions", "embedding_output", "norm", *(f"layers.{layer}" for layer in range(4))]
    on_disk = {"layers.1", "layers.2"}
    device_map = {f"model.{part}": "disk" if part in on_disk else "cpu" for part in parts} | {"lm_head": "cpu"}
    for where in ("auto", device_map):
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=where, offload_folder=tmp_path / "disk")
        assert torch.equal(loaded.generate(ids(2, 8), **GREEDY), expected)


def test_plans_name_modules_that_are_there():
    model = build(feed_forward_type="gated")
    names = {name for name, _ in model.named_modules()}
    for plan in (model.config.base_model_tp_plan, model.config.base_model_pp_plan):
        for pattern in plan:
            assert f"model.{pattern.replace('*', '0')}" in names, pattern


@pytest.mark.slow
def test_tensor_parallel_on_two_processes_gives_the_same_logits(tmp_path):
    pytest.importorskip("transformers.distributed")
    build().save_pretrained(tmp_path / "model")
    program = tmp_path / "program.py"
    program.write_text(f"""
import torch
import modeling
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig
ids = torch.arange(3, 20)[None]
expected = AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r}).eval()(ids).logits
config = DistributedConfig(tp_plan="auto", tp_size=2)
model = AutoModelForCausalLM.from_pretrained({str(tmp_path / "model")!r}, distributed_config=config).eval()
with torch.no_grad():
    assert model.model.layers[0].attention.q_proj.weight.to_local().shape == (64, 128)
    logits = model(ids, use_cache=False).logits
    logits = logits.full_tensor() if hasattr(logits, "full_tensor") else logits
    assert (logits - expected).abs().max() < 1e-4
""")
    run_forked(program, processes=2)


def test_lora_on_all_linear_layers_learns_and_is_saved(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", r=4, init_lora_weights=False)
    model = peft.get_peft_model(build(), config).eval()
    adapted = {name.split(".")[-1] for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    model(ids(2, 9), labels=ids(2, 9)).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(build(), tmp_path).eval()
    torch.testing.assert_close(loaded(ids(1, 9)).logits, model(ids(1, 9)).logits)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(ids(1, 9)).logits, model(ids(1, 9)).logits, **CLOSE)


def test_trainer_trains_saves_and_evaluates(tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in ids(32, 16)]
    torch.manual_seed(0)
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=VOCAB, **TOKENS))
    arguments = TrainingArguments(
        tmp_path,
        max_steps=20,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=2,
        learning_rate=5e-3,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 0.5
    trainer.save_model(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(loaded(ids(1, 9)).logits, model.eval()(ids(1, 9)).logits)


def test_gradients_reach_what_is_returned():
    """Hidden states and attentions belong to the graph of gradients: they are not copies."""
    outputs = build("modern", "eager").train()(ids(2, 9), output_hidden_states=True, output_attentions=True)
    kept = [*outputs.hidden_states[:-1], *outputs.attentions]
    for tensor in kept:
        tensor.retain_grad()
    outputs.logits.sum().backward()
    assert all(tensor.grad is not None for tensor in kept)


def test_a_decoder_looks_both_ways_where_a_call_says_so():
    model = build()
    one, other = ids(1, 12), ids(1, 12)
    other[0, 11] = one[0, 11] % 50 + 4
    assert torch.equal(model(one).logits[:, :11], model(other).logits[:, :11])
    both = [model(x, is_causal=False, use_cache=False).logits for x in (one, other)]
    assert not torch.allclose(both[0][:, 0], both[1][:, 0])


def test_trl_fine_tunes_a_dense_model(tmp_path):
    """TRL expects a load-balancing loss from any model whose config has the fields of a mixture."""
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    tokenizer = build_character_tokenizer("the moon upon the water")
    tokens = {name: getattr(tokenizer, name) for name in TOKENS}
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=len(tokenizer), **tokens))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    config = trl.SFTConfig(
        tmp_path, max_steps=2, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True
    )
    rows = datasets.Dataset.from_dict({"text": ["the moon upon the water"] * 8})
    trl.SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer).train()
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())
