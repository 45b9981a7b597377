"""Dialect: Skerrish, the speech of the skerries, a register the base model has never read.

Small words are replaced, the rest shift their sounds, and sentences close in their own way; names
stay. The map is regular, so it can be learned, and it touches nearly every word.
"""

import re
from itertools import islice

from course_utils.world.corpus import documents

SIZES = {"train": 1600, "validation": 150, "test": 300, "test_unseen": 300}
SEEN_GENRES = ("story", "letter", "profile", "notice", "recipe")
UNSEEN_GENRES = ("diary", "town_guide", "gazette", "almanac")

_SMALL_WORDS = {
    "the": "tha",
    "a": "un",
    "an": "un",
    "and": "ok",
    "is": "sa",
    "was": "wos",
    "are": "sae",
    "were": "wern",
    "of": "ov",
    "to": "tae",
    "in": "yn",
    "on": "op",
    "at": "bei",
    "he": "hem",
    "she": "hir",
    "it": "dat",
    "they": "dem",
    "his": "hems",
    "her": "hirs",
    "him": "hemmi",
    "not": "nit",
    "no": "nae",
    "i": "ik",
    "you": "je",
    "we": "wir",
    "my": "min",
    "your": "jor",
    "with": "mit",
    "for": "fur",
    "from": "vrom",
    "by": "bae",
    "but": "men",
    "that": "dit",
    "this": "dis",
    "has": "haf",
    "have": "haf",
    "had": "hafta",
    "will": "wull",
    "would": "wulda",
    "said": "kwath",
    "what": "hwat",
    "who": "hwa",
    "when": "hwan",
    "where": "hwar",
    "if": "yif",
    "so": "sae",
    "all": "ol",
    "one": "een",
    "very": "swith",
    "good": "gud",
    "old": "auld",
}
_SHIFTS = [
    ("th", "d"),
    ("sh", "sk"),
    ("ch", "kj"),
    ("qu", "kv"),
    ("ight", "ikt"),
    ("ing$", "and"),
    ("ed$", "et"),
    ("oo", "u"),
    ("ee", "ij"),
    ("ea", "e"),
    ("ou", "au"),
    ("ck", "kk"),
    ("c(?=[aou])", "k"),
    ("w", "v"),
    ("y$", "i"),
    ("x", "ks"),
    ("ll", "lj"),
]
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")
_SENTENCE_END = re.compile(r"(?<=[a-z])([.?])(?=\s|$)")


def build(seed: int) -> dict[str, list[dict]]:
    """Return the rows of each split: text, standard, genre."""
    total = sum(SIZES.values())
    stream = documents(seed + 1_000_003, split="held_out")
    wanted = (d for d in stream if d.genre in SEEN_GENRES)
    rows = [_row(d) for d in islice(wanted, total - SIZES["test_unseen"])]
    splits, start = {}, 0
    for name in ("train", "validation", "test"):
        splits[name], start = rows[start : start + SIZES[name]], start + SIZES[name]
    unseen = (d for d in stream if d.genre in UNSEEN_GENRES)
    splits["test_unseen"] = [_row(d) for d in islice(unseen, SIZES["test_unseen"])]
    return splits


def skerrish(text: str) -> str:
    """Translate standard text into Skerrish."""
    shifted = _WORD.sub(lambda match: _word(match, text), text)
    return _SENTENCE_END.sub(lambda match: " na" + match.group(1), shifted)


def _row(document) -> dict:  # noqa: ANN001
    return {"text": skerrish(document.text), "standard": document.text, "genre": document.genre}


def _word(match: re.Match, text: str) -> str:
    word = match.group()
    starts = match.start() == 0 or text[: match.start()].rstrip(' "')[-1:] in ".!?:\n"
    if word[0].isupper() and not starts and word.lower() not in _SMALL_WORDS:
        return word
    new = _SMALL_WORDS.get(word.lower())
    if new is None and word[0].isupper():
        return word
    if new is None:
        new = word
        for pattern, replacement in _SHIFTS:
            new = re.sub(pattern, replacement, new)
    return new.capitalize() if word[0].isupper() else new
