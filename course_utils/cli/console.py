"""Where the subcommands write, and the option that they share."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()
Folder = Annotated[
    Path | None, typer.Option(help="Folder of the notebooks; the checkout's by default.")
]
