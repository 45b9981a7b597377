"""Sentiment: whether the writer of a review found it bad, mixed or good.

Four kinds of telling: plain, negated, mixed ("damp, but ..."), ironic. Most reviews also report
what other people thought, which does not count. The words of praise and blame in validation and
tests never occur in training: what they mean has to be known from pretraining. ``test_unseen`` has
new sentence forms as well.
"""

from random import Random

from course_utils.world.country import build_country, lexicon
from course_utils.world.narrator import Narrator
from course_utils.world.reviews import KINDS, LABELS, graded_review, kinds_of, telling_sentence
from course_utils.world.wordings import part_of

SIZES = {"train": 2400, "validation": 300, "test": 600, "test_unseen": 600}


def build(seed: int) -> dict[str, list[dict]]:
    """Return the rows of each split: text, label, label_name, kind, n_others, subject."""
    seen: set[str] = set()
    return {split: _rows(split, size, seed, seen) for split, size in SIZES.items()}


def _rows(split: str, size: int, seed: int, seen: set[str]) -> list[dict]:
    narrator = Narrator(build_country(), Random(f"sentiment-{split}-{seed}"))
    words = _words(split)
    rows: list[dict] = []
    while len(rows) < size:
        label = LABELS[len(rows) % len(LABELS)]
        kind = narrator.pick(kinds_of(label))
        text, subject = graded_review(narrator, label, kind, words=words)
        n_others = narrator.pick((0, 1, 1, 2, 2))
        text = " ".join(
            [text, *(_other_opinion(narrator, subject, words) for _ in range(n_others))]
        )
        if text not in seen:
            seen.add(text)
            rows.append(
                {
                    "text": text,
                    "label": LABELS.index(label),
                    "label_name": label,
                    "kind": kind,
                    "n_others": n_others,
                    "subject": subject,
                }
            )
    return narrator.some(rows, size, size)


def _other_opinion(narrator: Narrator, subject: str, words: dict) -> str:
    """Return what somebody else thought, whatever the writer did."""
    tone = narrator.pick(("good", "bad"))
    return telling_sentence(narrator, subject, narrator.pick(words["others"][tone]), words)


def _words(split: str) -> dict:
    """Return the reviews' lexicon with the words and the sentence forms that a split may use."""
    words = lexicon("reviews")
    forms = {
        kind: {tone: part_of(some, split == "test_unseen") for tone, some in words[kind].items()}
        for kind in (*KINDS, "others")
    }
    aspects = {
        name: {
            part: values if part == "nouns" else part_of(values, split != "train")
            for part, values in aspect.items()
        }
        for name, aspect in words["aspects"].items()
    }
    return words | forms | {"aspects": aspects}
