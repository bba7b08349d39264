"""A checkpoint outside Python: converted by llama.cpp's own converter, and run by llama.cpp.

Needs `pip install llama-cpp-python gguf sentencepiece`, which is built from source for a quarter of an hour, and in
`LLAMA_CPP` the folder of llama.cpp's source, whose converter is not on PyPI (the package's source archive has it in
`vendor/llama.cpp`). Where they are missing, the vocabulary alone is checked.
"""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from modeling import OzymandiasForCausalLM, preset_config
from modeling.interop.sentencepiece_model import is_character_level, save_sentencepiece_model
from tests.conftest import run
from tests.forks import run_forked
from tokenizer import build_character_tokenizer

TEXT = "The moon upon the water — “lövely”\n\tand a second line, 123"
CONVERTER = Path(os.environ.get("LLAMA_CPP", "/nowhere")) / "convert_hf_to_gguf.py"


def save_ours(folder: Path, **fields) -> OzymandiasForCausalLM:
    tokenizer = build_character_tokenizer(TEXT)
    torch.manual_seed(0)
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = OzymandiasForCausalLM(preset_config("modern", vocab_size=len(tokenizer), **tokens, **fields)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0 if "norm" in name else 0.0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def test_vocabulary_keeps_its_ids(tmp_path):
    sentencepiece = pytest.importorskip("transformers.utils.sentencepiece_model_pb2_new")
    tokenizer = build_character_tokenizer(TEXT)
    assert is_character_level(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    save_sentencepiece_model(tokenizer, tmp_path)
    model = sentencepiece.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
    pieces = [piece.piece.replace("▁", " ") for piece in model.pieces]
    assert pieces == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = [model.pieces[i].type for i in (0, 1, 2, 3, 258, 259)]
    assert kinds == [3, 3, 2, 6, 6, 1]  # control, control, unknown, byte ... byte, normal
    # The folder is still the same tokenizer for transformers.
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]


@pytest.mark.slow
@pytest.mark.skipif(not CONVERTER.is_file(), reason="LLAMA_CPP names no folder with convert_hf_to_gguf.py")
@pytest.mark.parametrize("shape", ["llama", "qwen3"])
def test_greedy_text_is_the_same_in_llama_cpp(shape, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp")
    model = save_ours(tmp_path / "ours", use_qk_norm=shape == "qwen3")
    run_forked("-m", "modeling.interop.conversion", tmp_path / "ours", tmp_path / "native")
    run(CONVERTER, tmp_path / "native", "--outtype", "f32", "--outfile", tmp_path / "model.gguf")
    # The converter takes "no space before a text" from a Llama's folder and has no way to for a Qwen3.
    overrides = {"tokenizer.ggml.add_space_prefix": False} if shape == "qwen3" else None
    llama = llama_cpp.Llama(
        str(tmp_path / "model.gguf"), n_ctx=64, type_k=0, type_v=0, kv_overrides=overrides, verbose=False
    )  # keys and values in float32, as here
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "ours")
    for prompt in ("The moon", "  lövely 诗 \n"):
        ids = llama.tokenize(prompt.encode(), add_bos=False, special=False)
        assert ids == tokenizer(prompt)["input_ids"]
        expected = model.generate(torch.tensor([ids]), max_new_tokens=30, do_sample=False, eos_token_id=None)
        written = []
        for token in llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            written.append(token)
            if len(written) == 30:
                break
        assert written == expected[0, len(ids) :].tolist()
