from itertools import islice

import pytest

from course_utils.data import load_task
from course_utils.evaluation import exact_match_by
from course_utils.rlhf.checkable import (
    LEVELS,
    CheckableReward,
    Problem,
    all_words_somewhere_with_a_hole,
    draw_problems,
    exact_match,
    partial_credit,
    problems,
    read_answer,
    weighted,
    well_formed,
)
from course_utils.world.country import build_country

RULES = (exact_match, well_formed, partial_credit, all_words_somewhere_with_a_hole)
HONEST = RULES[:3]
EVERY = [(kind, level) for kind in LEVELS for level in range(1, len(LEVELS[kind]) + 1)]


def some(kind: str, level: int = 1, n: int = 30, **options: object) -> list[Problem]:
    return list(islice(problems(kind, level, **options), n))


def problem(kind: str = "reverse", given: str = "a, b, c.", output: str = "c, b, a.") -> Problem:
    return Problem(kind=kind, level=1, instruction="Do it now.", input=given, output=output)


# Problems


@pytest.mark.parametrize(("kind", "level"), EVERY)
def test_the_right_answer_is_right_by_every_rule_and_an_echo_by_no_honest_one(kind, level):
    for asked in some(kind, level):
        for rule in RULES:
            assert rule(asked, asked.output) == rule(asked, f" {asked.output}\n") == 1
        prompt = f"{asked.instruction}\n{asked.input}".strip()
        echoes = [prompt, prompt.upper(), f"{prompt}\n{asked.output}", f"{prompt} {asked.output}"]
        if asked.input and kind != "copy":
            echoes += [asked.input, f"{asked.input} {asked.output}"]
        assert [rule(asked, echo) for echo in echoes for rule in HONEST] == [0] * 3 * len(echoes)


@pytest.mark.parametrize("kind", ["copy", "reverse", "sort", "count"])
def test_a_level_of_lists_is_a_length(kind: str):
    for level, length in enumerate(LEVELS[kind], start=1):
        lists = [asked.input.removesuffix(".").split(", ") for asked in some(kind, level)]
        assert {len(words) for words in lists} == {length}


def test_the_right_answers_by_hand():
    for asked in some("reverse", 3):
        assert asked.output[:-1].split(", ")[::-1] == asked.input[:-1].split(", ")
    for asked in some("sort", 3):
        words = asked.output[:-1].split(", ")
        assert words == sorted(asked.input[:-1].split(", "), key=str.lower)
    for asked in some("count", 3):
        assert asked.output == "Four."
    for level, largest in enumerate(LEVELS["sum"], start=1):
        numbers = [list(map(int, p.input.split(" and "))) for p in some("sum", level, 200)]
        assert [f"{a + b}." for a, b in numbers] == [p.output for p in some("sum", level, 200)]
        assert 0.8 * largest < max(map(max, numbers)) <= largest
        assert min(map(min, numbers)) >= 1
    assert {asked.output for asked in some("unknown")} == {"That is not known."}


def test_a_level_of_recall_is_a_tier_and_tests_ask_other_facts():
    country, answers = build_country(), {}
    for level, tier in enumerate(LEVELS["recall"], start=1):
        names = {fact.subject.short_name for fact in country.facts if fact.tier == tier}
        for split in ("train", "test"):
            asked = some("recall", level, 200, split=split)
            answers[level, split] = {p.output for p in asked}
            assert any(name in p.instruction for p in asked for name in names)
    assert len(set(map(frozenset, answers.values()))) == 6


def test_problems_are_a_function_of_the_seed():
    assert some("reverse") == some("reverse") != some("reverse", seed=1)
    seen, unseen = some("sum"), some("sum", phrasing="unseen")
    assert not {p.instruction for p in seen} & {p.instruction for p in unseen}


def test_drawn_problems_differ_come_in_turn_and_leave_out_what_they_must():
    test = load_task("instructions", "test")
    held_out = {(row["instruction"], row["input"]) for row in test}
    kinds = {"reverse": 1, "sum": 1, "copy": 3}
    drawn = draw_problems(kinds, 600, without=held_out)
    asked = {(p.instruction, p.input) for p in drawn}
    assert len(asked) == 600
    assert not asked & held_out
    assert [(p.kind, p.level) for p in drawn] == [*kinds.items()] * 200
    assert {(p.instruction, p.input) for p in draw_problems(kinds, 600)} & held_out  # else vacuous


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "poem"}, "kind='poem' must be one of copy, reverse"),
        ({"level": 7}, "level=7 must be .*1..6"),
        ({"level": 0}, "level=0 must be .*1..6"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"phrasing": "odd"}, "phrasing='odd' must be one of seen, unseen"),
        ({"split": "dev"}, "split='dev' must be one of train, test"),
    ],
)
def test_what_is_no_problem_is_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        problems(**{"kind": "sort"} | options)


def test_more_problems_than_there_are_are_refused():
    with pytest.raises(ValueError, match=r"n=5000 must be at most .* of sum at level 1"):
        draw_problems({"sum": 1}, 5000)
    with pytest.raises(ValueError, match=r"kinds=.* must name at least one of copy"):
        draw_problems({}, 5)


# Rules


@pytest.mark.parametrize(
    ("answer", "exact", "form", "partial", "holed"),
    [
        ("c, b, a.", 1, 1, 1, 1),
        ("  c, b, a. \n", 1, 1, 1, 1),
        ("c, b, a", 0, 0, 1, 1),
        ("C, b, a.", 0, 1, 1, 1),
        ("b, c, a.", 0, 1, 1 / 3, 1),
        ("c, b.", 0, 0, 2 / 3, 0),
        ("c, b, a, d.", 0, 0, 3 / 4, 1),
        ("x, y, z.", 0, 1, 0, 0),
        ("c, , a.", 0, 0, 1 / 3, 0),
        ("a, b, c.", 0, 0, 0, 1),  # the hole: the list copied
        ("Do it now.\na, b, c.", 0, 0, 0, 1),  # the hole: the prompt's echo
        ("DO IT  NOW", 0, 0, 0, 0),
        ("c, b, a.\nc, b, a.", 0, 0, 0, 1),
        ("a b c d c, b, a.", 0, 0, 0, 1),
        ("", 0, 0, 0, 0),
        ("\n", 0, 0, 0, 0),
    ],
)
def test_the_rules_by_hand(answer, exact, form, partial, holed):
    expected = [exact, form, partial, holed]
    assert [rule(problem(), answer) for rule in RULES] == pytest.approx(expected)


def test_forms_of_the_kinds():
    total, count = problem("sum", "3 and 4", "7."), problem("count", "a, b.", "Two.")
    assert [well_formed(total, a) for a in ("7.", "12.", "7", "Seven.", "1 2.")] == [1, 1, 0, 0, 0]
    assert [well_formed(count, a) for a in ("Two.", "Nine.", "Many.", "2.")] == [1, 1, 0, 0]
    fact = problem("recall", "", "A baker.")
    assert [well_formed(fact, a) for a in ("A smith.", "No. A smith.", "A smith")] == [1, 0, 0]


def test_the_hole_pays_for_all_numbers_in_a_row_and_the_honest_rules_do_not():
    total, answer = problem("sum", "3 and 4", "7."), "1 2 3 4 5 6 7 8 9."
    assert all_words_somewhere_with_a_hole(total, answer) == 1
    assert [rule(total, answer) for rule in HONEST] == [0, 0, 0]


def test_the_right_copy_is_no_echo():
    copied = problem("copy", "a, b.", "a, b.")
    assert read_answer(copied, "a, b.") == "a, b."
    assert read_answer(copied, "Do it now. a, b.") is None


def test_exact_match_is_that_of_the_evaluation():
    asked = some("reverse", 2, 20) + some("recall", 1, 20)
    answers = [p.output if i % 3 else p.output.upper() for i, p in enumerate(asked)]
    rows = [{"output": p.output, "all": "x"} for p in asked]
    right = exact_match_by(rows, answers, "all")["x"].right
    assert sum(map(exact_match, asked, answers)) == right == 26


def test_rules_add_up():
    rule = weighted([(1, exact_match), (0.25, well_formed)])
    assert [rule(problem(), a) for a in ("c, b, a.", "b, c, a.", "no")] == [1.25, 0.25, 0]
    with pytest.raises(ValueError, match="at least one weight"):
        weighted([])
    with pytest.raises(ValueError, match="weight=nan must be"):
        weighted([(float("nan"), exact_match)])


# The reward


def test_a_reward_looks_up_the_problem_of_a_prompt():
    asked = [problem(), problem("copy", "x, y.", "x, y.")]
    reward = CheckableReward(["p", "q"], asked)
    assert reward(["q", "p", "p"], ["x, y.", "x, y.", "c, b, a."]) == [1, 0, 1]
    with pytest.raises(ValueError, match="prompt 'r' must be one that the reward knows"):
        reward(["r"], ["x"])
    with pytest.raises(ValueError, match=r"must have one right answer and has 'c, b, a.' and 'x"):
        CheckableReward(["p", "p"], asked)
    with pytest.raises(ValueError, match="1 prompts and 2 problems"):
        CheckableReward(["p"], asked)
