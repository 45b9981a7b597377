"""The printed solutions pass their checks, and small changes of them do not."""

import ast
import copy
import importlib
import re
from pathlib import Path

import nbformat
import pytest
import torch

from course_utils.memory import estimate
from course_utils.methods import FullFineTuning
from course_utils.practice.exercises import attempt
from course_utils.practice.exercises.check import Check

NOTEBOOKS = Path(__file__).parents[3] / "notebooks"
_MIRRORED = {"mean": "sum", "sum": "mean", "argmax": "argmin", "minimum": "maximum"}


def printed_solutions() -> dict[str, tuple[Check, str, str]]:
    """Return check, name of the answer and folded source, by the check's name."""
    found = {}
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        module = importlib.import_module(f"course_utils.practice.exercises.chapter_{path.name[:2]}")
        asked = None
        for cell in nbformat.read(path, as_version=4).cells:
            call = re.search(r"^attempt\((\w+), (\w+)\)", cell.source, re.MULTILINE)
            code = re.search(r"<summary>Solution.*?```python\n(.*?)```", cell.source, re.DOTALL)
            if cell.cell_type == "code" and call:
                asked = call.groups()
            elif cell.cell_type == "markdown" and code and asked:
                check = getattr(module, asked[0])
                found[check.name] = check, asked[1], code[1]
                asked = None
    return found


SOLUTIONS = printed_solutions()


def edits_of(node: ast.AST) -> list[ast.AST]:
    """Return what may stand in the place of a node: a term less, another axis or reduction."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        other = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return [node.left, node.right, ast.BinOp(node.left, other, node.right)]
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return [ast.Constant(node.value + 1)]
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return [node.value]
    if isinstance(node, ast.Attribute) and node.attr in _MIRRORED:
        return [ast.Attribute(node.value, _MIRRORED[node.attr], node.ctx)]
    if isinstance(node, ast.Return):
        return [ast.Return(ast.Constant(0))]
    return []


def mutants_of(source: str) -> dict[str, str]:
    """Return changed sources, by what was changed."""
    tree, mutants = ast.parse(source), {}
    for index, node in enumerate(ast.walk(tree)):
        for edit in edits_of(node):
            mutant = copy.deepcopy(tree)
            target = list(ast.walk(mutant))[index]
            target.__class__, target.__dict__ = edit.__class__, copy.deepcopy(edit.__dict__)
            text = ast.unparse(ast.fix_missing_locations(mutant))
            mutants[text] = f"{ast.unparse(node)} -> {ast.unparse(edit)}"
    return {change: text for text, change in mutants.items()}


def answer_of(source: str, name: str) -> object:
    namespace = {"torch": torch, "estimate": estimate, "FullFineTuning": FullFineTuning}
    exec(source, namespace)
    return namespace[name]


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_printed_solution_passes(name):
    check, answer, source = SOLUTIONS[name]
    verdict = attempt(check, answer_of(source, answer))
    assert verdict, verdict


# Their answers are numbers, or one attempt takes seconds; `rejects` has their mistakes.
NOT_MUTATED = {"00-bill", "00-largest-batch"}
# Mutants that the check cannot tell from the solution on its inputs, with the reason.
EQUAL = {
    (
        "09-groups",
        "groups.std(dim=1, keepdim=True) + 0.0001 -> groups.std(dim=1, keepdim=True) - 0.0001",
    ): ("the check is loose on purpose: what is added to the deviation does not matter"),
}


@pytest.mark.parametrize("name", [name for name in SOLUTIONS if name not in NOT_MUTATED])
def test_a_changed_solution_is_rejected(name):
    check, answer, source = SOLUTIONS[name]
    mutants = mutants_of(source)
    assert mutants
    accepted = [
        change for change, text in mutants.items() if attempt(check, answer_of(text, answer))
    ]
    assert accepted == [change for exercise, change in EQUAL if exercise == name]


def test_every_chapter_prints_solutions_and_the_changes_are_many():
    chapters = {path.name[:2] for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")}
    assert {name[:2] for name in SOLUTIONS} == chapters >= {f"{number:02}" for number in range(10)}
    n_mutants = sum(len(mutants_of(source)) for _, _, source in SOLUTIONS.values())
    assert n_mutants > 300
