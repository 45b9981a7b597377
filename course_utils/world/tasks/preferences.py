"""Preferences: two answers to a question, and which is better by a score that is kept.

The score is the judge's (``course_utils.world.judge``): politeness + truth - 0.5 fillers, with
politeness 0..3 and truth 0 wrong, 1 evasive, 2 right. Rude (0) and polite answers (2, and 3 with
two compliments) are framed alike: a word of praise or of blame decides, and those of the tests do
not occur in training. Most wrong answers answer another question; the rest name a wrong person or
thing. Polite answers are longer and fillers few, so length happens to go with quality in training;
in ``test_longer_is_worse`` it goes against it.
"""

from dataclasses import replace
from random import Random

from course_utils.world.country import Fact, build_country, lexicon
from course_utils.world.grammar import pick_some
from course_utils.world.judge import Judgement
from course_utils.world.narrator import Narrator, short_answer
from course_utils.world.wordings import part_of

SIZES = {
    "train": 3600,
    "validation": 300,
    "test": 600,
    "test_unseen": 600,
    "test_longer_is_worse": 400,
}
MIN_MARGIN = 0.5
BESIDE_THE_POINT = 0.6
_FILLERS = {"test_longer_is_worse": (0, 1, 2, 3)}
_FEW_FILLERS = (0, 0, 0, 0, 0, 0, 0, 1, 2)


def build(seed: int) -> dict[str, list[dict]]:
    """Return prompts with a chosen and a rejected answer, their grades and their scores."""
    seen: set[tuple[str, str, str]] = set()
    return {split: _rows(split, size, seed, seen) for split, size in SIZES.items()}


def _rows(split: str, size: int, seed: int, seen: set[tuple[str, str, str]]) -> list[dict]:
    narrator = Narrator(build_country(), Random(f"preferences-{split}-{seed}"))
    rows: list[dict] = []
    while len(rows) < size:
        fact = narrator.fact()
        if fact.tier == "rare":
            continue
        question, _ = narrator.ask(fact)
        row = _pair(narrator, question, fact, split)
        if row is None or (key := (question, row["chosen"], row["rejected"])) in seen:
            continue
        seen.add(key)
        rows.append(row)
    return rows


def _pair(narrator: Narrator, question: str, fact: Fact, split: str) -> dict | None:
    first, second = (_answer(narrator, fact, split) for _ in range(2))
    better, worse = sorted((first, second), key=lambda answer: -answer["score"])
    if better["score"] - worse["score"] < MIN_MARGIN:
        return None
    if split == "test_longer_is_worse" and len(better["text"]) >= len(worse["text"]):
        return None
    row = {"prompt": question, "chosen": better["text"], "rejected": worse["text"]}
    for name, answer in (("chosen", better), ("rejected", worse)):
        row |= {
            f"{name}_{part}": answer[part] for part in ("politeness", "truth", "fillers", "score")
        }
    return row | {"margin": better["score"] - worse["score"]}


def _answer(narrator: Narrator, fact: Fact, split: str) -> dict:
    words = lexicon("preferences")
    politeness, truth = narrator.pick((0, 1, 1, 2, 2, 3)), narrator.pick((0, 0, 1, 2, 2, 2))
    fillers = narrator.pick(_FILLERS.get(split, _FEW_FILLERS))
    if truth == 1:
        core = narrator.pick(words["evasive"])
    else:
        told = fact if truth == 2 else _wrong(narrator, fact)
        is_whole = narrator.chance(0.7 if truth == 2 else 0.3)
        core = narrator.state(told) if is_whole else short_answer(told)
    padding = pick_some(narrator.rng, words["fillers"], fillers)
    text = _framed(narrator, " ".join([core, *padding]), politeness, split)
    grade = Judgement(politeness=politeness, truth=truth, fillers=fillers)
    return {
        "text": text,
        "politeness": politeness,
        "truth": truth,
        "fillers": fillers,
        "score": grade.score,
    }


def _framed(narrator: Narrator, answer: str, politeness: int, split: str) -> str:
    """Say something kind or unkind about the asker: before the answer, after it, or (3) both."""
    words = lexicon("preferences")
    if politeness == 1:
        return narrator.fill(narrator.pick(words["neutral"]), {"a": answer})
    persons = words["persons"]["bad" if politeness == 0 else "good"]
    persons = part_of(persons, split != "train")
    phrasing = "unseen" if split == "test_unseen" else "seen"
    before, after = (
        narrator.fill(narrator.pick(words[place][phrasing]), {"x": narrator.pick(persons)})
        for place in ("before", "after")
    )
    if politeness == 3:
        return f"{before} {answer} {after}"
    return f"{before} {answer}" if narrator.chance(0.5) else f"{answer} {after}"


def _wrong(narrator: Narrator, fact: Fact) -> Fact:
    """Return the answer to another question, or the fact with the object of another of its kind.

    Who understands the question sees that the first is wrong; the second has to be known.
    """
    facts = [f for f in narrator.country.facts if f.object != fact.object]
    if narrator.chance(BESIDE_THE_POINT):
        return narrator.pick([f for f in facts if f.relation != fact.relation])
    other = narrator.pick([f for f in facts if f.relation == fact.relation])
    return replace(fact, object=other.object)
