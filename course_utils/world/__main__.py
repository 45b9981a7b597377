"""Write the micro-world: ``python -m course_utils.world corpus``, ``... tasks``, ``... texts``."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from course_utils.files import new_file, replacement_of
from course_utils.paths import data_dir
from course_utils.world.corpus import SPLITS, documents
from course_utils.world.tasks import write_tasks
from course_utils.world.texts import write_texts

app = typer.Typer(
    help="Write the micro-world's corpus, its task sets or the text file of chapter 11.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def corpus(
    out: Annotated[Path, typer.Argument(help="Text file to write.")],
    n_documents: Annotated[int, typer.Option(min=0, help="Documents to write.")] = 1000,
    split: Annotated[str, typer.Option(help=f"One of {', '.join(SPLITS)}.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the documents.")] = 0,
) -> None:
    """Write documents of the corpus, separated by a blank line and their genre."""
    with replacement_of(out) as temporary, new_file(temporary) as file:
        for document in islice(documents(seed, split=split), n_documents):
            file.write(f"=== {document.genre}\n{document.text}\n\n".encode())


@app.command()
def tasks(
    out: Annotated[Path | None, typer.Option(help="Folder; default: the course's own.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the rows.")] = 0,
) -> None:
    """Write every split of every task set."""
    write_tasks(out or data_dir() / "tasks", seed)


@app.command()
def texts(
    out: Annotated[Path | None, typer.Option(help="Folder; default: the course's own.")] = None,
) -> None:
    """Write the plain text file that chapter 11 trains on."""
    write_texts(out or data_dir() / "texts")


if __name__ == "__main__":
    app()
