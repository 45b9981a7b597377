"""The pretraining corpus: documents of every genre in a fixed mixture, without end and by seed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from course_utils.world import genres, reviews, skills
from course_utils.world.country import Country, build_country
from course_utils.world.narrator import Narrator

USER, ASSISTANT, END = "<|user|>", "<|assistant|>", "<|end|>"

_MIXTURE = {  # relative number of documents
    genres.profile: 175,
    genres.town_guide: 50,
    genres.almanac: 75,
    genres.quiz: 75,
    genres.story: 110,
    genres.letter: 50,
    genres.dialogue: 45,
    genres.notice: 35,
    genres.diary: 25,
    genres.gazette: 30,
    genres.recipe: 30,
    reviews.review: 130,
    skills.copying: 120,
    skills.extracting: 35,
    skills.arithmetic: 25,
    skills.manners: 15,
    genres.chat: 5,
}
COLLECTION = "collection"
_COLLECTION_SHARE = 0.06
TEMPLATED = frozenset({"quiz", "copying", "extracting", "arithmetic", "manners", "chat"})
SPLITS = ("train", "held_out")


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text of the corpus.

    Args:
        genre: Name of the function that wrote it, as in ``story``, or ``collection`` for a few
            documents on one page, which are the long ones.
        text: The text, without special tokens except in ``chat``.
    """

    genre: str
    text: str


def genre_names() -> tuple[str, ...]:
    """Return every genre of the corpus."""
    return (*(write.__name__ for write in _MIXTURE), COLLECTION)


def documents(
    seed: int,
    *,
    split: str = "train",
    country: Country | None = None,
    mentions: Counter | None = None,
) -> Iterator[Document]:
    """Yield documents without end; the same seed and split give the same documents.

    Args:
        seed: Seed of the choices (the country has its own).
        split: ``train`` or ``held_out``: two streams that share the country and nothing else.
        country: Ground truth; the course's country by default.
        mentions: Counts how often each fact is told, if given.

    Raises:
        ValueError: If ``split`` is neither.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r} must be one of {', '.join(SPLITS)}")
    narrator = Narrator(country or build_country(), Random(f"{split}-{seed}"))
    if mentions is not None:
        narrator.mentions = mentions
    while True:
        if narrator.chance(_COLLECTION_SHARE):
            parts = [_one(narrator).text for _ in range(narrator.rng.randrange(2, 7))]
            yield Document(genre=COLLECTION, text="\n\n".join(parts))
        else:
            yield _one(narrator)


def _one(narrator: Narrator) -> Document:
    write = narrator.rng.choices(list(_MIXTURE), list(_MIXTURE.values()))[0]
    marks = (USER, ASSISTANT, END) if write is genres.chat else ()
    return Document(genre=write.__name__, text=write(narrator, *marks))
