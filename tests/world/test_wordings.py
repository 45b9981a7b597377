from random import Random

import pytest

from course_utils.world.country import build_country, lexicon
from course_utils.world.narrator import Narrator, say
from course_utils.world.wordings import draw_wording, is_held_out

RELATIONS = sorted(lexicon("relations"))


@pytest.mark.parametrize("kind", ["statements", "questions"])
@pytest.mark.parametrize("relation", RELATIONS)
def test_the_corpus_and_the_probes_share_no_wording(relation: str, kind: str):
    told = {draw_wording(relation, kind, Random(i)) for i in range(150)}
    asked = {draw_wording(relation, kind, Random(i), held_out=True) for i in range(40)}
    assert not told & asked
    assert not any(map(is_held_out, told))
    assert all(map(is_held_out, asked))


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_relation_has_many_wordings(relation: str):
    assert len({draw_wording(relation, "statements", Random(i)) for i in range(300)}) > 60
    assert len({draw_wording(relation, "questions", Random(i)) for i in range(300)}) > 25


@pytest.mark.parametrize("relation", RELATIONS)
def test_object_last_leaves_nothing_after_the_object(relation: str):
    for seed in range(30):
        wording = draw_wording(relation, "statements", Random(seed), object_last=True)
        assert wording.removesuffix(".").removesuffix(" pennies").endswith("{o}")


def test_slots_survive_until_the_fact_is_known():
    fact = build_country().facts[0]
    for seed in range(100):
        text = say(fact, draw_wording(fact.relation, "statements", Random(seed)), Random(0))
        assert "{" not in text
        assert fact.object in text
        assert text[0].isupper()
        assert text[-1] in ".?!"


def test_the_narrator_never_tells_a_held_out_wording(monkeypatch):
    drawn = []

    def spy(*args, **kwargs):
        drawn.append(draw_wording(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr("course_utils.world.narrator.draw_wording", spy)
    narrator = Narrator(build_country(), Random(0))
    for _ in range(200):
        narrator.told()
        narrator.ask(narrator.fact())
    assert len(drawn) == 400
    assert not any(map(is_held_out, drawn))
