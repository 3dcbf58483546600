"""The method stands alone: it imports nothing of the lab, and the plain install runs it."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import nbformat
import pytest
from conftest import ROOT
from packaging.requirements import Requirement

METHOD = sorted(p for p in (ROOT / "cdrl").glob("*.py") if not p.stem.startswith("_"))
LIBRARY = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))


def module_of(path):
    """The module that a notebook exports, as `lab.runs`."""
    return re.search(r"#\| default_exp (\S+)", "\n".join(c.source for c in nbformat.read(path, 4).cells))[1]


NUMBERS = {module_of(path): path.stem.partition("_")[0] for path in LIBRARY}


def imports_of(path):
    """Modules of the package that a module imports, at its top or in a function, as `lab.runs`."""
    parents = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) + 1 - node.level] if node.level else ()
            found.add(".".join([*base, *filter(None, [node.module])]))
    return {name.partition(".")[2] for name in found if name.startswith("cdrl.")}


def test_every_module_has_a_notebook():
    modules = {".".join(p.relative_to(ROOT / "cdrl").with_suffix("").parts) for p in (ROOT / "cdrl").rglob("*.py")}
    assert {m for m in modules if not m.rpartition(".")[2].startswith("_")} == set(NUMBERS)
    assert len(set(NUMBERS.values())) == len(LIBRARY)


@pytest.mark.parametrize("module", NUMBERS)
def test_a_notebook_imports_lower_numbers_alone(module):
    path = ROOT / "cdrl" / f"{module.replace('.', '/')}.py"
    higher = {m: NUMBERS[m] for m in imports_of(path) if m != module and NUMBERS[m] > NUMBERS[module]}
    assert not higher, f"notebook {NUMBERS[module]} imports {higher}"


def test_the_package_gives_its_model_every_method():
    """What a notebook adds to `CDRL` is there after a bare `import cdrl`."""
    adds = re.compile(r"^@patch.*\n(?:@.*\n)*def (\w+)\(\n?\s*(?:self|cls): CDRL", re.M)
    added = {name for path in METHOD for name in adds.findall(path.read_text())}
    assert {"sample", "from_pretrained", "from_official", "log_likelihood"} <= added
    code = f"from cdrl import CDRL; print({sorted(added)} == [n for n in {sorted(added)} if hasattr(CDRL, n)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_the_method_imports_nothing_of_the_lab():
    assert {m for path in METHOD for m in imports_of(path) if m.startswith("lab")} == set()
    assert {m for m in NUMBERS if m.startswith("lab.")} == {m for m, number in NUMBERS.items() if number >= "20"}


def plain_install():
    """Distributions that `pip install -e .` installs: the requirements of settings.ini, and what they require."""
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    todo, found = config["DEFAULT"]["requirements"].split(), set()
    while todo:
        wanted = Requirement(todo.pop())
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in found or wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        found.add(name)
        try:
            todo += requires(name) or []
        except PackageNotFoundError:
            pass  # for another system
    return found


ALONE = """
import sys

class Without:
    "A finder that does not find what the plain install does not have."

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *where):
        return None if name.partition(".")[0] in {absent} else self.finder.find_spec(name, *where)

sys.meta_path = [Without(finder) for finder in sys.meta_path]
"""


def run_alone(code):
    """Run code in a Python that lacks every package of the extras."""
    installed = plain_install()
    names = {
        module: {re.sub(r"[-_.]+", "-", d).lower() for d in dists} for module, dists in packages_distributions().items()
    }
    absent = {module for module, dists in names.items() if not dists & (installed | {"cdrl"})}
    assert {"pandas", "sklearn", "seaborn", "IPython", "prdc", "yaml"} <= absent and "torch" not in absent
    text = ALONE.format(absent=repr(absent)) + code
    return subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)


def test_the_plain_install_runs_the_method():
    """Every module can be imported, without torchvision's seconds, and the front page's snippet runs."""
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    lines = [f"import cdrl.{path.stem}" for path in METHOD]
    lines += ["assert 'torchvision' not in sys.modules", snippet, "assert score.shape == x.shape and F.shape == (64,)"]
    done = run_alone("\n".join(lines))
    assert done.returncode == 0, done.stderr


def test_what_the_plain_install_lacks_is_named():
    done = run_alone("from cdrl.datasets import load_dataset\nload_dataset('digits')")
    assert done.returncode == 1 and "it comes with pip install -e '.[lab]'" in done.stderr
