"""Every committed notebook keeps the house rules, and every rule can be broken."""

import base64
import copy
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.notebooks import rules
from tests.notebooks.rules import RULES

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("[0-9][0-9]_*.ipynb"))

TITLE = """# LoRA
**Question.** Why can a thin matrix stand in for a thick one? **Prerequisites:** chapter 01.
| **Your time** | 30 min
cpu: 3 minutes, 900 MB; t4: 2 minutes, 4 GB. **Paper:** arXiv:2106.09685."""
EXERCISE = """### Exercise {k}. Count
Difficulty 1 of 3, importance 2 of 3, 5 minutes.
<details><summary>Hint</summary>Look.</details>
<details><summary>Solution</summary>42</details>"""


def test_there_are_notebooks_to_keep_the_rules():
    assert NOTEBOOKS


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def committed(request):
    return nbformat.read(request.param, as_version=4)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_committed_notebook_keeps_the_rule(committed, rule):
    assert rule(committed) == []


def figure():
    return new_output("display_data", data={"image/png": "aGk=", "text/plain": "<Figure>"})


def table():
    return new_output("display_data", data={"text/html": "<table></table>"})


def printed(text, name="stdout"):
    return new_output("stream", text=text, name=name)


def code(source, *outputs, tags=()):
    return new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags)})


def kernelspec(name):
    return {"name": name, "display_name": "Python 3", "language": "python"}


def good_notebook():
    """Return a small notebook that keeps every rule."""
    cells = [
        new_markdown_cell(TITLE),
        new_markdown_cell("## Objectives\nCount.\n## Setup\nOne import."),
        code("import torch"),
        new_markdown_cell("**Predict**, then run. What grows?\n```\n# no heading\n```"),
        code("plot(a)", figure()),
        new_markdown_cell("It grew by 3.1; the numbers:"),
        code("show(a)", table()),
        new_markdown_cell("And the other way?"),
        code("plot(b)", figure(), table()),
        new_markdown_cell("It fell by 2.\n## Where it breaks\nA myth.\n## Exercises"),
    ]
    for k in (1, 2, 3):
        cells += [
            new_markdown_cell(EXERCISE.format(k=k)),
            code("# count\nattempt(check, ...)", tags=["exercise"]),
        ]
    cells.append(new_markdown_cell("## Quiz\nFour questions."))
    cells.append(code("quiz"))
    cells.append(new_markdown_cell("## Summary\nDone.\n## References\nOne.\n## Next\nDoRA."))
    for k, cell in enumerate((c for c in cells if c.cell_type == "code"), start=1):
        cell.execution_count = k
    return new_notebook(cells=cells, metadata={"kernelspec": kernelspec("python3")})


def test_a_good_notebook_has_no_complaints():
    node = good_notebook()
    nbformat.validate(node)
    assert {rule.__name__: rule(node) for rule in RULES if rule(node)} == {}


def set_metadata(node, **values):
    node.metadata.update(values)


def set_source(node, i, source):
    node.cells[i].source = source


def replace(node, old, new):
    for cell in node.cells:
        cell.source = cell.source.replace(old, new)


def show(node, text, kind="text/plain"):
    node.cells[2].outputs = [new_output("display_data", data={kind: text})]


def write_lines(node, n_lines, *positions):
    for i in positions:
        node.cells[i].source = "\n".join(["x = 1"] * n_lines)


def ask(
    node,
    *,
    title="# 02 · LoRA",
    id="02-rates",
    name="factor",
    check="factor.check(3.3)",
    folded=(4, 6),
    end="calibration('02')",
):
    """Let the notebook ask for two predictions, an experiment between them and their checks."""
    replace(node, "# LoRA", title)
    scaling = "winner = predict('02-scaling', 'Which?', ('a', 'b'))\n"
    set_source(node, 2, f"{scaling}{name and name + ' = '}predict('{id}', 'What?', unit='times')")
    node.cells[2].outputs = [printed("Predict: What?")]
    set_source(node, 6, f"winner.check('a')\n{check}")
    for i in folded:
        node.cells[i].metadata["jupyter"] = {"outputs_hidden": True}
    set_source(node, -2, end)


BAD = [
    ("check_metadata", lambda n: set_metadata(n, kernelspec=kernelspec("conda")), "python3"),
    ("check_metadata", lambda n: set_metadata(n, widgets={"a": 1}), "widget state"),
    ("check_metadata", lambda n: n.cells[2].metadata.update(execution={}), "cell 2 stores"),
    ("check_metadata", lambda n: n.cells[2].metadata.tags.append("raises-exception"), "raise"),
    ("check_execution_counts", lambda n: n.cells[2].update(execution_count=None), "not 1..8"),
    ("check_execution_counts", lambda n: n.cells[2].update(execution_count=7), "[7, 2, 3"),
    ("check_execution_counts", lambda n: set_source(n, 2, " \n"), "cell 2 is empty"),
    ("check_outputs", lambda n: n.cells[2].outputs.append(printed("hm", "stderr")), "stderr"),
    (
        "check_outputs",
        lambda n: n.cells[2].outputs.append(
            new_output("error", ename="E", evalue="", traceback=["x"])
        ),
        "ends in an error",
    ),
    ("check_outputs", lambda n: show(n, "a.py:3: UserWarning: old"), "a warning"),
    ("check_outputs", lambda n: show(n, "Traceback (most recent call last)"), "a traceback"),
    ("check_outputs", lambda n: show(n, " 40%|####  | 2/5"), "a progress bar"),
    ("check_outputs", lambda n: show(n, "[00:03, 12.5it/s]"), "a progress bar"),
    ("check_outputs", lambda n: show(n, "1\r2"), "a progress bar"),
    ("check_outputs", lambda n: show(n, "\x1b[31mred"), "terminal colours"),
    ("check_outputs", lambda n: show(n, "<f at 0x7f12ab34cd56>"), "an object's address"),
    ("check_outputs", lambda n: show(n, "in /home/ada/course"), "a path"),
    ("check_outputs", lambda n: show(n, "C:\\Users\\ada"), "a path"),
    ("check_outputs", lambda n: show(n, "<b>/tmp/x</b>", "text/html"), "a path"),
    ("check_outputs", lambda n: show(n, "lib/site-packages/torch"), "a path"),
    ("check_outputs", lambda n: show(n, str(Path(__file__).parents[2])), "or folder"),
    ("check_size", lambda n: show(n, "a" * 400_000), "more than 400,000"),
    ("check_cell_length", lambda n: write_lines(n, 31, 2), "cell 2 has 31 lines"),
    ("check_cell_length", lambda n: write_lines(n, 9, 2, 4, 6, 8, 11), "half the code cells"),
    ("check_prose_before_code", lambda n: n.cells.pop(7), "cell 7 has no prose"),
    ("check_prose_before_code", lambda n: set_source(n, 7, "## Only a heading"), "cell 8"),
    ("check_figures", lambda n: n.cells[4].update(outputs=[]), "1 figures"),
    (
        "check_figures",
        lambda n: (n.cells[6].update(outputs=[]), n.cells[8].outputs.pop()),
        "cell 4 draws a figure without a table",
    ),
    ("check_figures", lambda n: set_source(n, 5, "It grew."), "cell 4 draws a figure and no prose"),
    (
        "check_figures",
        lambda n: (
            set_source(n, 5, "Yours:"),
            set_source(n, 6, "x.check(1)"),
            set_source(n, 7, "?"),
        ),
        "cell 4 draws a figure and no prose",
    ),
    ("check_title_box", lambda n: n.cells.pop(0), "not the title"),
    ("check_title_box", lambda n: replace(n, "**Paper:** arXiv:2106.09685", ""), "the paper"),
    ("check_title_box", lambda n: replace(n, "Question", ""), "the question"),
    ("check_title_box", lambda n: replace(n, "Prerequisites", ""), "prerequisites"),
    ("check_title_box", lambda n: replace(n, "Your time", ""), "the learner's minutes"),
    ("check_title_box", lambda n: replace(n, "minutes", ""), "the machine's minutes"),
    ("check_title_box", lambda n: replace(replace(n, "MB", "") or n, "GB", ""), "peak memory"),
    ("check_title_box", lambda n: replace(n, "t4", ""), "give t4"),
    ("check_title_box", lambda n: replace(n, "cpu", ""), "give cpu"),
    ("check_headings", lambda n: replace(n, "## Quiz", "# Quiz"), "exactly one title"),
    ("check_headings", lambda n: replace(n, "## Objectives", "### Objectives"), "skips a level"),
    ("check_headings", lambda n: replace(n, "## Quiz", "## Riddles"), "no section 'Quiz'"),
    ("check_headings", lambda n: n.cells.insert(1, n.cells.pop(-1)), "not in the order"),
    ("check_experiments", lambda n: replace(n, "**Predict**", "Think"), "Predict"),
    ("check_predictions", lambda n: ask(n, id="03-rates"), "does not begin with 02-"),
    ("check_predictions", lambda n: ask(n, title="# LoRA"), "does not begin with NN-"),
    ("check_predictions", lambda n: ask(n, id="02-scaling"), "2 predictions have the id"),
    ("check_predictions", lambda n: ask(n, name="winner"), "2 predictions are assigned to winner"),
    ("check_predictions", lambda n: ask(n, check="rates"), "no later cell calls check"),
    ("check_predictions", lambda n: ask(n, check="factor .check"), "no later cell calls check"),
    ("check_predictions", lambda n: ask(n, name=""), "no later cell calls check"),
    ("check_predictions", lambda n: ask(n, folded=(6,)), "cell 4 shows a result of"),
    ("check_predictions", lambda n: ask(n, folded=(4,)), "cell 6 shows a result of"),
    ("check_predictions", lambda n: ask(n, end="1"), "not called exactly once"),
    ("check_predictions", lambda n: ask(n, end="calibration('03')"), "not called exactly once"),
    (
        "check_predictions",
        lambda n: ask(n, end="calibration('02'); calibration('02')"),
        "not called exactly once",
    ),
    ("check_experiments", lambda n: replace(n, "myth", "tale"), "a bug or a myth"),
    ("check_exercises", lambda n: replace(n, "Exercise 3", "Riddle"), "2 exercises"),
    ("check_exercises", lambda n: replace(n, "Difficulty", "Hard:"), "no difficulty"),
    ("check_exercises", lambda n: replace(n, "importance", "weight"), "no importance"),
    ("check_exercises", lambda n: replace(n, "5 minutes", "soon"), "no minutes"),
    ("check_exercises", lambda n: replace(n, "attempt(", "try_it("), "no call of attempt"),
    ("check_exercises", lambda n: replace(n, "<summary>Hint", "<summary>Help"), "folded hint"),
    ("check_exercises", lambda n: replace(n, "Solution", "Answer"), "folded solution"),
    ("check_profile_use", lambda n: set_source(n, 2, "if profile.name == 'cpu': x"), "branches"),
]


@pytest.mark.parametrize(("name", "spoil", "complaint"), BAD)
def test_a_bad_notebook_breaks_its_rule_and_hears_why(name, spoil, complaint):
    node = good_notebook()
    spoil(node)
    assert any(complaint in found for found in getattr(rules, name)(node))


def test_predictions_that_keep_the_rule_are_not_complained_about():
    node = good_notebook()
    ask(node)
    replace(node, "**Predict**, then run", "Look")
    nbformat.validate(node)
    assert {rule.__name__: rule(node) for rule in RULES if rule(node)} == {}


def test_every_rule_has_a_notebook_that_breaks_it():
    assert {name for name, *_ in BAD} == {rule.__name__ for rule in RULES}


def test_what_is_allowed_is_not_complained_about():
    node = good_notebook()
    drawing = code("draw('lora')", figure(), tags=["schematic"])
    drawing.execution_count = 2
    for cell in node.cells[3:]:
        if cell.cell_type == "code":
            cell.execution_count += 1
    node.cells[3:3] = [new_markdown_cell("A picture."), drawing]
    picture = base64.b64encode(b"\xfe\x6d\xa9" * 40).decode()
    assert "/m2p" in picture
    show(node, f'<img src="data:image/png;base64,/tmp/{picture}"> https://x.org/home/', "text/html")
    assert {rule.__name__: rule(node) for rule in RULES if rule(node)} == {}


def test_rules_do_not_change_the_notebook():
    node = good_notebook()
    before = copy.deepcopy(node)
    for rule in RULES:
        rule(node)
    assert node == before
