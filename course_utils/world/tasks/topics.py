"""Topics: which of the Gazette's six desks must answer a letter.

The label is what the writer asks about. Mentions of other desks' matters (``asides``) mislead a
reader who counts words, so the grade is their number.
"""

from random import Random

from course_utils.world.country import build_country, lexicon
from course_utils.world.narrator import Narrator

SIZES = {"train": 2000, "validation": 300, "test": 600, "test_unseen": 600}


def build(seed: int) -> dict[str, list[dict]]:
    """Return the rows of each split: text, label, label_name, asides."""
    seen: set[str] = set()
    return {split: _rows(split, size, seed, seen) for split, size in SIZES.items()}


def _rows(split: str, size: int, seed: int, seen: set[str]) -> list[dict]:
    narrator = Narrator(build_country(), Random(f"topics-{split}-{seed}"))
    labels = lexicon("topics")["labels"]
    rows: list[dict] = []
    while len(rows) < size:
        label, asides = len(rows) % len(labels), narrator.pick((0, 1, 1, 2, 2))
        text = _letter(
            narrator, labels[label], asides, "unseen" if split == "test_unseen" else "seen"
        )
        if text not in seen:
            seen.add(text)
            rows.append(
                {"text": text, "label": label, "label_name": labels[label], "asides": asides}
            )
    return narrator.some(rows, size, size)


def _letter(narrator: Narrator, topic: str, n_asides: int, phrasing: str) -> str:
    words, scene = lexicon("topics"), narrator.scene()
    question = _sentence(narrator, words["questions"][topic], words["questions"][topic][phrasing],
                         phrasing, words["leads"][phrasing])  # fmt: skip
    others = narrator.some(
        [other for other in words["labels"] if other != topic], n_asides, n_asides
    )
    lines = [
        _sentence(
            narrator, words["questions"][other], words["asides"][other][phrasing], phrasing, [""]
        )
        for other in others
    ]
    lines.insert(narrator.rng.randrange(len(lines) + 1), question)
    greeting = narrator.fill(narrator.pick(words["greetings"][phrasing]), scene).rstrip(".")
    closing = narrator.pick(words["closings"][phrasing])
    lines += [narrator.fill(closing, scene)] if closing else []
    return " ".join([greeting, *lines])


def _sentence(
    narrator: Narrator, topic: dict, templates: list[str], phrasing: str, leads: list[str]
) -> str:
    slots = narrator.scene() | {name: narrator.pick(v) for name, v in topic["words"].items()}
    if phrasing == "unseen":
        slots |= {name: narrator.pick(values) for name, values in topic["unseen_words"].items()}
    return narrator.fill(narrator.pick(leads) + narrator.pick(templates), slots)
