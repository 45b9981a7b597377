"""Roles: who gave what to whom, and where; each word of a sentence carries a label.

The same people give and receive, and people, things and towns also pass by with no part in the
trade, so that a word does not tell its label. What does tell it stands before the word: a causal
model reads from left to right. The names, things and towns of validation and tests never occur in
training; ``test_unseen`` has new wordings as well.
"""

import re
from random import Random

from course_utils.world.country import lexicon
from course_utils.world.grammar import Grammar, pick, pick_some, sentence, tidy
from course_utils.world.wordings import part_of

ROLES = ("other", "giver", "receiver", "thing", "place")
SIZES = {"train": 1200, "validation": 150, "test": 300, "test_unseen": 300}
_ROLE_OF_SLOT = {
    "giver": "giver",
    "receiver_now_gives": "giver",
    "receiver": "receiver",
    "giver_now_gets": "receiver",
    "thing": "thing",
    "thing2": "thing",
    "place": "place",
}
_OTHER_SLOTS = ("other_person", "other_thing", "other_place", "colour", "day")
_MARKED = {name: f"{{{name}}}" for name in (*_ROLE_OF_SLOT, *_OTHER_SLOTS)}
_MARK = re.compile(r"\{(\w+)\}")


def build(seed: int) -> dict[str, list[dict]]:
    """Return the rows of each split: words, and their roles as indices of ``ROLES``."""
    seen: set[str] = set()
    return {split: _rows(split, size, seed, seen) for split, size in SIZES.items()}


def _rows(split: str, size: int, seed: int, seen: set[str]) -> list[dict]:
    rng = Random(f"roles-{split}-{seed}")
    forms, wording = lexicon("roles"), "unseen" if split == "test_unseen" else "seen"
    grammar = Grammar({**forms["rules"], "turn": forms["turn"][wording], "start": forms[wording]})
    rows: list[dict] = []
    while len(rows) < size:
        # Tidied with the slots still open, so that no mark of punctuation stands alone.
        frame = sentence(grammar.expand("start", rng, _MARKED).replace(" :", ":"))
        row = _labelled(frame.replace(" ?", "?"), _values(rng, is_unseen=split != "train"))
        if (text := " ".join(row["words"])) not in seen:
            seen.add(text)
            rows.append(row)
    return rows


def _values(rng: Random, *, is_unseen: bool) -> dict[str, str]:
    """Return what fills the slots of one sentence."""
    names, words = lexicon("names"), lexicon("things")
    first = [n for kind in ("female", "male") for n in part_of(names[kind], is_unseen)]
    surnames = part_of(names["surnames"], is_unseen)
    giver, receiver, passer_by = (
        f"{name} {pick(rng, surnames)}" if rng.random() < 0.5 else name
        for name in pick_some(rng, first, 3)
    )
    goods = [thing for kind in ("goods", "edibles") for thing in part_of(words[kind], is_unseen)]
    thing, thing2, other_thing = pick_some(rng, goods, 3)
    place, other_place = pick_some(rng, part_of(lexicon("places")["towns"], is_unseen), 2)
    return {
        "giver": giver,
        "giver_now_gets": giver,
        "receiver": receiver,
        "receiver_now_gives": receiver,
        "other_person": passer_by,
        "thing": thing,
        "thing2": thing2,
        "other_thing": other_thing,
        "place": place,
        "other_place": other_place,
        "colour": pick(rng, words["colours"]),
        "day": pick(rng, words["days"]),
    }


def _labelled(frame: str, values: dict[str, str]) -> dict[str, list]:
    """Fill the slots of a sentence; every word of a value has the role of its slot."""
    words: list[str] = []
    roles: list[int] = []
    for part in frame.split():
        mark = _MARK.search(part)
        role = _ROLE_OF_SLOT.get(mark[1], "other") if mark else "other"
        filled = part.replace(mark[0], values[mark[1]]).split() if mark else [part]
        words += filled
        roles += [ROLES.index(role)] * len(filled)
    return {"words": tidy(" ".join(words)).split(), "roles": roles}
