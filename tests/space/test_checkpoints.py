"""The checkpoints in the repository are what their records say, and complete."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, DynamicCache
from transformers.dynamic_module_utils import get_relative_import_files

from modeling.interop.verify import TOLERANCE, certify
from modeling.loading import load_model
from space.evolution import LABORATORY
from space.writer import CHECKPOINTS, EVOLUTION
from tests.conftest import PROJECT
from training.data.corpora import load_corpus
from training.evaluation.scores import score_text

TUNED = ["english", "chinese"]  # in two stages
SHOWN = ["poetry-growth", *(f"lab-{kind}" for kind in LABORATORY)]  # in the tab for growing
DECODERS = [f"poetry-{step}" for step in EVOLUTION] + TUNED + SHOWN
OTHERS = {"oz-encoder": "AutoModelForMaskedLM", "oz-next-passage": "AutoModelForSeq2SeqLM"}
NAMES = [*DECODERS, *OTHERS]
every = pytest.mark.parametrize("name", NAMES)
decoders = pytest.mark.parametrize("name", DECODERS)


def load(name: str, **options):
    return load_model(CHECKPOINTS / name, **options).eval()


def record_of(name: str) -> dict:
    return json.loads((CHECKPOINTS / name / "run.json").read_text(encoding="utf-8"))


def test_nothing_else_is_shipped_and_all_is_small():
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert {path.relative_to(CHECKPOINTS).parts[0] for path in files} == set(NAMES)
    assert sum(path.stat().st_size for path in files) < 50e6
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".safetensors", ".md"}


@every
def test_no_code_lies_beside_the_weights(name):
    """`import modeling` registers the classes, so the repository holds the code once."""
    assert not list((CHECKPOINTS / name).rglob("*.py"))
    assert "auto_map" not in json.loads((CHECKPOINTS / name / "config.json").read_text(encoding="utf-8"))


@every
def test_the_code_beside_prepared_weights_is_the_projects(name, prepared):
    shipped = {path.name for path in (prepared / name).glob("*.py")}
    main = PROJECT / "modeling" / "modeling_ozymandias.py"
    needed = {Path(file).name for file in [main, *get_relative_import_files(main)]}
    assert shipped == needed
    for file in needed:
        assert (prepared / name / file).read_text() == (PROJECT / "modeling" / file).read_text()


@every
def test_record_is_of_this_checkpoint(name):
    record, model = record_of(name), load(name)
    assert record["finished"]
    assert record["parameters"] == model.num_parameters()
    assert name in TUNED + SHOWN or name.startswith(record["corpus"]["name"])
    assert record["recipe"].get("task", "next_token") == "next_token" or name in OTHERS
    if name not in TUNED and record["recipe"].get("tokenizer", "character") == "character":
        assert record["first_validation_loss"] == pytest.approx(math.log(model.config.vocab_size), abs=0.2)


@every
def test_a_token_that_is_added_is_one_token(name):
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / name)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>"]})
    assert tokenizer("<|user|>The")["input_ids"][0] == len(tokenizer) - 1


@every
def test_stored_in_half_and_computed_in_single_precision(name):
    assert {w.dtype for w in load_file(CHECKPOINTS / name / "model.safetensors").values()} == {torch.float16}
    assert load(name).dtype == torch.float32


@every
def test_the_equivalences_hold(name):
    rows = certify(load(name), AutoTokenizer.from_pretrained(CHECKPOINTS / name))
    assert all(value <= TOLERANCE for _, value in rows if not isinstance(value, str)), rows


@decoders
def test_eager_sdpa_and_cache_agree(name):
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / name)
    eager, sdpa = load(name, attn_implementation="eager"), load(name, attn_implementation="sdpa")
    batch = tokenizer(["The moon upon", "O sea"], padding=True, return_tensors="pt")
    logits = eager(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[real], sdpa(**batch).logits[real], atol=1e-4, rtol=1e-4)
    ids = batch["input_ids"][:1]
    cache = DynamicCache(config=sdpa.config)
    steps = [sdpa(ids[:, t : t + 1], past_key_values=cache, use_cache=True).logits for t in range(ids.shape[1])]
    torch.testing.assert_close(torch.cat(steps, 1), sdpa(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.corpora
@every
def test_validation_loss_is_the_recorded_one(corpora, name):
    """Half precision costs less than a thousandth of a nat."""
    record = record_of(name)
    corpus = load_corpus(record["corpus"]["name"])
    assert corpus.sha256 == record["corpus"]["sha256"]
    # The whole split of the poems would take minutes.
    text = corpus.validation[: record["recipe"].get("validation_characters")]
    expected = record.get("partial_validation_loss", record["best_validation_loss"])
    loss = score_text(load(name), AutoTokenizer.from_pretrained(CHECKPOINTS / name), text)[0]
    assert loss == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", TUNED)
def test_weights_fit_their_limit(name):
    assert sum(path.stat().st_size for path in (CHECKPOINTS / name).iterdir()) < 12e6


def test_prepared_checkpoints_load_where_the_project_is_not(prepared, outside):
    said = outside(
        f"""
import json
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
import transformers
for name, auto_class in {OTHERS}.items():
    folder = {str(prepared)!r} + "/" + name
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = getattr(transformers, auto_class).from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(["The moon", "Oz"], padding=True, return_tensors="pt")
    if auto_class == "AutoModelForSeq2SeqLM":
        assert model.generate(**inputs, max_new_tokens=10).shape[0] == 2
    else:
        fill = pipeline("fill-mask", model=folder, tokenizer=tokenizer, trust_remote_code=True)
        assert fill("The m<|mask|>on")[0]["sequence"]
        vectors = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
        assert vectors(**inputs).last_hidden_state.shape[-1] == 128
for name in {DECODERS}:
    folder = {str(prepared)!r} + "/" + name
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer("The moon", return_tensors="pt")
    print(json.dumps(tokenizer.decode(model.generate(**inputs, max_new_tokens=10)[0])))
    write = pipeline("text-generation", model=folder, tokenizer=folder, trust_remote_code=True)
    print(json.dumps(write("The moon")[0]["generated_text"]))
"""
    )
    # One line each: a sampled text can have line ends, and write "The moon" again.
    assert [line.startswith('"The moon') for line in said.splitlines()] == [True] * 2 * len(DECODERS)


CONTRACT = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in folders:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    texts = ["The moon", "The moon upon the water"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    one = tokenizer(texts[0], return_tensors="pt")
    greedy = {"do_sample": False, "max_new_tokens": 20, "eos_token_id": None}

    def write(inputs=one, **options):
        return model.generate(**inputs, **greedy, **options).tolist()

    expected = write(use_cache=False)
    assert len(expected[0]) == one["input_ids"].shape[1] + 20, folder
    ways = [
        {"use_cache": True},
        {"cache_implementation": "dynamic"},
        {"cache_implementation": "static"},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": model},
    ]
    for options in ways[: 3 if model.config.num_hidden_layers == 0 else None]:
        assert write(**options) == expected, (folder, options)
    assert write(num_beams=3, use_cache=True) == write(num_beams=3, use_cache=False), folder
    assert write(batch)[0][-20:] == expected[0][-20:], (folder, "padded on the left")
    returned = {"return_dict_in_generate": True, "output_scores": True}
    scores = [model.generate(**one, **greedy, **returned, use_cache=use).scores for use in (True, False)]
    torch.testing.assert_close(*map(torch.stack, scores), atol=2e-4, rtol=1e-4)
"""


@pytest.mark.parametrize("half", [0, 1])
def test_prepared_decoders_keep_the_contract_of_generate(half, prepared, outside):
    """As a plain user loads them, with the code beside the weights: every way to write gives the same text."""
    folders = [str(prepared / name) for name in DECODERS[half::2]]
    outside(f"folders = {folders!r}\n{CONTRACT}")
