"""How a notebook that is opened alone, on Colab or Kaggle, finds the course.

Every chapter begins with its title, a badge if the course has an address on GitHub, and one cell
that installs what is missing. All of them are written by this module, so that the address of the
repository stands in one place: ``project.urls`` in pyproject.toml.
"""

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from course_utils.validation import shown

if TYPE_CHECKING:
    from nbformat import NotebookNode

SETUP_TAG = "setup"
# Its code is folded: whoever has installed the course need not read it.
_METADATA = {"tags": [SETUP_TAG], "jupyter": {"source_hidden": True}, "cellView": "form"}
_URL = re.compile(r"https://[\w.-]+(?:/[\w.-]+)+/?")
_GITHUB = "https://github.com/"
_BADGE = re.compile(r"^\[!\[Open in Colab\].*\n\n?", re.MULTILINE)
_URLS = re.compile(r"^\[project\.urls\]\n(?:[^\[\n].*\n)*\n?", re.MULTILINE)
_USES_TRL = re.compile(r"^\s*(?:from|import) (?:trl|course_utils\.studies\.trl)\b", re.MULTILINE)


def read_address(pyproject: Path) -> str | None:
    """Return the address of the repository, or None where none has been set."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository")


def trl_pin(pyproject: Path) -> str:
    """Return the version of TRL that the extra ``trl`` asks for: ``1.12.*``."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    (pin,) = Requirement(project["optional-dependencies"]["trl"][0]).specifier
    return pin.version


def check_address(url: str) -> str:
    """Return an address without its last slash.

    Raises:
        ValueError: If it is not ``https://host/…``, which pip and git can both read.
    """
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise ValueError(
            f"address {shown(url)} must be like https://github.com/owner/name: "
            "letters, digits, '.', '_' and '-' between slashes"
        )
    return url.rstrip("/").removesuffix(".git")


def with_address(pyproject_text: str, url: str) -> str:
    """Return the text of pyproject.toml with this address in ``project.urls``, and no other."""
    section = f'[project.urls]\nRepository = "{check_address(url)}"\n\n'
    rest = _URLS.sub("", pyproject_text)
    head, mark, tail = rest.partition("[project.optional-dependencies]")
    return f"{head}{section}{mark}{tail}"


def setup_source(url: str | None, trl_version: str | None) -> str:
    """Return the code of the set-up cell.

    Where all is installed it does nothing. It never touches a package that is there: TRL alone
    would replace datasets, pyarrow and the Hub's client of a Colab runtime, so it comes without
    its dependencies, which the course has.

    Args:
        url: Address of the repository, or None.
        trl_version: TRL's version where the chapter needs it, else None.
    """
    lines = [
        "# Where the course is installed, this does nothing.",
        "from importlib.util import find_spec",
        "",
        'if find_spec("course_utils") is None:',
    ]
    if url:
        lines.append(f'    %pip install --quiet "course-utils @ git+{url}"')
    else:
        lines += [
            "    raise ModuleNotFoundError(",
            '        "course_utils is not installed: copy the course to this machine, then run "',
            '        "`%pip install FOLDER` in a cell or `make lab` in a terminal"',
            "    )",
        ]
    if trl_version:
        lines.append('if find_spec("trl") is None:')
        lines.append(f'    %pip install --quiet --no-deps "trl=={trl_version}"')
    return "\n".join(lines)


def badge(url: str | None, name: str) -> str:
    """Return the line that opens a notebook on Colab, or nothing if it is not on GitHub."""
    if not url or not url.startswith(_GITHUB):
        return ""
    page = f"https://colab.research.google.com/github/{url.removeprefix(_GITHUB)}"
    picture = "https://colab.research.google.com/assets/colab-badge.svg"
    return f"[![Open in Colab]({picture})]({page}/blob/main/notebooks/{name})\n\n"


def uses_trl(node: "NotebookNode") -> bool:
    """Return whether a notebook imports TRL, itself or through the course's studies with it."""
    return any(c.cell_type == "code" and _USES_TRL.search(c.source) for c in node.cells)


def with_setup(node: "NotebookNode", name: str, url: str | None, trl_version: str) -> bool:
    """Put badge and set-up cell of this address into a notebook, in place.

    A set-up cell that is new has not been run: it takes the number of the first cell that has, and
    all others go up by one, as they would.

    Returns:
        Whether anything changed.

    Raises:
        ValueError: If the notebook does not begin with its title.
    """
    import nbformat

    if not node.cells or not node.cells[0].source.startswith("# "):
        raise ValueError(f"{name} must begin with a cell with its title")
    title, _, rest = _BADGE.sub("", node.cells[0].source).partition("\n\n")
    opening = f"{title}\n\n{badge(url, name)}{rest}"
    source = setup_source(url, trl_version if uses_trl(node) else None)
    cell = node.cells[1] if len(node.cells) > 1 else None
    is_there = cell is not None and SETUP_TAG in cell.metadata.get("tags", [])
    now = (cell.source, dict(cell.metadata), node.cells[0].source) if is_there else None
    if now == (source, _METADATA, opening):
        return False
    node.cells[0].source = opening
    if is_there:
        cell.source, cell.metadata = source, nbformat.from_dict(_METADATA)
        return True
    for other in node.cells:
        if other.cell_type == "code" and other.execution_count:
            other.execution_count += 1
    new = nbformat.v4.new_code_cell(source, execution_count=1, metadata=dict(_METADATA))
    new.id = SETUP_TAG
    node.cells.insert(1, new)
    return True
