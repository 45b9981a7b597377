"""The course's notebooks as files: find them, read them, clean them, write them back whole."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.files import check_plain, write_text
from course_utils.paths import checkout_dir, package_dir
from course_utils.validation import shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

_PATTERN = "[0-9][0-9]_*.ipynb"
NEW_VERSION = ".new.ipynb"
_PICTURE = "picture-"
_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_PLACEHOLDER = "Interactive: run this cell to use it."


def notebooks_dir() -> Path:
    """Return the folder of the notebooks: the checkout's, or the one that came with the package.

    Raises:
        FileNotFoundError: If none of them holds a notebook.
    """
    checkout = checkout_dir()
    folder = checkout / "notebooks" if checkout else package_dir() / "_notebooks"
    if any(folder.glob(_PATTERN)):
        return folder
    fix = "git checkout -- notebooks" if checkout else "install the package again"
    raise FileNotFoundError(f"no notebooks in {folder}: {fix}, or name their folder (--folder)")


def select_notebooks(folder: Path, numbers: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks of these numbers, in order and once each; all of them without numbers.

    Raises:
        FileNotFoundError: If the folder holds no notebook.
        ValueError: If a number names none; the message lists what exists.
    """
    existing = sorted(p for p in folder.glob(_PATTERN) if not p.name.endswith(NEW_VERSION))
    if not existing:
        raise FileNotFoundError(f"no notebook like 00_start.ipynb in {folder}")
    for number in numbers:
        if not isinstance(number, str) or not number:
            raise ValueError(f"chapter {shown(number)} must be a number as in 00_start.ipynb")
    wanted = {number.zfill(2) for number in numbers}
    unknown = sorted(wanted - {path.name[:2] for path in existing})
    if unknown:
        listing = ", ".join(path.stem for path in existing)
        raise ValueError(f"no notebook {', '.join(unknown)[:40]}: there are {listing}")
    return [path for path in existing if not wanted or path.name[:2] in wanted]


def read_notebook(path: Path) -> "NotebookNode":
    """Read a notebook of format 4.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file is not a notebook.
    """
    import nbformat

    check_plain(path)
    try:
        node = nbformat.read(path, as_version=4)
        nbformat.validate(node)
    except OSError:
        raise
    except Exception as error:  # nbformat trips over each kind of damage in another way
        first_line = (str(error).splitlines() or [""])[0][:120]
        raise ValueError(f"{path} is not a valid notebook: {first_line}") from error
    return node


def code_cells(node: "NotebookNode") -> list["NotebookNode"]:
    """Return the notebook's code cells that hold code, in order."""
    return [cell for cell in node.cells if cell.cell_type == "code" and cell.source.strip()]


def strip_volatile(node: "NotebookNode") -> "NotebookNode":
    """Remove from a notebook, in place, what changes from run to run or from machine to machine.

    Timings, front-end state and the interpreter's version go. A widget's view, which means
    nothing without its kernel, gives way to the picture or page that came with it, or to one line
    of text. Figures are kept in a palette of 96 colours, a third of the bytes.

    Raises:
        ValueError: If an output says that it is a PNG picture, and is none.
    """
    node.metadata.pop("widgets", None)
    node.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    node.metadata["language_info"] = {"name": "python"}
    for cell in node.cells:
        for key in ("execution", "ExecuteTime", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
    for cell in code_cells(node):
        cell.outputs = [output for output in cell.outputs if not _is_progress_bar(output)]
        for output in cell.outputs:
            data = output.get("data", {})
            if data.pop(_WIDGET_VIEW, None) is not None and set(data) <= {"text/plain"}:
                output.data = {"text/plain": _WIDGET_PLACEHOLDER}
                output.metadata = {}
            if "image/png" in data:
                data["image/png"] = _in_palette(data["image/png"])
    return node


def _in_palette(png: str) -> str:
    """Return a base64 PNG with at most 96 colours; one that has so few already stays as it is."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(base64.b64decode(png)), formats=["PNG"])
        image.load()
    except Exception as error:  # Pillow trips over each kind of damage in another way
        raise ValueError(f"a picture of the notebook is no PNG: {shown(png)}") from error
    if image.mode == "P":
        return png
    few = image.convert("RGB").quantize(96, dither=Image.Dither.NONE)
    few.save(buffer := io.BytesIO(), format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def tagged_pictures(node: "NotebookNode") -> dict[str, bytes]:
    """Return the PNG of each cell tagged ``picture-NAME``, by name.

    Raises:
        ValueError: If a name is more than letters, digits, ``-`` and ``_``: it becomes a file's.
    """
    pictures = {}
    for cell in code_cells(node):
        for tag in cell.metadata.get("tags", []):
            for output in cell.outputs:
                png = output.get("data", {}).get("image/png")
                if tag.startswith(_PICTURE) and png:
                    if not re.fullmatch(rf"{_PICTURE}[\w-]{{1,100}}", tag, re.ASCII):
                        raise ValueError(f"tag {shown(tag)} must be letters, digits, - and _")
                    pictures[tag.removeprefix(_PICTURE)] = base64.b64decode(png)
    return pictures


def _is_progress_bar(output: "NotebookNode") -> bool:
    """Return whether an output is what a finished tqdm bar leaves behind."""
    text = output.get("data", {}).get("text/plain", "")
    return _WIDGET_VIEW in output.get("data", {}) and bool(re.match(r"\s*\d+%\|", text))


def write_notebook(path: Path, node: "NotebookNode") -> None:
    """Write a notebook so that the file is at any moment wholly the old one or the new one.

    Raises:
        OSError: If it cannot be written, for instance on a full disk; the old file stands.
    """
    import nbformat

    nbformat.validate(node)
    text = nbformat.writes(node, version=4)
    write_text(path, re.sub(r"\n*\Z", "\n", text))
