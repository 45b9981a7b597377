"""The house rules for a notebook, each a function from its node to a list of complaints."""

import ast
import re
import socket
import statistics
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

MAX_BYTES = 400_000
MAX_MEDIAN_LINES = 8
MAX_LINES = 30
MIN_FIGURES = 2
MIN_EXERCISES = 3
SECTIONS = (
    "Objectives",
    "Setup",
    "Where it breaks",
    "Exercises",
    "Quiz",
    "Summary",
    "References",
    "Next",
)
TITLE_BOX = {
    "the question": r"\bquestion\b",
    "prerequisites": r"\bprerequisites?\b",
    "the learner's minutes": r"\*\*your time\*\* \| \d+ min",
    "the machine's minutes": r"\bcpu: \d+\s*min",
    "peak memory": r"\d\s*[GM]i?B\b",
    "cpu": r"\bcpu\b",
    "t4": r"\bt4\b",
    "the paper": r"\bpapers?\b|arxiv",
}
LITTER = {
    "a warning": r"\b\w*Warning: ",
    "a traceback": r"Traceback \(most recent call last\)",
    "a progress bar": r"\r|\d%\||\d\s*(?:it/s|s/it)\b",
    "terminal colours": r"\x1b\[",
    "an object's address": r"\bat 0x[0-9a-fA-F]{6,}",
    "a path of this machine": r"(?<![\w.])(?:/(?:home|root|Users|tmp|work|opt|private)/"
    r"|/usr/(?:lib|local)/|[A-Za-z]:\\+Users)|\bsite-packages\b|\bipykernel_\d",
}
FIGURES = ("image/png", "image/jpeg", "image/svg+xml")

Rule = Callable[[NotebookNode], list[str]]


def code_cells(node: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """Return (position in the notebook, cell) of each code cell."""
    return [(i, cell) for i, cell in enumerate(node.cells) if cell.cell_type == "code"]


def prose(node: NotebookNode) -> str:
    """Return all markdown, one cell after the other."""
    return "\n\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")


def headings(node: NotebookNode) -> list[tuple[int, str]]:
    """Return (level, text) of each heading, not of comments in a code block."""
    text = re.sub(r"^(```|~~~).*?^\1", "", prose(node), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^(#{1,6})\s+(.+?)\s*#*$", text, re.MULTILINE)
    return [(len(marks), title) for marks, title in found]


def output_texts(cell: NotebookNode) -> Iterator[str]:
    """Yield everything readable in a cell's outputs, embedded pictures left out."""
    for output in cell.outputs:
        yield output.get("text", "")
        yield "\n".join(output.get("traceback", []))
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/") or kind in ("image/svg+xml", "application/json"):
                yield re.sub(r";base64,[A-Za-z0-9+/=\s]+", "", str(content))


def has_figure(cell: NotebookNode) -> bool:
    return any(kind in output.get("data", {}) for output in cell.outputs for kind in FIGURES)


def has_table(cell: NotebookNode) -> bool:
    return any(
        "<table" in text or re.search(r"^\|.+\|$", text, re.M) for text in output_texts(cell)
    )


def check_metadata(node: NotebookNode) -> list[str]:
    """One Python kernel's name, and nothing that a front end or a run left behind."""
    complaints = []
    if node.metadata.get("kernelspec", {}).get("name") != "python3":
        complaints.append("the kernel's name is not python3")
    if "widgets" in node.metadata:
        complaints.append("widget state is stored in the notebook")
    for i, cell in enumerate(node.cells):
        if "execution" in cell.metadata:
            complaints.append(f"cell {i} stores the time it ran")
        if "raises-exception" in cell.metadata.get("tags", []):
            complaints.append(f"cell {i} may raise anything: catch the error it shows")
    return complaints


def check_execution_counts(node: NotebookNode) -> list[str]:
    """One clean run in order: code cells are numbered 1..n, and none is empty."""
    complaints = [f"cell {i} is empty" for i, cell in code_cells(node) if not cell.source.strip()]
    counts = [cell.execution_count for _, cell in code_cells(node) if cell.source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        complaints.append(f"execution counts are not 1..{len(counts)}: {counts}")
    return complaints


def check_outputs(node: NotebookNode) -> list[str]:
    """No errors, warnings, paths, host names or progress bars in the outputs."""
    patterns = LITTER | {"this machine's name or folder": _local_names()}
    complaints = []
    for i, cell in code_cells(node):
        if any(output.output_type == "error" for output in cell.outputs):
            complaints.append(f"cell {i} ends in an error")
        if any(output.get("name") == "stderr" for output in cell.outputs):
            complaints.append(f"cell {i} writes to stderr")
        text = "\n".join(output_texts(cell))
        for what, pattern in patterns.items():
            if match := re.search(pattern, text):
                complaints.append(f"cell {i} shows {what}: {match[0]!r}")
    return complaints


def _local_names() -> str:
    folders = {str(Path.home()), str(Path(__file__).resolve().parents[2])} - {"/"}
    host = socket.gethostname()
    # A short or common host name is a word that prose and tables may well hold.
    hosts = {host} if len(host) > 5 and host not in ("localhost", "debian", "ubuntu") else set()
    return "|".join([*map(re.escape, folders), *(rf"\b{re.escape(name)}\b" for name in hosts)])


def check_size(node: NotebookNode) -> list[str]:
    """A notebook stays small enough for a review and for a slow line."""
    n_bytes = len(nbformat.writes(node).encode())
    return [f"{n_bytes:,} bytes, more than {MAX_BYTES:,}"] if n_bytes > MAX_BYTES else []


def check_cell_length(node: NotebookNode) -> list[str]:
    """Short code cells: the median and the longest are bounded, blank lines not counted."""
    lengths = {
        i: sum(1 for line in cell.source.splitlines() if line.strip())
        for i, cell in code_cells(node)
    }
    complaints = [
        f"cell {i} has {n} lines, more than {MAX_LINES}"
        for i, n in lengths.items()
        if n > MAX_LINES
    ]
    median = statistics.median(lengths.values()) if lengths else 0
    if median > MAX_MEDIAN_LINES:
        complaints.append(f"half the code cells have {median} lines, more than {MAX_MEDIAN_LINES}")
    return complaints


def check_prose_before_code(node: NotebookNode) -> list[str]:
    """Every code cell follows prose that says what to look for."""
    previous = [None, *node.cells]
    return [
        f"cell {i} has no prose before it"
        for i, cell in code_cells(node)
        if not _is_prose(previous[i])
    ]


def _is_prose(cell: NotebookNode | None) -> bool:
    """Return whether a cell is markdown with more than headings in it."""
    if cell is None or cell.cell_type != "markdown":
        return False
    return bool(re.sub(r"^#{1,6} .*$", "", cell.source, flags=re.MULTILINE).strip())


def check_figures(node: NotebookNode) -> list[str]:
    """Enough figures, each with a table beside it and then prose with a measured number.

    A cell tagged ``schematic`` draws no numbers, so it needs neither.
    """
    # The check of a prediction may stand between a figure and its table.
    cells = [(i, cell) for i, cell in code_cells(node) if ".check(" not in cell.source]
    n_figures = sum(has_figure(cell) for _, cell in cells)
    complaints = []
    if n_figures < MIN_FIGURES:
        complaints.append(f"{n_figures} figures, fewer than {MIN_FIGURES}")
    for k, (i, cell) in enumerate(cells):
        if not has_figure(cell) or "schematic" in cell.metadata.get("tags", []):
            continue
        if not any(has_table(near) for _, near in cells[max(k - 1, 0) : k + 2]):
            complaints.append(f"cell {i} draws a figure without a table of its numbers beside it")
        if not any(re.search(r"\d", prose.source) for prose in _prose_after(node, i)):
            complaints.append(f"cell {i} draws a figure and no prose with a number follows")
    return complaints


def _prose_after(node: NotebookNode, i: int) -> list[NotebookNode]:
    """Return the prose after a cell, and that after the check of a prediction in between."""
    after = node.cells[i + 1 : i + 4]
    is_checked = len(after) == 3 and ".check(" in after[1].source
    return [cell for cell in (after[::2] if is_checked else after[:1]) if _is_prose(cell)]


def check_title_box(node: NotebookNode) -> list[str]:
    """The notebook opens with its title and a box that says what it asks and what it costs."""
    first = node.cells[0] if node.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        return ["the first cell is not the title"]
    box = first.source.split("\n## ")[0]
    return [
        f"the title box does not give {what}"
        for what, pattern in TITLE_BOX.items()
        if not re.search(pattern, box, re.IGNORECASE)
    ]


def check_headings(node: NotebookNode) -> list[str]:
    """One title, no level skipped, and the fixed sections present and in order."""
    found = headings(node)
    complaints = []
    if [level for level, _ in found].count(1) != 1:
        complaints.append("there is not exactly one title")
    for (level, _), (next_level, title) in pairwise(found):
        if next_level > level + 1:
            complaints.append(f"heading {title!r} skips a level")
    titles = [title.lower() for _, title in found]
    places = []
    for section in SECTIONS:
        place = [k for k, title in enumerate(titles) if title.startswith(section.lower())]
        if not place:
            complaints.append(f"there is no section {section!r}")
        places += place[:1]
    if places != sorted(places):
        complaints.append(f"the sections are not in the order {', '.join(SECTIONS)}")
    return complaints


def check_experiments(node: NotebookNode) -> list[str]:
    """The reader predicts before an experiment, and looks for a bug or tests a myth."""
    text = prose(node)
    has = {
        "a call of predict, or a **Predict** prompt": bool(calls_of(node, "predict"))
        or re.search(r"\*\*predict", text, re.IGNORECASE),
        "a bug or a myth": re.search(r"\b(?:bug|myth)\b", text, re.IGNORECASE),
    }
    return [f"there is not {what}" for what, found in has.items() if not found]


def trees(node: NotebookNode) -> Iterator[tuple[int, ast.Module]]:
    """Yield (position, syntax tree) of each code cell."""
    for i, cell in code_cells(node):
        yield i, ast.parse(TransformerManager().transform_cell(cell.source))


def calls_of(node: NotebookNode, name: str) -> list[tuple[int, ast.Call]]:
    """Return (position of the cell, call) of each call of a plain name."""
    return [
        (i, item)
        for i, tree in trees(node)
        for item in ast.walk(tree)
        if isinstance(item, ast.Call) and ast.unparse(item.func) == name
    ]


def check_predictions(node: NotebookNode) -> list[str]:
    """Each prediction has an id of its chapter, a check in a later cell, and folded results.

    Chapters that do not call `predict` have nothing to keep.
    """
    predicts = calls_of(node, "predict")
    if not predicts:
        return []
    chapter = re.match(r"# (\d{2})\b", node.cells[0].source)
    number = chapter[1] if chapter else "NN"
    complaints, ids = [], [_text_of(call.args[0]) if call.args else "" for _, call in predicts]
    for name in dict.fromkeys(ids):
        if not name.startswith(f"{number}-"):
            complaints.append(f"the prediction {name!r} does not begin with {number}-")
        if ids.count(name) > 1:
            complaints.append(f"{ids.count(name)} predictions have the id {name!r}")
    targets, asks = _targets(node), {i for i, _ in predicts}
    held = [targets.get((i, ast.unparse(call))) for i, call in predicts]
    for (i, _), name, holder in zip(predicts, ids, held, strict=True):
        if holder is not None and held.count(holder) > 1:
            complaints.append(f"{held.count(holder)} predictions are assigned to {holder}")
        j = _cell_of_check(node, holder, i)
        if j is None:
            complaints.append(f"no later cell calls check for the prediction {name!r}")
        else:
            complaints += [
                f"cell {k} shows a result of the prediction {name!r}: fold its output"
                for k, cell in code_cells(node)
                if i < k <= j and k not in asks and cell.outputs and not _is_folded(cell)
            ]
    shown = [_text_of(call.args[0]) for _, call in calls_of(node, "calibration") if call.args]
    if shown != [number]:
        complaints.append(f'calibration("{number}") is not called exactly once')
    return complaints


def _text_of(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) else ""


def _targets(node: NotebookNode) -> dict[tuple[int, str], str]:
    """Return the name that each call, by its cell and source, is assigned to."""
    return {
        (i, ast.unparse(item.value)): ast.unparse(item.targets[0])
        for i, tree in trees(node)
        for item in tree.body
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Call)
    }


def _cell_of_check(node: NotebookNode, name: str | None, start: int) -> int | None:
    """Return the first cell behind ``start`` that calls the check of a name."""
    checks = calls_of(node, f"{name}.check")
    return min((j for j, _ in checks if j > start), default=None)


def _is_folded(cell: NotebookNode) -> bool:
    return cell.metadata.get("jupyter", {}).get("outputs_hidden") is True


def check_exercises(node: NotebookNode) -> list[str]:
    """Enough exercises, each with its three numbers, a checked attempt, hint and solution."""
    parts = _split_exercises(node)
    complaints = []
    if len(parts) < MIN_EXERCISES:
        complaints.append(f"{len(parts)} exercises, fewer than {MIN_EXERCISES}")
    wanted = {
        "difficulty": r"difficulty \d of 3",
        "importance": r"importance \d of 3",
        "minutes": r"\d\s*min",
        "call of attempt": r"\battempt\(",
        "folded hint": r"<details.*?<summary>[^<]*hint",
        "folded solution": r"<details.*?<summary>[^<]*solution",
    }
    for title, text in parts:
        for what, pattern in wanted.items():
            if not re.search(pattern, text, re.IGNORECASE | re.DOTALL):
                complaints.append(f"{title!r} has no {what}")
    return complaints


def _split_exercises(node: NotebookNode) -> list[tuple[str, str]]:
    """Return (title, everything up to the next heading) of each heading 'Exercise ...'."""
    text = "\n".join(
        cell.source if cell.cell_type == "markdown" else re.sub("^#", " #", cell.source, flags=re.M)
        for cell in node.cells
    )
    parts = re.split(r"^(#{1,6} .+)$", text, flags=re.MULTILINE)
    titled = zip(parts[1::2], parts[2::2], strict=True)
    return [(t.strip("# "), body) for t, body in titled if re.match(r"#+ Exercise\b", t)]


def check_profile_use(node: NotebookNode) -> list[str]:
    """A notebook reads the profile's fields and never branches on its name."""
    pattern = r"profile\.name\s*(?:==|!=|\bin\b)|COURSE_PROFILE"
    return [
        f"cell {i} branches on the profile's name"
        for i, cell in code_cells(node)
        if re.search(pattern, cell.source)
    ]


RULES: tuple[Rule, ...] = (
    check_metadata,
    check_execution_counts,
    check_outputs,
    check_size,
    check_cell_length,
    check_prose_before_code,
    check_figures,
    check_title_box,
    check_headings,
    check_experiments,
    check_predictions,
    check_exercises,
    check_profile_use,
)
