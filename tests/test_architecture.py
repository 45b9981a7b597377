"""The package's architecture: what may import what, and what an import may cost.

``LAYERS`` is the order of DESIGN, from the bottom. A unit is a module or a package directly under
``course_utils``; it may import units of lower layers, and of its own layer as long as no circle
comes about. Imports inside functions and for type checkers count too.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "course_utils"
NAME = PACKAGE.name

LAYERS = (
    ("paths", "profiles"),
    ("world",),
    ("memory", "measure"),
    ("quantization",),
    ("methods",),
    ("hub", "data", "models"),
    ("checkpoints", "training", "generation"),
    ("rlhf",),
    ("compare", "evaluation", "intervals"),
    ("palette", "markup", "checked_yaml", "widgets", "plotting", "display"),
    ("quiz", "exercises", "claims"),
    (
        "pretrain",
        "model_card",
        "doctor",
        "notebooks",
        "execution",
        "run_records",
        "runs",
        "lab",
        "cli",
    ),
)
# Units that may import less than their place allows.
ALLOWED = {
    "paths": set(),
    "profiles": set(),
    "hub": set(),
    "intervals": set(),
    "palette": set(),
    "world": {"paths"},
}

FRONT_END = ("IPython", "ipywidgets", "matplotlib")
FRONT_END_PLACES = ("widgets", "plotting", "display", "quiz.widget")
IMPORTED_WHERE_USED = ("transformers", "peft", "trl", "matplotlib")

MODULES = {
    ".".join((NAME, *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if "_data" not in path.parts
}


def unit_of(module: str) -> str:
    """Return the unit that a dotted name lies in; empty for the package itself."""
    return module.removeprefix(NAME).lstrip(".").split(".")[0]


UNITS = sorted({unit_of(module) for module in MODULES} - {""})


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of all that a module imports anywhere, by name or by string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "." * node.level + (node.module or "")
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            arguments = [value for value in node.args if isinstance(value, ast.Constant)]
            yield from ((node.lineno, str(value.value)) for value in arguments)


def own_imports(module: str) -> Iterator[tuple[str, str]]:
    """Yield ("path:line", unit) of a module's imports from other units of the package."""
    path = MODULES[module]
    for line, name in imported_names(ast.parse(path.read_text())):
        if name.split(".")[0] == NAME and unit_of(name) not in ("", unit_of(module)):
            yield f"{path.relative_to(PACKAGE.parent)}:{line}", unit_of(name)


def layer_of(unit: str) -> int:
    return next(k for k, layer in enumerate(LAYERS) if unit in layer)


def run_python(code: str) -> dict:
    """Run code in a fresh interpreter and return the JSON it prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# The layers


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_has_a_layer(unit):
    assert any(unit in layer for layer in LAYERS), (
        f"{NAME}.{unit} is new: add it to LAYERS in tests/test_imports.py, on the lowest layer "
        "that is above all it imports (and to the tree in the README)"
    )


def test_no_unit_has_two_layers():
    units = [unit for layer in LAYERS for unit in layer]
    assert len(units) == len(set(units))
    assert set(ALLOWED) <= set(units)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward_only(module):
    unit = unit_of(module)
    placed = {name for layer in LAYERS for name in layer}
    if unit and unit not in placed:
        pytest.skip("has no layer yet: another test says so")
    for place, imported in own_imports(module):
        assert unit, f"{place}: {NAME}/__init__.py must import nothing of the package"
        if imported not in placed:
            continue
        assert layer_of(imported) <= layer_of(unit), (
            f"{place}: {unit} must not import {imported}, which lies on a higher layer"
        )
        if unit in ALLOWED:
            assert imported in ALLOWED[unit], (
                f"{place}: {unit} may import {sorted(ALLOWED[unit]) or 'nothing'} of the package, "
                f"not {imported}"
            )


def test_units_of_one_layer_do_not_import_each_other_in_a_circle():
    graph = {unit: set() for unit in UNITS}
    for module in MODULES:
        if unit := unit_of(module):
            graph[unit] |= {imported for _, imported in own_imports(module)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"units import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_absolute(module):
    names = list(imported_names(ast.parse(MODULES[module].read_text())))
    assert [(line, name) for line, name in names if name.startswith(".")] == []


@pytest.mark.parametrize("module", MODULES)
def test_only_the_front_end_imports_widgets_and_figures(module):
    inside = module.removeprefix(f"{NAME}.")
    if any(inside == place or inside.startswith(f"{place}.") for place in FRONT_END_PLACES):
        return
    for line, name in imported_names(ast.parse(MODULES[module].read_text())):
        assert name.split(".")[0] not in FRONT_END, f"{MODULES[module].name}:{line} imports {name}"


# The cost of an import


def test_importing_the_package_imports_nothing_else():
    code = (
        "import json, sys; before = set(sys.modules); import course_utils;"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))"
    )
    assert set(run_python(code)) - set(sys.stdlib_module_names) == {NAME}


def module_level_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield what is imported when a module is: not in functions, not for type checkers."""
    pending = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imported_names(node)
        pending += list(ast.iter_child_nodes(node))


@pytest.mark.parametrize("module", MODULES)
def test_heavy_libraries_are_imported_where_they_are_used(module):
    heavy = set(IMPORTED_WHERE_USED)
    if any(module.startswith(f"{NAME}.{place}") for place in FRONT_END_PLACES):
        heavy -= {"matplotlib"}
    for line, name in module_level_imports(MODULES[module]):
        assert name.split(".")[0] not in heavy, (
            f"{MODULES[module].name}:{line} imports {name} when it is imported itself: "
            "move the import into the function that needs it"
        )


def test_no_heavy_library_comes_along_with_any_module():
    light = [
        module
        for module in MODULES
        if not module.endswith("__main__")
        and not any(module.startswith(f"{NAME}.{place}") for place in FRONT_END_PLACES)
    ]
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {light!r}:\n"
        "    importlib.import_module(name)\n"
        f"    for heavy in {IMPORTED_WHERE_USED!r}:\n"
        "        if heavy in sys.modules: found.setdefault(heavy, name)\n"
        "print(json.dumps(found))"
    )
    assert run_python(code) == {}


def test_the_cpu_profile_is_chosen_without_torch():
    code = (
        "import json, sys; from course_utils.models.profiles import current_profile;"
        "current_profile({'COURSE_PROFILE': 'cpu'}); print(json.dumps('torch' in sys.modules))"
    )
    assert run_python(code) is False


# The tests above can fail


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import course_utils.cli", "course_utils.cli"),
        ("import os, course_utils.cli as c", "course_utils.cli"),
        ("from course_utils import cli", "course_utils.cli"),
        ("from course_utils.cli import app", "course_utils.cli"),
        ("def f():\n    from course_utils.cli import app", "course_utils.cli"),
        ("if TYPE_CHECKING:\n    import course_utils.cli", "course_utils.cli"),
        ("try:\n    import course_utils.cli\nexcept ImportError:\n    pass", "course_utils.cli"),
        ("importlib.import_module('course_utils.cli')", "course_utils.cli"),
        ("from . import cli", "."),
        ("from ..cli import app", "..cli"),
    ],
)
def test_an_import_is_seen_wherever_it_stands(source, name):
    assert name in [found for _, found in imported_names(ast.parse(source))]


@pytest.mark.parametrize(
    ("source", "is_seen"),
    [
        ("import peft", True),
        ("class A:\n    import peft", True),
        ("try:\n    import peft\nexcept ImportError:\n    pass", True),
        ("if TYPE_CHECKING:\n    import peft\nelse:\n    import trl", True),
        ("def f():\n    import peft", False),
        ("class A:\n    def f(self):\n        import peft", False),
        ("if TYPE_CHECKING:\n    import peft", False),
        ("if typing.TYPE_CHECKING:\n    from peft import LoraConfig", False),
    ],
)
def test_an_import_at_module_level_is_told_from_one_in_a_function(tmp_path, source, is_seen):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert bool(list(module_level_imports(path))) == is_seen


def test_a_module_can_be_read_in_one_sitting():
    lengths = {name: path.read_text().count("\n") for name, path in MODULES.items()}
    assert not {name: n for name, n in lengths.items() if n > 300}
