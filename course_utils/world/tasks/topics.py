"""Topics: which of the Gazette's six desks must answer a letter.

The label is what the writer asks about. Asides name other desks' matters and mislead a reader who
counts words, so the grade is their number. Only training names the ``seen`` things: that a lute is
music and a mole is not has to be known from pretraining. ``test_unseen`` has new sentences as well.
"""

from random import Random

from course_utils.world.country import build_country, lexicon
from course_utils.world.narrator import Narrator

SIZES = {"train": 2400, "validation": 300, "test": 600, "test_unseen": 600}


def build(seed: int) -> dict[str, list[dict]]:
    """Return the rows of each split: text, label, label_name, asides."""
    seen: set[str] = set()
    return {split: _rows(split, size, seed, seen) for split, size in SIZES.items()}


def _rows(split: str, size: int, seed: int, seen: set[str]) -> list[dict]:
    narrator = Narrator(build_country(), Random(f"topics-{split}-{seed}"))
    labels = lexicon("topics")["labels"]
    things = "seen" if split == "train" else "unseen"
    phrasing = "unseen" if split == "test_unseen" else "seen"
    rows: list[dict] = []
    while len(rows) < size:
        name, asides = labels[len(rows) % len(labels)], narrator.pick((0, 1, 1, 2, 2))
        text = _letter(narrator, name, asides, things, phrasing)
        if text not in seen:
            seen.add(text)
            rows.append(
                {"text": text, "label": labels.index(name), "label_name": name, "asides": asides}
            )
    return narrator.some(rows, size, size)


def _letter(narrator: Narrator, topic: str, n_asides: int, things: str, phrasing: str) -> str:
    words, scene = lexicon("topics"), narrator.scene()

    def about(kind: str, matter: str) -> str:
        thing = narrator.pick(words["matters"][matter][things])
        return narrator.fill(narrator.pick(words[kind][phrasing]), {"x": thing})

    others = [other for other in words["labels"] if other != topic]
    lines = [about("asides", other) for other in narrator.some(others, n_asides, n_asides)]
    lines.insert(narrator.rng.randrange(len(lines) + 1), about("questions", topic))
    greeting = narrator.fill(narrator.pick(words["greetings"][phrasing]), scene).rstrip(".")
    closing = narrator.pick(words["closings"][phrasing])
    lines += [narrator.fill(closing, scene)] if closing else []
    return f"{greeting}\n{' '.join(lines)}"
