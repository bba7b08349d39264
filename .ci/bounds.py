"""Print versions of what pyproject.toml names, as a constraints file of pip.

python .ci/bounds.py lowest       # the lower bound of everything that is imported; tools that only test are free
python .ci/bounds.py newest       # nothing but torch, whose newest build can bring gigabytes of CUDA libraries
python .ci/bounds.py installed    # what is installed, to be read
"""

import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parent.parent
project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
extras = [extra for name, extra in project["optional-dependencies"].items() if name != "test"]
bounds = {}
for requirement in (*project["dependencies"], *(line for extra in extras for line in extra)):
    name, lower = re.match(r"([\w-]+)(?:\[\w+\])?>=([\w.]+)", requirement).groups()
    bounds[name] = lower
match sys.argv[1]:
    case "lowest":
        print("\n".join(f"{name}=={lower}" for name, lower in bounds.items()))
    case "newest":
        print(re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0])
    case "installed":
        print(", ".join(f"{name} {version(name)}" for name in bounds))
