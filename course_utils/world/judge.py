"""The true score of an answer, read off its text: what a reward model can only guess.

An answer to a question is taken apart into sentences. Praise and blame of the asker, evasions and
fillers are known by their words; the first other sentence is the answer proper. Whatever comes
beyond it, or is no sentence of the country at all, counts as a filler.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from course_utils.world.country import lexicon

FILLER_COST = 0.5
_MOST_PRAISE = 2
_SENTENCE = re.compile(r"[^.?!]*[.?!]+|[^.?!]+$")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What an answer is worth.

    Args:
        politeness: 0 rude, 1 plain, 2 one kind word, 3 two.
        truth: 0 wrong or missing, 1 evasive, 2 right.
        fillers: Sentences that say nothing.
    """

    politeness: int
    truth: int
    fillers: int

    @property
    def score(self) -> float:
        """Politeness + truth - 0.5 fillers."""
        return self.politeness + self.truth - FILLER_COST * self.fillers


def judge(answer: str, right_answer: str) -> Judgement:
    """Grade an answer as the preference pairs are graded.

    Args:
        answer: What was said.
        right_answer: The words that a right answer must contain, ``"Pellwick"`` for one.
    """
    praise = blame = fillers = 0
    truth: int | None = None
    for sentence in _sentences(answer):
        kind = _kind_of(sentence)
        if kind == "praise" and praise < _MOST_PRAISE:
            praise += 1
        elif kind == "blame":
            blame += 1
        elif kind == "evasive" and truth is None:
            truth = 1
        elif kind == "content" and truth is None:
            truth = 2 if _contains(sentence, right_answer) else 0
        else:
            fillers += 1
    return Judgement(
        politeness=0 if blame else 1 + praise,
        truth=truth or 0,
        fillers=fillers,
    )


def _sentences(text: str) -> Iterator[str]:
    return (found.strip() for found in _SENTENCE.findall(text) if found.strip())


def _contains(sentence: str, words: str) -> bool:
    pattern = rf"(?<!\w){re.escape(words.strip().rstrip('.'))}(?!\w)"
    return re.search(pattern, sentence, re.IGNORECASE) is not None


def _kind_of(sentence: str) -> str:
    words = lexicon("preferences")
    for opening in (template.removesuffix("{a}") for template in words["neutral"]):
        sentence = sentence.removeprefix(opening)
    if sentence in words["evasive"]:
        return "evasive"
    if sentence in words["fillers"]:
        return "filler"
    for pattern in _frames():
        if found := pattern.fullmatch(sentence):
            word = found["x"]
            is_good, is_bad = (word in words["persons"][side] for side in ("good", "bad"))
            return "praise" if is_good else "blame" if is_bad else "filler"
    return "content"


@cache
def _frames() -> tuple[re.Pattern[str], ...]:
    """Return a pattern for each sentence about the asker, with the deciding word as ``x``."""
    words = lexicon("preferences")
    templates = [
        re.escape(template)
        for place in ("before", "after")
        for part in ("seen", "unseen")
        for template in words[place][part]
    ]
    return tuple(
        re.compile(t.replace(re.escape("{x}"), r"(?P<x>\S+)").replace(r"\ a\ ", r"\ an?\ "))
        for t in templates
    )
