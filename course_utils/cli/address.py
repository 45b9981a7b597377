"""``course address``: where the repository is, in every place that must know it."""

from typing import Annotated

import typer

from course_utils.cli.console import Folder, console


def address(
    url: Annotated[
        str | None,
        typer.Argument(help="https://github.com/owner/name; without it, what is set is shown."),
    ] = None,
    folder: Folder = None,
) -> None:
    """Write the repository's address into pyproject.toml and into every notebook's first cells.

    A notebook then opens on Colab by its badge, and its set-up cell installs the course there.
    """
    from course_utils.cli.notebooks.files import (
        notebooks_dir,
        read_notebook,
        select_notebooks,
        write_notebook,
    )
    from course_utils.cli.notebooks.setup_cell import (
        read_address,
        trl_pin,
        with_address,
        with_setup,
    )
    from course_utils.files import write_text
    from course_utils.paths import checkout_dir

    checkout = checkout_dir()
    if checkout is None:
        raise ValueError("course address is for a clone of the course: there is none here")
    pyproject = checkout / "pyproject.toml"
    if url is not None:
        write_text(pyproject, with_address(pyproject.read_text(encoding="utf-8"), url))
    known, pin, n_changed = read_address(pyproject), trl_pin(pyproject), 0
    for path in select_notebooks(folder or notebooks_dir()):
        node = read_notebook(path)
        if with_setup(node, path.name, known, pin):
            write_notebook(path, node)
            n_changed += 1
    console.print(f"address: {known or 'not set'}; {n_changed} notebooks changed")
