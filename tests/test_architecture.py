"""The package's architecture: what may import what, what an import costs, and what has one home.

Each rule is a function from modules to complaints, so that the last tests can show it broken code.
"""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from IPython.core.inputtransformer2 import TransformerManager

from course_utils import moved

ROOT = Path(__file__).resolve().parents[1]
NAME = "course_utils"
# From the bottom up, as in the README's tree. A unit is what the longest of these names covers.
LAYERS = (
    ("paths", "files", "intervals", "validation", "moved"),
    ("world",),
    ("models",),
    ("data",),
    ("quantization",),
    ("memory",),
    ("measure",),
    ("methods",),
    ("generation",),
    ("training",),
    ("evaluation",),
    ("rlhf",),
    ("studies",),
    ("show",),
    ("practice",),
    ("cli",),
    # Programs, which may use everything; each `__main__` is one.
    ("models.pretrain", "models.card"),
)
LAYER_OF = {unit: k for k, layer in enumerate(LAYERS) for unit in layer}
PROGRAMS = LAYERS[-1]

FRONT_END = {"IPython", "ipywidgets", "matplotlib"}
FRONT_END_PLACES = ("show", "practice.quiz.widget", "practice.predictions.widget")
IMPORTED_WHERE_USED = {"transformers", "peft", "trl", "matplotlib"}
MAX_MODULES_OF_LORA = 17
MAX_MODULE_LINES = 399
MAX_FUNCTION_LINES = 39

Modules = dict[str, ast.Module]


def read_modules(folder: Path) -> tuple[dict[str, str], Modules]:
    """Return source and tree of each module of the package, by its name below the package."""
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if "_data" not in parts:
            sources[name] = path.read_text(encoding="utf-8")
    return sources, {name: ast.parse(source) for name, source in sources.items()}


SOURCES, MODULES = read_modules(ROOT / NAME)


def lies_in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


def unit_of(module: str) -> str:
    """Return the unit that a name below the package belongs to, or its first part."""
    covering = [unit for unit in LAYER_OF if lies_in(module, (unit,))]
    return max(covering, key=len, default=module.split(".")[0])


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of all that is imported anywhere, by name or by string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            place = "." * node.level + (node.module or "")
            yield from (f"{place}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(a.value) for a in node.args if isinstance(a, ast.Constant))


def imports_at_once(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported as soon as the module is: not in functions or for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_at_once(ast.Module(node.orelse, []))
        else:
            yield from imports_at_once(node)


def own_imports(tree: ast.AST) -> set[str]:
    """Return what is imported of the package, as names below it."""
    return {name.removeprefix(f"{NAME}.") for name in imports(tree) if name.startswith(f"{NAME}.")}


# The rules


def direction_complaints(modules: Modules) -> Iterator[str]:
    """Imports are absolute and run downward, without circles among units of one layer."""
    graph: dict[str, set[str]] = {}
    for module, tree in modules.items():
        yield from (f"{module}: {name} is relative" for name in imports(tree) if name[0] == ".")
        if not module or module.endswith("__main__"):
            continue
        unit, below = unit_of(module), {unit_of(name) for name in own_imports(tree)}
        graph.setdefault(unit, set()).update(below - {unit})
        if unknown := ({unit} | below) - LAYER_OF.keys():
            yield f"{module}: {', '.join(sorted(unknown))} has no layer: add it to LAYERS"
            continue
        above = sorted(name for name in below if LAYER_OF[name] > LAYER_OF[unit])
        if above and unit not in PROGRAMS:
            yield f"{module} imports upward: {', '.join(above)}"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield f"a circle: {' -> '.join(error.args[1])}"


def heaviness_complaints(modules: Modules) -> Iterator[str]:
    """Front ends are imported in few places, large libraries only where they are used."""
    for module, tree in modules.items():
        if lies_in(module, FRONT_END_PLACES):
            continue
        front = FRONT_END & {name.split(".")[0] for name in imports(tree)}
        heavy = IMPORTED_WHERE_USED & {name.split(".")[0] for name in imports_at_once(tree)}
        yield from (f"{module} imports {name}" for name in sorted(front))
        yield from (f"{module} imports {name} at once" for name in sorted(heavy - front))


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> int:
    """Count a function's lines of code: without signature, docstring, comments and blank lines."""
    body = function.body[ast.get_docstring(function) is not None :]
    text = lines[body[0].lineno - 1 : function.end_lineno] if body else []
    return sum(1 for line in text if line.strip() and not line.strip().startswith("#"))


def length_complaints(sources: dict[str, str], modules: Modules) -> Iterator[str]:
    """A module and a function can be read in one sitting, as the formatter writes them."""
    for module, source in sources.items():
        lines = source.splitlines()
        if len(lines) > MAX_MODULE_LINES:
            yield f"{module} has {len(lines)} lines, more than {MAX_MODULE_LINES}"
        if any("# fmt:" in line for line in lines):
            yield f"{module} turns the formatter off"
        for node in ast.walk(modules[module]):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                n_lines = body_lines(node, lines)
                if n_lines > MAX_FUNCTION_LINES:
                    yield f"{module}.{node.name} has {n_lines}, more than {MAX_FUNCTION_LINES}"


# What only `files` does, so that no file is ever half written, and a checksum is counted once.
BY_HAND = {
    "hashlib",
    "mkstemp",
    "mktemp",
    "NamedTemporaryFile",
    "rename",
    "renames",
    "fsync",
    "getpid",
}
WRITES = {"write_text", "write_bytes"}
EXCEPTIONS = {
    "models.hub: imports hashlib": "git's own checksum, which the Hub announces for small files",
}


def home_complaints(modules: Modules) -> Iterator[str]:
    """Files are written whole by `files` alone, and nothing asks for a name that has moved."""
    for module, tree in modules.items():
        if module != "files":
            complaints = {f"{module}: {what}" for what in writes_by_hand(tree)}
            yield from sorted(complaints - EXCEPTIONS.keys())
        yield from (f"{module} imports {name}, which has moved" for name in old_imports(tree))


def old_imports(tree: ast.AST) -> list[str]:
    """Return what is imported from where it was in version 0.1."""
    old = (*moved.MODULES, *(f"{place}.{name}" for place, name in moved.NAMES))
    return sorted(name for name in own_imports(tree) if lies_in(name, old))


def writes_by_hand(tree: ast.AST) -> Iterator[str]:
    """Yield what a module does to files that `files` does better."""
    for name in imports(tree):
        yield from (f"imports {part}" for part in name.split(".") if part in BY_HAND)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        holder, _, verb = called.rpartition(".")
        if (
            verb in BY_HAND
            or called == "os.replace"
            or (verb in WRITES and holder not in ("", "files"))
            or (verb == "replace" and len(node.args) == 1 and not node.keywords)
        ):
            yield f"{called}(…)"
        elif verb == "open" and set("wax+") & set(mode_of(node, is_method=bool(holder))):
            yield f"{called}(…) to write"


def mode_of(call: ast.Call, *, is_method: bool) -> str:
    """Return the mode that a file is opened with, as far as it is written out."""
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[not is_method :][:1]
    mode = given[0] if given else None
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else "r"


# The four tests


def test_imports_run_downward_and_in_no_circle():
    assert list(direction_complaints(MODULES)) == []
    told = units_of_the_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(told) | {"moved"} == {unit_of(module) for module in MODULES} - {"", *PROGRAMS}
    assert told == sorted(told, key=LAYER_OF.get), "README's tree is in another order"


def units_of_the_tree(readme: str) -> list[str]:
    """Return what README's tree lists in the package, in its order."""
    lines = readme.partition("\ncourse_utils/ ")[2].partition("\ndata/ ")[0].splitlines()[1:]
    names = [line.strip().split("  ")[0] for line in lines if not line.startswith(" " * 3)]
    return [re.sub(r"/$|\.py$", "", name) for line in names for name in line.split()]


def test_an_import_costs_what_it_needs():
    assert list(heaviness_complaints(MODULES)) == []
    light = [f"{NAME}.{m}" for m in MODULES if m and not lies_in(m, FRONT_END_PLACES)]
    cost = run_python(COST_OF_IMPORTS, json.dumps([m for m in light if "__main__" not in m]))
    assert set(cost["package"]) - set(sys.stdlib_module_names) == {NAME}
    assert cost["has_torch"] is False
    ours = [name for name in cost["lora"] if name.split(".")[0] == NAME]
    assert not [name for name in ours if name.startswith(f"{NAME}.rlhf")]
    assert len(ours) <= MAX_MODULES_OF_LORA, ours
    assert cost["heavy"] == {}


COST_OF_IMPORTS = f"""
import importlib, json, sys
before = set(sys.modules)
import {NAME}
cost = {{"package": sorted({{name.split(".")[0] for name in set(sys.modules) - before}})}}
import {NAME}.models.profiles
{NAME}.models.profiles.current_profile({{"COURSE_PROFILE": "cpu"}})
cost["has_torch"] = "torch" in sys.modules
for name in [name for name in sys.modules if name.split(".")[0] == {NAME!r}]:
    del sys.modules[name]
import {NAME}.methods.lora
cost["lora"] = sorted(sys.modules)
cost["heavy"] = {{}}
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
    for heavy in {IMPORTED_WHERE_USED!r} & set(sys.modules):
        cost["heavy"].setdefault(heavy, name)
print(json.dumps(cost))
"""


def run_python(code: str, *arguments: str) -> dict:
    """Run code in a fresh interpreter and return the JSON it prints."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_modules_and_functions_can_be_read_in_one_sitting():
    assert list(length_complaints(SOURCES, MODULES)) == []


def test_files_are_written_in_one_place_and_no_old_name_is_used():
    assert list(home_complaints(MODULES)) == []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources = ("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        code = TransformerManager().transform_cell("\n".join(sources))
        assert (path.name, old_imports(ast.parse(code))) == (path.name, [])


def test_no_test_sleeps():
    """Tests wait for what is to happen: a page, a file, a pipe, the end of a process."""
    sleeps = re.compile(r"\b(sleep|wait_for_timeout)\(")
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert [path.name for path in tests if sleeps.search(path.read_text(encoding="utf-8"))] == []


# The rules can be broken


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("data.files", "import course_utils.cli", "upward: cli"),
        ("data.files", "import os, course_utils.cli as c", "upward: cli"),
        ("data.files", "from course_utils import cli", "upward: cli"),
        ("data.files", "from course_utils.cli import app", "upward: cli"),
        ("data.files", "def f():\n    from course_utils.cli import app", "upward: cli"),
        ("data.files", "if TYPE_CHECKING:\n    import course_utils.cli", "upward: cli"),
        ("data.files", "try:\n    import course_utils.cli\nexcept E:\n    pass", "upward: cli"),
        ("data.files", "importlib.import_module('course_utils.cli')", "upward: cli"),
        ("data.files", "from course_utils.models import card", "upward: models.card"),
        ("models.hub", "from course_utils.data import x", "upward: data"),
        ("data.files", "from . import cli", "relative"),
        ("data.files", "from ..cli import app", "relative"),
        ("data.files", "import course_utils.utils", "utils has no layer"),
        ("utils.more", "", "utils has no layer"),
        ("files", "import course_utils.paths", "a circle"),
        ("models.pretrain", "import course_utils.cli", ""),
        ("world.__main__", "import course_utils.cli", ""),
        ("data.files", "import course_utils.models, course_utils.data.own", ""),
    ],
)
def test_an_import_upward_is_seen_wherever_it_stands(module, source, complaint):
    modules = {module: ast.parse(source), "paths": ast.parse("from course_utils import files")}
    complaints = "; ".join(direction_complaints(modules))
    assert complaint in complaints
    assert bool(complaint) == bool(complaints)


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("data", "import peft", "peft at once"),
        ("data", "class A:\n    import peft", "peft at once"),
        ("data", "try:\n    import peft\nexcept ImportError:\n    pass", "peft at once"),
        ("data", "if TYPE_CHECKING:\n    import peft\nelse:\n    import trl", "trl at once"),
        ("data", "def f():\n    import peft", ""),
        ("data", "class A:\n    def f(self):\n        import peft", ""),
        ("data", "if typing.TYPE_CHECKING:\n    from peft import LoraConfig", ""),
        ("data", "def f():\n    from IPython.display import HTML", "imports IPython"),
        ("practice.quiz", "import ipywidgets", "imports ipywidgets"),
        ("practice.quiz.widget", "import ipywidgets", ""),
        ("show.plotting", "import matplotlib.pyplot", ""),
        ("showing", "import matplotlib.pyplot", "imports matplotlib"),
    ],
)
def test_a_heavy_import_is_told_from_one_where_it_is_used(module, source, complaint):
    complaints = "; ".join(heaviness_complaints({module: ast.parse(source)}))
    assert complaint in complaints
    assert bool(complaint) == bool(complaints)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("x = 1\n" * 400, "400 lines"),
        ("x = 1\n" * 399, ""),
        ("x = 1  # fmt: skip", "formatter"),
        ("def f():\n" + "    x = 1\n" * 40, "f has 40"),
        ("class A:\n    async def f():\n" + "        x = 1\n" * 40, "f has 40"),
        ("def f(\n" + "    x,\n" * 40 + "):\n    '''Say.'''\n    # why\n\n    return x", ""),
    ],
)
def test_a_long_module_and_a_long_function_are_seen(source, complaint):
    complaints = "; ".join(length_complaints({"data": source}, {"data": ast.parse(source)}))
    assert complaint in complaints
    assert bool(complaint) == bool(complaints)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import hashlib", "hashlib"),
        ("from os import rename", "rename"),
        ("from tempfile import NamedTemporaryFile", "NamedTemporaryFile"),
        ("os.replace(a, b)", "os.replace"),
        ("a.replace(b)", "a.replace"),
        ("path.rename(b)", "path.rename"),
        ("path.write_text(text)", "path.write_text"),
        ("(folder / 'a').write_bytes(data)", "write_bytes"),
        ("open(path, 'w')", "open"),
        ("path.open('ab')", "path.open"),
        ("path.open(mode='r+')", "path.open"),
        ("from course_utils.plotting import plot_lines", "has moved"),
        ("from course_utils import display", "has moved"),
        ("from course_utils.memory import estimate_ppo", "has moved"),
        ("files.write_text(path, text); write_bytes(path, data)", ""),
        ("open(path); path.open('rb'); Image.open(x)", ""),
        ("text.replace(a, b); replace(config, rank=1)", ""),
        ("from course_utils.show.plotting import plot_lines", ""),
    ],
)
def test_a_file_written_by_hand_and_an_old_name_are_seen(source, complaint):
    complaints = "; ".join(home_complaints({"data": ast.parse(source)}))
    assert complaint in complaints
    assert bool(complaint) == bool(complaints)
