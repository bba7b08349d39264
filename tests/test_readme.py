"""The README's own Python example, as a reader runs it in a checkout, on every decoder that is shipped."""

import re

import pytest

from tests.conftest import PROJECT, run

CHECKPOINTS = PROJECT / "space" / "checkpoints"
DECODERS = sorted(p.name for p in CHECKPOINTS.iterdir() if "ForCausalLM" in (p / "config.json").read_text())


def python_example() -> str:
    """The first block of Python in the README."""
    return re.search(r"```python\n(.+?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]


@pytest.mark.parametrize("names", [DECODERS[::2], DECODERS[1::2]])
def test_the_example_writes_the_same_with_and_without_cache(names):
    example = python_example()
    assert "space/checkpoints/" in example
    program = """
import logging, warnings
warnings.simplefilter("error")
seen = []
class Catch(logging.Handler):
    def emit(self, record):
        seen.append(record.getMessage())
import transformers
logging.getLogger("transformers").addHandler(Catch(logging.WARNING))
"""
    for name in names:
        folder = f"space/checkpoints/{name}"
        program += re.sub(r'"space/checkpoints/[\w-]+"', repr(folder), example)
        program += f"""
assert not seen, seen
greedy = dict(inputs, do_sample=False, max_new_tokens=30)
with_cache, without = (model.generate(**greedy, use_cache=use).tolist() for use in (True, False))
assert with_cache == without, {name!r}
assert len(with_cache[0]) > inputs["input_ids"].shape[1]
"""
    run("-c", program)
