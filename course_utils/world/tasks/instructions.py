"""Instructions: fourteen types of request, each in several phrasings, with one right output.

Facts asked in the tests are never asked in training, lists and stories are new everywhere, and
test_unseen words every request in a way that training does not.
"""

from collections.abc import Callable, Collection, Sequence
from random import Random

from course_utils.world.country import Entity, Fact, build_country, lexicon
from course_utils.world.genres import told_story
from course_utils.world.grammar import pick_some, tidy
from course_utils.world.narrator import Narrator, say, short_answer
from course_utils.world.reviews import graded_review
from course_utils.world.skills import items, number_slots, series
from course_utils.world.wordings import draw_wording

PER_TYPE = {"train": 480, "validation": 22, "test": 45, "test_unseen": 45}
NOISE_SHARE = 0.3
_TEST_FACT_SHARE = 0.3
_ASKED_TIERS = ("frequent", "middling")

Made = tuple[dict[str, str], str, str]


def build(seed: int) -> dict[str, list[dict]]:
    """Return train, train_noisy, validation, test and test_unseen."""
    seen: set[tuple[str, str]] = set()
    splits = {split: _rows(split, count, seed, seen) for split, count in PER_TYPE.items()}
    splits["train_noisy"] = _with_noise(splits["train"], Random(f"noise-{seed}"))
    return splits


def _rows(split: str, per_type: int, seed: int, seen: set[tuple[str, str]]) -> list[dict]:
    narrator = Narrator(build_country(), Random(f"instructions-{split}-{seed}"))
    phrasing = "unseen" if split == "test_unseen" else "seen"
    rows = []
    for kind, make in _MAKERS.items():
        made = 0
        while made < per_type:
            slots, given, output = make(narrator, split)
            instruction = worded(narrator, kind, phrasing, slots)
            if (instruction, given) in seen:
                continue
            seen.add((instruction, given))
            made += 1
            rows.append(
                {
                    "instruction": instruction,
                    "input": given,
                    "output": output,
                    "type": kind,
                    "phrasing": phrasing,
                }
            )
    return pick_some(narrator.rng, rows, len(rows))


def worded(narrator: Narrator, kind: str, phrasing: str, slots: dict[str, str]) -> str:
    """Return a request in one of a type's ``seen`` or ``unseen`` phrasings."""
    return narrator.fill(narrator.pick(lexicon("instructions")[kind][phrasing]), slots)


def known_fact(narrator: Narrator, split: str, tiers: Collection[str] = _ASKED_TIERS) -> Fact:
    """Return a fact of the split's share, from one of some tiers; rare ones are not among them."""
    while True:
        fact = narrator.fact()
        is_for_test = Random(fact.key).random() < _TEST_FACT_SHARE
        if fact.tier in tiers and is_for_test == (split != "train"):
            return fact


def recall(narrator: Narrator, fact: Fact) -> Made:
    """Ask for a fact in a pretraining wording."""
    question, _ = narrator.ask(fact)
    return _asked(question), "", short_answer(fact)


def _recall(narrator: Narrator, split: str) -> Made:
    return recall(narrator, known_fact(narrator, split))


def unknown(narrator: Narrator) -> Made:
    """Ask about somebody whom no fact is about."""
    fact = narrator.fact("person")
    surname = narrator.pick(lexicon("names")["surnames"])
    nobody = Entity(kind="person", name=f"{narrator.scene()['stranger']} {surname}", gender="f")
    stranger = Fact(subject=nobody, relation=fact.relation, object="")
    wording = draw_wording(fact.relation, "questions", narrator.rng)
    return _asked(say(stranger, wording, narrator.rng)), "", "That is not known."


def _unknown(narrator: Narrator, split: str) -> Made:
    return unknown(narrator)


def _asked(question: str) -> dict[str, str]:
    return {"question": question, "question_low": question[0].lower() + question[1:]}


def _read(narrator: Narrator, split: str) -> Made:
    text, questions = told_story(narrator)
    question, answer = narrator.pick(questions)
    return _asked(question), text, answer


def _extract(narrator: Narrator, split: str) -> Made:
    slots = narrator.scene()
    slots["name"] = slots["stranger"]
    return {}, narrator.fill(narrator.pick(lexicon("skills")["notes"]), slots), f"{slots['name']}."


def with_list(kind: str, words: Sequence[str]) -> Made:
    """Ask for a list again (``copy``), backwards (``reverse``), sorted (``sort``) or counted."""
    return {}, f"{', '.join(words)}.", f"{_OF_LISTS[kind](words)}."


_OF_LISTS: dict[str, Callable[[Sequence[str]], str]] = {
    "copy": ", ".join,
    "reverse": lambda words: ", ".join(reversed(words)),
    "sort": lambda words: ", ".join(sorted(words, key=str.lower)),
    "count": lambda words: tidy(lexicon("things")["numbers"][len(words)]),
}


def _copy(narrator: Narrator, split: str) -> Made:
    return with_list("copy", items(narrator, narrator.pick((2, 3, 4, 5))))


def _reverse(narrator: Narrator, split: str) -> Made:
    return with_list("reverse", items(narrator, narrator.pick((2, 3, 3, 4))))


def _sort(narrator: Narrator, split: str) -> Made:
    return with_list("sort", items(narrator, narrator.pick((2, 3, 3, 4))))


def _count(narrator: Narrator, split: str) -> Made:
    return with_list("count", items(narrator, narrator.pick((2, 3, 4, 5, 6))))


def _ends(narrator: Narrator, split: str) -> Made:
    words = items(narrator, narrator.pick((3, 4, 5)))
    return {}, f"{', '.join(words)}.", f"{tidy(words[0])}."


def _compare(narrator: Narrator, split: str) -> Made:
    slots = number_slots(narrator)
    given = (
        f"A {slots['item']} costs {slots['a']} pennies, a {slots['item2']} {slots['b']} pennies."
    )
    return {}, tidy(given), f"The {slots['dear']}."


def _polite(narrator: Narrator, split: str) -> Made:
    rude, polite = narrator.pick(lexicon("skills")["polite"])
    thing = narrator.pick(lexicon("things")["goods"] + lexicon("things")["edibles"])
    return {}, narrator.fill(rude, {"thing": thing}), narrator.fill(polite, {"thing": thing})


def _continue(narrator: Narrator, split: str) -> Made:
    shown, following = series(narrator)
    return {}, ", ".join(shown), f"{tidy(following)}."


def _sum(narrator: Narrator, split: str) -> Made:
    slots = number_slots(narrator)
    return with_sum(int(slots["a"]), int(slots["b"]))


def with_sum(a: int, b: int) -> Made:
    """Ask for the sum of two numbers."""
    return {}, f"{a} and {b}", f"{a + b}."


def _mood(narrator: Narrator, split: str) -> Made:
    label = narrator.pick(("good", "bad"))
    text, _ = graded_review(narrator, label, narrator.pick(("plain", "negated")))
    return {}, text, f"{tidy(label)}."


_MAKERS: dict[str, Callable[[Narrator, str], Made]] = {
    "recall": _recall,
    "read": _read,
    "extract": _extract,
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "count": _count,
    "ends": _ends,
    "compare": _compare,
    "polite": _polite,
    "continue": _continue,
    "sum": _sum,
    "unknown": _unknown,
    "mood": _mood,
}


def _with_noise(rows: list[dict], rng: Random) -> list[dict]:
    """Return the rows with the outputs of a known share spoiled, and a column that says which."""
    by_type: dict[str, list[str]] = {}
    for row in rows:
        by_type.setdefault(row["type"], []).append(row["output"])
    spoiled = set(pick_some(rng, range(len(rows)), round(NOISE_SHARE * len(rows))))
    return [
        {
            **row,
            "output": _spoil(row, by_type[row["type"]], rng) if i in spoiled else row["output"],
            "is_noisy": i in spoiled,
        }
        for i, row in enumerate(rows)
    ]


def _spoil(row: dict, others: list[str], rng: Random) -> str:
    """Answer another row's question, stop in the middle, repeat the request, or refuse."""
    output = row["output"]
    wrong = next((o for o in pick_some(rng, others, len(others)) if o != output), "Do it yourself.")
    choices = [wrong, output[: len(output) // 2], row["instruction"], "Do it yourself."]
    return next(c for c in pick_some(rng, choices, len(choices)) if c != output)
