"""``course notebooks`` and ``course update``: the reader's own copies of the chapters."""

from pathlib import Path
from typing import Annotated

import typer

from course_utils.cli.console import console


def notebooks(
    folder: Annotated[
        Path | None, typer.Argument(help="Where to; my/ in a clone, else in your documents.")
    ] = None,
) -> None:
    """Copy the chapters out, to work on; what is there already is never overwritten."""
    _bring(folder, renews=False)


def update(
    folder: Annotated[
        Path | None, typer.Argument(help="Your copies; my/ in a clone, else in your documents.")
    ] = None,
) -> None:
    """Bring new versions of the chapters to your copies; one you have changed stays as it is.

    The new version of a changed one is put beside it, as NN_name.new.ipynb.
    """
    _bring(folder, renews=True)


def _bring(folder: Path | None, *, renews: bool) -> None:
    from course_utils.cli.notebooks.copies import bring, own_folder
    from course_utils.cli.notebooks.files import notebooks_dir

    target = folder or own_folder()
    done = bring(notebooks_dir(), target, renews=renews)
    console.print(f"{target}: {done}", soft_wrap=True)
