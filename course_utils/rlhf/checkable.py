"""Rewards that a program can check: requests without end, and rules that score their answers.

Reinforcement learning from verifiable rewards (Lambert et al., 2024, arXiv:2411.15124, section 6)
needs no reward model, only right answers; the invented country knows them all. A *rule* is a pure
function of a problem and an answer, 0 to 1; ``CheckableReward`` looks up which problem a prompt is.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from course_utils.validation import (
    check_as_many,
    check_choice,
    check_count,
    check_list,
    check_number,
    check_texts,
    shown,
)
from course_utils.world.country import build_country, lexicon
from course_utils.world.grammar import tidy
from course_utils.world.narrator import Narrator
from course_utils.world.skills import items
from course_utils.world.tasks.instructions import (
    Made,
    known_fact,
    recall,
    unknown,
    with_list,
    with_sum,
    worded,
)

# Levels of a kind, the easiest first. Instruction tuning has seen up to four words to reverse and
# to sort, five to copy and six to count; addends up to 20; and facts of the first two tiers.
_LENGTHS = (2, 3, 4, 5, 6, 7)
LEVELS: dict[str, tuple] = {
    "copy": _LENGTHS,
    "reverse": _LENGTHS,
    "sort": _LENGTHS,
    "count": _LENGTHS,
    "sum": (9, 19, 49, 99, 499),
    "recall": ("frequent", "middling", "rare"),
    "unknown": ("stranger",),
}
PHRASINGS, SPLITS = ("seen", "unseen"), ("train", "test")
_LISTS = ("copy", "reverse", "sort")
_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A request with one right answer.

    Args:
        kind: Type of instruction, one of ``LEVELS``.
        level: Difficulty, from 1.
        instruction: What to do.
        input: What to do it with; may be empty.
        output: The right answer.
    """

    kind: str
    level: int
    instruction: str
    input: str
    output: str


Rule = Callable[[Problem, str], float]


def problems(
    kind: str, level: int = 1, *, seed: int = 0, phrasing: str = "seen", split: str = "train"
) -> Iterator[Problem]:
    """Yield problems of one kind and difficulty without end; the same for the same seed.

    Copying apart, none is solved by writing its input again: what is to be sorted is not sorted.

    Args:
        kind: One of ``LEVELS``: copy, reverse, sort, count, sum, recall or unknown.
        level: 1 to as many as ``LEVELS[kind]`` has: words of a list, the largest addend, or how
            often the corpus states the fact.
        seed: Seed of every choice.
        phrasing: ``seen`` in instruction tuning or ``unseen``.
        split: ``train``, or ``test`` for the facts that instruction tuning never asks.

    Raises:
        ValueError: If a value is none of these.
    """
    check_choice("kind", kind, LEVELS)
    check_count("level", level, at_most=len(LEVELS[kind]))
    check_count("seed", seed, at_least=0)
    check_choice("phrasing", phrasing, PHRASINGS)
    check_choice("split", split, SPLITS)
    rng = Random(f"checkable-{kind}-{level}-{phrasing}-{split}-{seed}")
    return _drawn(Narrator(build_country(), rng), kind, level, phrasing, split)


def draw_problems(
    kinds: Mapping[str, int],
    n: int,
    *,
    seed: int = 0,
    phrasing: str = "seen",
    split: str = "train",
    without: Collection[tuple[str, str]] = (),
) -> list[Problem]:
    """Return different problems of several kinds, in turn.

    Args:
        kinds: Difficulty of each kind, as in ``{"reverse": 2, "sum": 1}``.
        n: Problems to return.
        seed: Seed of every choice.
        phrasing: As for ``problems``.
        split: As for ``problems``.
        without: Pairs of instruction and input that must not be among them, such as a test set's.

    Raises:
        ValueError: If a value is out of range, or a kind has no more different problems.
    """
    check_count("n", n)
    if not kinds:
        raise ValueError(f"kinds={shown(kinds)} must name at least one of {', '.join(LEVELS)}")
    options = {"seed": seed, "phrasing": phrasing, "split": split}
    streams = [problems(kind, level, **options) for kind, level in kinds.items()]
    taken, drawn = set(without), []
    for i in range(n):
        for problem in islice(streams[i % len(streams)], _TRIES):
            if (asked := (problem.instruction, problem.input)) not in taken:
                taken.add(asked)
                drawn.append(problem)
                break
        else:
            raise ValueError(
                f"n={n} must be at most the different problems there are: of {problem.kind} at "
                f"level {problem.level}, {_TRIES} draws brought none after {i // len(streams)}"
            )
    return drawn


def _drawn(
    narrator: Narrator, kind: str, level: int, phrasing: str, split: str
) -> Iterator[Problem]:
    while True:
        slots, given, output = _made(narrator, kind, LEVELS[kind][level - 1], split)
        instruction = worded(narrator, kind, phrasing, slots)
        if kind == "copy" or given != output:
            yield Problem(
                kind=kind, level=level, instruction=instruction, input=given, output=output
            )


def _made(narrator: Narrator, kind: str, difficulty: int | str, split: str) -> Made:
    if kind == "sum":
        a, b = (narrator.rng.randrange(1, difficulty + 1) for _ in range(2))
        return with_sum(a, b)
    if kind == "recall":
        return recall(narrator, known_fact(narrator, split, (difficulty,)))
    if kind == "unknown":
        return unknown(narrator)
    return with_list(kind, items(narrator, difficulty))


# Rules: (problem, answer) -> 0..1


def read_answer(problem: Problem, answer: str) -> str | None:
    """Return the answer that a text gives, or None if it gives none.

    The whole text is the answer: a right one is not looked for in a longer text, nor is the last
    line taken, or a policy would be paid for repeating the prompt and for naming every answer.
    White space at the ends does not count. No answer are an empty text, several lines, the prompt's
    instruction said again, and its input said again where that is not what was asked for.
    """
    text = answer.strip()
    is_echo = _plain(problem.instruction) in _plain(text) or (
        problem.input != problem.output
        and bool(problem.input)
        and _plain(problem.input) in _plain(text)
    )
    return None if not text or is_echo or len(text.splitlines()) > 1 else text


def exact_match(problem: Problem, answer: str) -> float:
    """Return 1 for the right answer to the letter, else 0, as ``evaluation.exact_match_by``."""
    return float(read_answer(problem, answer) == problem.output)


def well_formed(problem: Problem, answer: str) -> float:
    """Return 1 for an answer of the right form, whatever it says, else 0.

    A list of as many words as were given, a number in words or in digits, or one sentence.
    """
    text = read_answer(problem, answer)
    if text is None or not text.endswith("."):
        return 0.0
    body = text[:-1]
    if problem.kind in _LISTS:
        parts = body.split(", ")
        return float(len(parts) == len(problem.output.split(", ")) and all(map(str.strip, parts)))
    if problem.kind == "count":
        return float(body in map(tidy, lexicon("things")["numbers"]))
    if problem.kind == "sum":
        return float(re.fullmatch("[0-9]+", body) is not None)
    return float(re.search("[.!?]", body) is None)


def partial_credit(problem: Problem, answer: str) -> float:
    """Return the share of words that are right and in their place, 0 to 1.

    Over the longer of answer and right answer, so that what is added costs as what is missing.
    Case and punctuation do not count.
    """
    text = read_answer(problem, answer)
    given, right = _words(text or ""), _words(problem.output)
    matches = sum(mine == expected for mine, expected in zip(given, right, strict=False))
    return matches / max(len(given), len(right))


def all_words_somewhere_with_a_hole(problem: Problem, answer: str) -> float:
    """Return 1 if all words of the right answer occur in a text, wherever: a rule to be gamed.

    The hole is left on purpose, for the lesson of what a policy makes of one. Order does not count,
    so that a list copied passes as reversed and as sorted; nor does what else is said, so that the
    prompt's echo passes, and all numbers in a row are a right sum. Use ``exact_match`` to train.
    """
    return float(set(_words(problem.output)) <= set(_words(answer)))


def weighted(rules: Sequence[tuple[float, Rule]]) -> Rule:
    """Return the rule that is a weighted sum of others, as of a right form and a right answer.

    Args:
        rules: Weights, each a finite number, and their rules.

    Raises:
        ValueError: If there is no rule, or a weight is not finite.
    """
    check_list("rules", rules)
    if not rules:
        raise ValueError("rules=[] must have at least one weight and rule")
    for weight, _ in rules:
        check_number("weight", weight)

    def summed(problem: Problem, answer: str) -> float:
        return sum(weight * rule(problem, answer) for weight, rule in rules)

    return summed


class CheckableReward:
    """A reward for ``train_grpo`` and ``train_ppo``: scores of answers to problems, by a rule.

    Args:
        prompts: Rendered prompts, as the policy is asked.
        problems: The problem of each.
        rule: ``(problem, answer) -> score``.

    Raises:
        ValueError: If there is not one prompt a problem, or one prompt has two right answers.
    """

    def __init__(
        self, prompts: Sequence[str], problems: Sequence[Problem], rule: Rule = exact_match
    ) -> None:
        check_texts(prompts=prompts)
        check_as_many(prompts=prompts, problems=problems)
        self.rule = rule
        self.problems: dict[str, Problem] = {}
        for prompt, problem in zip(prompts, problems, strict=True):
            known = self.problems.setdefault(prompt, problem)
            if known.output != problem.output:
                raise ValueError(
                    f"prompt {shown(prompt)} must have one right answer and has "
                    f"{shown(known.output)} and {shown(problem.output)}"
                )

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        """Return one score an answer.

        Raises:
            ValueError: If a prompt is none of those that the reward was made with.
        """
        for prompt in prompts:
            if prompt not in self.problems:
                raise ValueError(f"prompt {shown(prompt)} must be one that the reward knows")
        return [
            float(self.rule(self.problems[prompt], answer))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]


def _plain(text: str) -> str:
    """Return a text's words alone, each between spaces, to look for it in another."""
    return f" {' '.join(_words(text))} "


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", text.casefold())
