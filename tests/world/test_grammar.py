from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_utils.world.grammar import Grammar, join_words, pick_some, sentence, tidy


def expansions(template: str, **slots: str) -> set[str]:
    return {Grammar({}).fill(template, Random(i), slots) for i in range(200)}


def test_choices_nest_and_every_alternative_occurs():
    assert expansions("x[a|b[1|2]|]") == {"xa", "xb1", "xb2", "x"}


def test_slots_are_filled_and_unknown_ones_are_refused():
    assert expansions("{s} likes {o}", s="Mira", o="plums") == {"Mira likes plums"}
    with pytest.raises(KeyError, match="who"):
        Grammar({}).fill("{who}", Random(0), {})


def test_rules_call_rules():
    grammar = Grammar({"greet": ["hello <whom>"], "whom": ["[you|{n}]"]})
    assert {grammar.expand("greet", Random(i), {"n": "Bo"}) for i in range(50)} == {
        "hello you",
        "hello Bo",
    }


@pytest.mark.parametrize("template", ["[a|b", "a]", "a|b", "{a", "[a|[b]"])
def test_unbalanced_templates_are_refused(template: str):
    with pytest.raises(ValueError, match="template"):
        Grammar({}).fill(template, Random(0), {"a": "x"})


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("a owl and a hen", "An owl and a hen"),
        ("it costs 1 pennies", "It costs 1 penny"),
        ("it costs 21 pennies", "It costs 21 pennies"),
        ("a unicorn, a umbrella", "A unicorn, an umbrella"),
        ("two  spaces", "Two spaces"),
    ],
)
def test_tidy_repairs_english(raw: str, clean: str):
    assert tidy(raw) == clean


def test_sentence_ends_once():
    assert sentence("is it so?") == "Is it so?"
    assert sentence("it is so") == "It is so."


def test_join_words_reads_as_english():
    assert [join_words(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


@given(st.integers(0, 30), st.integers(0, 10_000))
def test_pick_some_draws_without_replacement(count: int, seed: int):
    drawn = pick_some(Random(seed), range(30), count)
    assert len(drawn) == count == len(set(drawn))


def test_pick_some_refuses_more_than_there_are():
    with pytest.raises(ValueError, match="count=4"):
        pick_some(Random(0), "abc", 4)
