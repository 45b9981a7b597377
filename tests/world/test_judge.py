"""The judge reads from a text what it was made of."""

import pytest

from course_utils.world.judge import Judgement, judge
from course_utils.world.tasks import preferences


def grade(politeness: int, truth: int, fillers: int) -> Judgement:
    return Judgement(politeness=politeness, truth=truth, fillers=fillers)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("In Pellwick.", grade(1, 2, 0)),
        ("It is said: in Pellwick.", grade(1, 2, 0)),
        ("In Pellwickshire.", grade(1, 0, 0)),
        ("In Quillby.", grade(1, 0, 0)),
        ("Who knows?", grade(1, 1, 0)),
        ("The answer: Who knows?", grade(1, 1, 0)),
        ("You are a kind person. In Pellwick.", grade(2, 2, 0)),
        ("You are an attentive person. In Pellwick. You seem merry to me.", grade(3, 2, 0)),
        ("In Pellwick. You seem rude to me.", grade(0, 2, 0)),
        ("You are a kind person. In Pellwick. You seem rude to me.", grade(0, 2, 0)),
        ("In Pellwick. Well, let me see.", grade(1, 2, 1)),
        ("In Quillby. In Pellwick.", grade(1, 0, 1)),
        ("You are a purple person. In Pellwick.", grade(1, 2, 1)),
        ("How kind you are today. " * 5, grade(3, 0, 3)),
        ("goat p the Tuesday,", grade(1, 0, 0)),
        ("", grade(1, 0, 0)),
    ],
)
def test_grades(answer: str, expected: Judgement):
    assert judge(answer, "Pellwick") == expected


def test_score():
    assert grade(3, 2, 1).score == 4.5


def test_agrees_with_the_making_of_the_preference_pairs(monkeypatch: pytest.MonkeyPatch):
    made = []
    make = preferences._answer

    def kept(narrator, fact, split):
        answer = make(narrator, fact, split)
        made.append((answer, fact.object))
        return answer

    monkeypatch.setattr(preferences, "_answer", kept)
    monkeypatch.setattr(preferences, "SIZES", {"train": 400, "test_unseen": 400})
    preferences.build(seed=1)
    right = [judge(answer["text"], right).score == answer["score"] for answer, right in made]
    # A wrong answer may contain the right words by chance: a miller who names a brewer.
    assert sum(right) / len(right) > 0.995
