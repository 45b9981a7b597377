import math

import pytest
import torch
from matplotlib.pyplot import close

from course_utils.show.widgets import preference, reward_explorer

PAIRS = [("How much?", "52 pennies.", "Who knows?"), ("Where is $x$?", "In a town.", "There.")]


def by_length(prompts, responses):
    pairs = zip(prompts, responses, strict=True)
    return [len(response) / 4 - len(prompt) / 2 for prompt, response in pairs]


def test_preference_is_the_sigmoid_of_the_difference():
    for difference in (-3.0, -0.1, 0.0, 0.7, 5.0):
        assert preference(difference) == pytest.approx(1 / (1 + math.exp(-difference)))
        assert preference(difference, 2.5) == pytest.approx(preference(2.5 * difference))
        assert preference(difference) + preference(-difference) == pytest.approx(1)
    assert preference(1e6) == 1
    assert preference(-1e6) == 0


def test_words_give_scores_difference_and_chance():
    explorer = reward_explorer(by_length, PAIRS)
    # 11 and 10 letters answer a question of 9.
    assert repr(explorer) == (
        "The first answer scores -1.75, the second -2.00; the difference is +0.25. "
        "P(the first is better) = sigmoid(0.25), which is 56.2%."
    )
    explorer.texts[1].value = "x" * 50
    assert "sigmoid(10.00), which is over 99.9%" in repr(explorer)
    explorer.texts[1].value, explorer.texts[2].value = "No.", "x" * 50
    assert "which is under 0.1%" in repr(explorer)


def test_scores_that_were_divided_are_multiplied_under_the_sigmoid():
    explorer = reward_explorer(by_length, PAIRS, scale=4.0)
    assert "sigmoid(4.00 x 0.25), which is 73.1%" in repr(explorer)
    with pytest.raises(ValueError, match="scale=0 must be above 0"):
        reward_explorer(by_length, PAIRS, scale=0)


def test_questions_are_rendered_and_every_state_is_scored_once():
    seen = []

    def score(prompts, responses):
        seen.append((list(prompts), list(responses)))
        return torch.tensor([1.0, -1.0])

    explorer = reward_explorer(score, PAIRS, render="<|user|>{}<|assistant|>".format)
    explorer.pair.value = 1
    explorer.texts[2].value = "  Here. "
    first, second = ("<|user|>How much?<|assistant|>", "<|user|>Where is $x$?<|assistant|>")
    assert seen == [
        ([first] * 2, ["52 pennies.", "Who knows?"]),
        ([second] * 2, ["In a town.", "There."]),
        ([second] * 2, ["In a town.", "Here."]),
    ]


def test_a_pair_fills_the_fields_and_what_is_typed_is_ones_own():
    explorer = reward_explorer(by_length, PAIRS)
    explorer.pair.value = 1
    assert [text.value for text in explorer.texts] == list(PAIRS[1])
    explorer.texts[0].value = "Whose?"
    assert explorer.pair.label == "your own"
    assert [text.value for text in explorer.texts] == ["Whose?", *PAIRS[1][1:]]
    explorer.pair.value = 1
    assert [text.value for text in explorer.texts] == list(PAIRS[1])
    assert [label for label, _ in explorer.pair.options] == [
        "1: How much?",
        "2: Where is $x$?",
        "your own",
    ]


@pytest.mark.parametrize(
    ("empty", "words"),
    [
        ((1,), "The first answer is empty: type a text to be scored."),
        ((2,), "The second answer is empty: type a text to be scored."),
        ((0, 2), "The question and the second answer are empty: type a text to be scored."),
    ],
)
def test_an_empty_field_is_named_and_nothing_is_scored(empty, words):
    seen = []
    explorer = reward_explorer(lambda p, r: seen.append(r) or [0.0, 1.0], PAIRS)
    for place in empty:
        explorer.texts[place].value = " \n"
    n_before = len(seen)
    assert repr(explorer) == words
    assert f"{words}</p>" in explorer.picture.value
    ax = explorer.draw()
    assert ax.get_title(loc="left") == words
    assert not ax.patches
    close(ax.figure)
    assert len(seen) == n_before
    explorer.pair.value = 0
    assert repr(explorer).startswith("The first answer scores")


def test_what_cannot_be_scored_is_said():
    def score(prompts, responses):
        if len(responses[0]) > 100:
            raise ValueError("answer 0 has 600 tokens")
        return [float("nan") if "nan" in response else 0.0 for response in responses]

    explorer = reward_explorer(score, PAIRS)
    explorer.texts[1].value = "word " * 30
    assert repr(explorer) == "No score: answer 0 has 600 tokens."
    explorer.texts[1].value = "nan"
    assert repr(explorer) == "Scores (nan, 0.0) are not finite."
    explorer.texts[1].value = "fine"
    assert "which is 50.0%" in repr(explorer)


def test_no_example_is_refused():
    with pytest.raises(ValueError, match="examples is empty"):
        reward_explorer(by_length, [])


def test_the_examples_that_come_with_it_are_questions_with_two_answers():
    explorer = reward_explorer(by_length)
    for place in range(len(explorer.examples)):
        explorer.pair.value = place
        assert not explorer.problem


@pytest.mark.parametrize("scores", [(1.5, -0.5), (-3.0, -2.0), (0.0, 0.0), (40.0, 2.0)])
def test_the_picture_has_both_scores_on_one_axis_and_the_difference(scores):
    explorer = reward_explorer(lambda prompts, responses: scores, PAIRS)
    explorer.pair.value = 1
    ax = explorer.draw()
    first, second = ax.patches
    assert (first.get_width(), second.get_width()) == scores
    assert first.get_y() < second.get_y()
    assert ax.yaxis_inverted()
    assert (first.get_facecolor() == second.get_facecolor()) == (scores[0] == scores[1])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["In a town.", "There."]
    low, high = ax.get_xlim()
    assert low < min(0, *scores)
    assert high > max(0, *scores)
    title, question = ax.figure.get_suptitle().split("\n")
    assert title.endswith(f"the difference is {scores[0] - scores[1]:+.2f}")
    assert question == "Where is $x$?"
    close(ax.figure)
