import pytest

from tests.conftest import PROJECT, run
from training.command import printable

PROGRAM = """
import os, sys
sys.argv = ["pretrain", "--recipe", "smoke", "--dry-run"]
import training.engine.loop
import training.pretrain
training.engine.loop.train = lambda *given, **more: print(os.environ.get("OMP_WAIT_POLICY"))
training.pretrain.main()
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "5"}, "None")],
    ids=["default", "policy", "count"],
)
def test_a_training_lets_its_threads_sleep_unless_the_user_says_otherwise(monkeypatch, given, expected):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    assert run("-c", PROGRAM, **given).stdout.split() == [expected]


@pytest.mark.parametrize("module", ["pretrain", "sweep"])
def test_torch_is_not_imported_before_the_threads_are_told(module):
    """OpenMP reads its variables when torch loads it, and never again."""
    run("-c", f"import sys, training.{module}; assert 'torch' not in sys.modules", cwd=PROJECT)


def test_control_characters_are_shown_as_escapes():
    assert printable("the\tmoon\n\x1b[2J\x00 诗😀\u202e") == "the\tmoon\n\\x1b[2J\\x00 诗😀\\u202e"
