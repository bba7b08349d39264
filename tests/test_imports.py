"""The layout: imports go one way, and no folder, module or function grows too large."""

import ast
from pathlib import Path

import pytest

from tests.conftest import PROJECT

# From the bottom up: a module imports from its own layer and from those before it. The longest name that fits counts.
LAYERS = (
    *("modeling", "modeling.interop", "tokenizer"),
    *("training.command", "training.files", "training.loading", "training.evaluation.quality"),
    *("training.data", "training.evaluation", "training.engine", "training"),
    *("space.language", "space.loading", "space", "space.tabs", "space.app"),
)
FILES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("modeling", "tokenizer", "training", "space")
    for path in sorted((PROJECT / package).rglob("*.py"))
    if "checkpoints" not in path.parts
}
MODULES_IN_A_FOLDER, LINES_IN_A_MODULE, LINES_IN_A_FUNCTION = 12, 400, 60


def layer(module: str) -> int:
    return LAYERS.index(max((name for name in LAYERS if f"{module}.".startswith(f"{name}.")), key=len))


def imports(module: str, path: Path) -> set[str]:
    """The modules of the project that a module imports, also those that its functions import."""
    found = set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{source}.{alias.name}" for alias in node.names}
            found |= names & FILES.keys() or {source}
    return found & FILES.keys()


def test_imports_go_one_way():
    upwards = [(one, other) for one, path in FILES.items() for other in imports(one, path) if layer(other) > layer(one)]
    assert upwards == []


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES.values()}), ids=lambda f: f.name)
def test_a_folder_has_at_most_a_dozen_modules(folder):
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= MODULES_IN_A_FOLDER


@pytest.mark.parametrize("module", FILES)
def test_modules_and_functions_stay_small(module):
    text = FILES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES_IN_A_MODULE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert [f.name for f in functions if f.end_lineno - f.lineno >= LINES_IN_A_FUNCTION] == []
