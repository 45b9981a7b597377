"""Where the subcommands write, and the option that they share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()
Folder = Annotated[
    Path | None, typer.Option(help="Folder of the notebooks; the checkout's by default.")
]


def print_lines(text: str) -> None:
    """Print a text as it is: no markup in it is read, no number coloured, no line folded."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
