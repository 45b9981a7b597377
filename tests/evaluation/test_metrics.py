import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from course_utils.evaluation import bleu, distinct_n, exact_match_by, token_f1, win_rate

# Exact match


def test_matches_are_counted_by_type():
    rows = [
        {"output": "17. ", "type": "sum"},
        {"output": "Good.", "type": "mood"},
        {"output": "18.", "type": "sum"},
    ]
    found = exact_match_by(rows, [" 17.\n", "good.", "19."], "type")
    assert {name: (m.right, m.count, m.share) for name, m in found.items()} == {
        "mood": (0, 1, 0.0),
        "sum": (1, 2, 0.5),
    }
    assert list(found) == ["mood", "sum"]


def test_a_prediction_too_few_is_refused():
    with pytest.raises(ValueError, match="2 rows and 1 predictions must be as many"):
        exact_match_by([{"output": "a", "type": "x"}] * 2, ["a"], "type")
    with pytest.raises(ValueError, match=r"rows\[1\]=.* must have output, type"):
        exact_match_by([{"output": "a", "type": "x"}, {"output": "b"}], ["a", "b"], "type")


# Token F1


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The reed beds.", "reed beds", 1.0),  # case, article and full stop do not count
        ("in the reed beds", "reed beds", 0.8),  # P = 2/3, R = 1
        ("reed reed", "reed", 2 / 3),  # a word counts as often as both have it
        ("pond", "reed beds", 0.0),
        ("the", "a", 1.0),  # nothing is left of either
        ("", "reed", 0.0),
        ("the dog bit the man", "the man bit the dog", 1.0),  # where it misleads
    ],
)
def test_f1_by_hand(prediction, reference, expected):
    assert token_f1(prediction, reference) == pytest.approx(expected)


@given(st.text("ab c."), st.text("ab c."))
def test_f1_is_symmetric_and_within_bounds(first, second):
    assert token_f1(first, second) == token_f1(second, first)
    assert 0 <= token_f1(first, second) <= 1
    assert token_f1(first, first) == 1


# BLEU


def test_bleu_by_hand():
    # p_1 to p_4 are 5/6, 3/5, 2/4 and 1/3; equal lengths, so no brevity penalty.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert bleu(["the cat sat on the mat"], ["the cat sat on a mat"]) == pytest.approx(expected)
    # All n-grams are right, 5 words for 6.
    short = bleu(["the cat sat on the"], ["the cat sat on the mat"])
    assert short == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_bleu_of_sacrebleu_s_own_example():
    # "Using SacreBLEU from Python" in the README of github.com/mjpost/sacrebleu.
    first = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
    second = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]
    texts = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    assert bleu(texts, first, second) == pytest.approx(48.530827009929865, rel=1e-12)


def test_bleu_of_short_right_answers_is_nothing():
    assert bleu(["17.", "Good."], ["17.", "Good."]) == 0


def test_bleu_wants_a_reference_each():
    with pytest.raises(ValueError, match=r"no references"):
        bleu(["a"])
    with pytest.raises(ValueError, match="2 predictions and 1 references must be as many"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="there are no predictions and references"):
        bleu([], [])
    with pytest.raises(ValueError, match="predictions='ab' must be a list"):
        bleu("ab", ["a", "b"])


# Distinct n-grams


def test_distinct_by_hand():
    texts = ["the dog and the cat", "the dog"]
    assert distinct_n(texts, 1) == pytest.approx(4 / 7)
    # the dog, dog and, and the, the cat; not "cat the": a border lies between.
    assert distinct_n(texts, 2) == pytest.approx(4 / 7)
    assert distinct_n(["a a a a"], 2) == pytest.approx(1 / 4)
    assert distinct_n(["", ""], 1) == 0
    with pytest.raises(ValueError, match="texts='the dog' must be a list"):
        distinct_n("the dog", 1)
    with pytest.raises(ValueError, match=r"n=0 must be at least 1"):
        distinct_n(texts, 0)


def test_distinct_falls_with_the_amount_of_text():
    texts = ["the dog and the cat", "the dog", "a dog and a cat"]
    assert distinct_n(texts * 3, 1) == pytest.approx(distinct_n(texts, 1) / 3)


# Win rate


def test_wins_ties_and_losses_by_hand():
    found = win_rate([3, 1, 2, 2], [1, 3, 2, 1])
    assert (found.wins, found.ties, found.losses, found.rate) == (2, 1, 1, 0.625)
    other = win_rate([1, 3, 2, 1], [3, 1, 2, 2])
    assert other.rate == 1 - found.rate
    assert other.lower == pytest.approx(1 - found.upper)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.data(), st.sampled_from([0.8, 0.95]))
def test_without_ties_the_interval_is_scipy_s_wilson(count, data, confidence):
    wins = data.draw(st.integers(0, count))
    found = win_rate([1.0] * count, [0.0] * wins + [2.0] * (count - wins), confidence=confidence)
    expected = binomtest(wins, count).proportion_ci(confidence, method="wilson")
    assert found.lower == pytest.approx(expected.low, abs=1e-12)
    assert found.upper == pytest.approx(expected.high, abs=1e-12)


def test_ties_alone_are_a_draw():
    found = win_rate([1.0] * 10, [1.0] * 10)
    assert found.rate == 0.5
    assert found.lower < 0.5 < found.upper


def test_bad_scores_are_named():
    with pytest.raises(ValueError, match=r"scores\[1\]=nan must be a finite number"):
        win_rate([1, math.nan], [0, 0])
    with pytest.raises(ValueError, match="there are no scores and reference scores"):
        win_rate([], [])
    with pytest.raises(ValueError, match=r"confidence=95 must be above 0 and below 1"):
        win_rate([1], [0], confidence=95)
