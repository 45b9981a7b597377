"""A plain text file as a learner has one: paragraphs in Skerrish, parted by blank lines."""

from pathlib import Path

from course_utils.files import write_text
from course_utils.validation import check_count
from course_utils.world.corpus import documents
from course_utils.world.tasks.dialect import skerrish

GENRES = frozenset({"profile", "story", "almanac", "letter", "diary", "gazette", "town_guide"})
N_CHARACTERS = 120_000
_SEED = 11_000_003  # A stream of its own: no paragraph of the task set `dialect`.


def skerrish_text(n_characters: int = N_CHARACTERS) -> str:
    """Return paragraphs in Skerrish, a blank line between two, the same at every call.

    Args:
        n_characters: The text ends with the last paragraph that fits.

    Raises:
        ValueError: If ``n_characters`` is below 1.
    """
    check_count("n_characters", n_characters)
    length, paragraphs = 0, []
    stream = (d.text for d in documents(_SEED, split="held_out") if d.genre in GENRES)
    for text in map(skerrish, stream):
        length += len(text) + 2
        if length > n_characters:
            break
        paragraphs.append(text)
    return "\n\n".join(paragraphs) + "\n"


def write_texts(folder: Path) -> None:
    """Write ``skerrish.txt`` into a folder."""
    write_text(folder / "skerrish.txt", skerrish_text())
