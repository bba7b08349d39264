"""A checkpoint carries its code: what `trust_remote_code` loads, and the rules that make it loadable."""

import ast
import json
import sys

import pytest
import torch

from modeling import PRESETS, OzymandiasForCausalLM, preset_config
from modeling.loading import load_model
from modeling.modeling_ozymandias import model_class
from space.loading import load_checkpoint
from tests.conftest import PROJECT
from tokenizer import build_character_tokenizer
from training.engine.build import build_model, build_tokenizer
from training.engine.recipe import Recipe
from training.loading import load_trained

FILES = sorted((PROJECT / "modeling").glob("*.py"))


def test_checkpoint_loads_where_the_project_is_not(tmp_path, outside):
    tokenizer = build_character_tokenizer("the moon upon the water\n")
    for preset in PRESETS:
        torch.manual_seed(0)
        model = OzymandiasForCausalLM(preset_config(preset, vocab_size=len(tokenizer), pad_token_id=2)).eval()
        model.save_pretrained(tmp_path / preset)
        tokenizer.save_pretrained(tmp_path / preset)
        torch.save(model(**tokenizer("the moon", return_tensors="pt")).logits, tmp_path / f"{preset}.pt")
    outside(
        f"""
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline
for preset in {list(PRESETS)}:
    folder = {str(tmp_path)!r} + "/" + preset
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "ozymandias"
    assert AutoModel.from_pretrained(folder, trust_remote_code=True).__class__.__name__ == "OzymandiasModel"
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer("the moon", return_tensors="pt")
    assert torch.equal(model(**inputs).logits, torch.load({str(tmp_path)!r} + f"/{{preset}}.pt"))
    model.generate(**inputs, max_new_tokens=5)
    # What was loaded as remote code can be saved and loaded once more.
    model.save_pretrained(folder + "-again")
    again = AutoModelForCausalLM.from_pretrained(folder + "-again", trust_remote_code=True)
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
write = pipeline("text-generation", model=folder, tokenizer=folder, trust_remote_code=True)
assert write("the moon", max_new_tokens=5)[0]["generated_text"].startswith("the moon")
"""
    )


def test_encoder_and_encoder_decoder_load_where_the_project_is_not(tmp_path, outside):
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    models = {
        "AutoModelForMaskedLM": {"is_causal": False, "norm_placement": "post", "use_embedding_norm": True},
        "AutoModelForSeq2SeqLM": {"is_encoder_decoder": True},
    }
    x = torch.arange(3, 12)[None]
    for auto_class, fields in models.items():
        torch.manual_seed(0)
        config = preset_config("modern", vocab_size=20, **tokens, **fields)
        model = model_class(config)(config).eval()
        model.save_pretrained(tmp_path / auto_class)
        torch.save(model(x, labels=x).logits, tmp_path / f"{auto_class}.pt")
    outside(
        f"""
import torch, transformers
x = torch.arange(3, 12)[None]
for name in {list(models)}:
    folder = {str(tmp_path)!r} + "/" + name
    model = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True).eval()
    assert torch.equal(model(x, labels=x).logits, torch.load({str(tmp_path)!r} + f"/{{name}}.pt"))
    if name == "AutoModelForMaskedLM":
        vectors = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
        assert vectors(x).last_hidden_state.shape == (1, 9, 128)
    else:
        assert model.generate(x, max_new_tokens=5).shape[1] <= 6
    model.save_pretrained(folder + "-again")
    again = getattr(transformers, name).from_pretrained(folder + "-again", trust_remote_code=True).eval()
    assert torch.equal(again(x, labels=x).logits, model(x, labels=x).logits)
"""
    )


@pytest.fixture
def foreign(tmp_path):
    """A checkpoint with code of its own, which writes a file when it is run."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Foreign: pass\n")
    codes = {name: "code.Foreign" for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM")}
    config = {"model_type": "foreign", "architectures": ["ForeignForCausalLM"], "auto_map": codes}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"tokenizer_class": "Foreign", "auto_map": {"AutoTokenizer": ["code.Foreign", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.parametrize(
    "load",
    [
        load_model,
        load_trained,
        lambda folder: load_checkpoint(str(folder)),
        lambda folder: build_tokenizer(Recipe(start_from=str(folder)), ""),
        lambda folder: build_model(Recipe(start_from=str(folder)), build_character_tokenizer("text")),
    ],
    ids=["load_model", "load_trained", "load_checkpoint", "build_tokenizer", "build_model"],
)
def test_foreign_code_is_refused_without_a_question(foreign, monkeypatch, load):
    """On a terminal transformers would ask whether to run it, and on a server nobody could answer."""
    questions = []
    monkeypatch.setattr("builtins.input", lambda question="": questions.append(question) or "n")
    with pytest.raises(ValueError, match="foreign"):
        load(foreign)
    assert questions == []
    assert not (foreign.parent / "ran").exists()


@pytest.mark.parametrize("file", [f for f in FILES if f.name != "__init__.py"], ids=lambda f: f.name)
def test_imports_are_what_remote_code_can_follow(file):
    """transformers finds the files to copy by a regular expression: one `from .file import name` on each line."""
    allowed = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert all(name.name.split(".")[0] in allowed for name in node.names)
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in allowed
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module
            assert (PROJECT / "modeling" / f"{node.module}.py").is_file()


@pytest.mark.parametrize("file", sorted((PROJECT / "modeling").rglob("*.py")), ids=lambda f: f.name)
def test_files_and_functions_stay_small(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} in {file.name} is too long"
