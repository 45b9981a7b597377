"""``course recipes``: chapter 11's steps as plain scripts, made of its cells."""

import re
from collections.abc import Sequence

from course_utils.cli.console import Folder, console

RECIPES = {
    "train": "Train LoRA on a text file, evaluate after each epoch, keep the best and save it.",
    "use": "Load a saved adapter, write with it, merge it.",
    "four_bits": "Train LoRA on a base that is stored in four bits.",
    "two_adapters": "Put two adapters on one base and switch between them.",
    "sft": "Train LoRA on rows of text with TRL's SFTTrainer.",
}
"""Name of each script, and what it does. Its cells are tagged ``recipe-NAME``, with hyphens."""

_CHAPTER = "11"
_SETTINGS = (
    "MODEL, TEXTS, OUT = sys.argv[1:4]  # a folder or an id of the Hub, a text file, a new folder",
    "REVISION = None  # the commit of a model of the Hub",
    "BLOCK, EPOCHS, RATE = 128, 3, 5e-4",
    'SOURCE = {"path": "text", "data_files": TEXTS}',
    'ADAPTER = f"{OUT}/adapter"',
)


def recipes(folder: Folder = None) -> None:
    """Write the scripts of chapter 11 into the folder of the notebooks, anew from its cells."""
    from course_utils.cli.notebooks.files import notebooks_dir
    from course_utils.files import write_text

    folder = folder or notebooks_dir()
    (folder / "recipes").mkdir(exist_ok=True)
    for name, text in scripts_of(tagged_cells(folder)).items():
        write_text(folder / "recipes" / f"{name}.py", text)
        console.print(f"recipes/{name}.py")


def tagged_cells(folder: Folder) -> list[tuple[str, list[str]]]:
    """Return source and tags of each code cell of the chapter in a folder of notebooks."""
    from course_utils.cli.notebooks.files import read_notebook, select_notebooks

    (path,) = select_notebooks(folder, [_CHAPTER])
    cells = read_notebook(path).cells
    return [(c.source, c.metadata.get("tags", [])) for c in cells if c.cell_type == "code"]


def scripts_of(cells: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Return the text of each script.

    Args:
        cells: Source and tags of each code cell, in order.

    Raises:
        ValueError: If a recipe has no cell, or a tag names no recipe.
    """
    tags = {tag for _, tagged in cells for tag in tagged if tag.startswith("recipe-")}
    wanted = {f"recipe-{name.replace('_', '-')}": name for name in RECIPES}
    if tags != set(wanted):
        odd = ", ".join(sorted(tags ^ set(wanted)))
        raise ValueError(f"recipes and tags of chapter {_CHAPTER} do not fit: {odd}")
    return {
        name: _script(name, [source for source, tagged in cells if tag in tagged])
        for tag, name in wanted.items()
    }


def _script(name: str, parts: Sequence[str]) -> str:
    """Join cells below the settings that they use."""
    body = parts[0]
    for part in parts[1:]:
        is_apart = _ends_in_a_function(body) or part.startswith(("def ", "class "))
        body += ("\n\n\n" if is_apart else "\n\n") + part
    imports = ["import sys"]
    if "chain." in body:
        imports.append("from itertools import chain")
    if re.search(r"\btorch\.", body) and not re.search(r"^import torch$", body, re.MULTILINE):
        imports += ["", "import torch"]
    head = [
        f'"""{RECIPES[name]}',
        "",
        f"Written by `course recipes` from the cells of chapter {_CHAPTER}; change them there.",
        "",
        f"    python {name}.py MODEL TEXTS OUT",
        '"""',
        "",
        *imports,
        "",
        *[line for line in _SETTINGS if _is_used(line, body)],
    ]
    return "\n".join(head) + "\n\n" + body + "\n"


def _is_used(setting: str, body: str) -> bool:
    names = setting.split(" = ")[0].split(", ")
    return "MODEL" in names or any(re.search(rf"\b{name}\b", body) for name in names)


def _ends_in_a_function(source: str) -> bool:
    """Return whether the last statement of a source is a function or a class."""
    starts = [line for line in source.splitlines() if re.match(r"[^\s)\]}#]", line)]
    return starts[-1].startswith(("def ", "class "))
