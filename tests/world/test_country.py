import re
from collections import Counter

import pytest

from course_utils.world.country import TIER_WEIGHTS, build_country, lexicon
from course_utils.world.tasks.new_facts import island_facts

COUNTRY = build_country()
LEXICONS = (
    "names",
    "frames",
    "places",
    "things",
    "relations",
    "stories",
    "reviews",
    "genres",
    "skills",
    "topics",
    "instructions",
    "preferences",
    "roles",
)


def leaves(value: object):
    if isinstance(value, dict):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


@pytest.mark.parametrize("name", LEXICONS)
def test_every_word_of_a_lexicon_is_text(name: str):
    """YAML reads a bare ``no`` or ``on`` as a truth value."""
    assert [leaf for leaf in leaves(lexicon(name)) if not isinstance(leaf, str)] == []


def test_the_country_follows_from_its_seed():
    assert build_country.__wrapped__(0) == COUNTRY
    assert build_country.__wrapped__(1).facts != COUNTRY.facts


def test_every_fact_has_a_key_of_its_own():
    keys = Counter(fact.key for fact in COUNTRY.facts)
    assert max(keys.values()) == 1
    assert len(keys) > 1500


@pytest.mark.parametrize("relation", sorted(lexicon("relations")))
def test_every_fact_has_at_least_eight_wordings_and_unseen_ones(relation: str):
    words = lexicon("relations")[relation]
    assert len(words["statements"]) >= 8
    assert len(words["held_out"]) >= 2
    assert not set(words["statements"]) & set(words["held_out"])
    assert not set(words["questions"]) & set(words["held_out_questions"])


@pytest.mark.parametrize("relation", sorted(lexicon("relations")))
def test_held_out_statements_end_in_the_object(relation: str):
    for template in lexicon("relations")[relation]["held_out"]:
        assert re.search(r"\{o\}( pennies)?\.$", template), template


def test_lookup_returns_the_truth_and_refuses_what_is_not_there():
    fact = COUNTRY.facts[0]
    assert COUNTRY.lookup(fact.subject.name, fact.relation) == fact.object
    with pytest.raises(KeyError, match="no fact"):
        COUNTRY.lookup(fact.subject.name, "person.height")


def test_all_tiers_are_peopled():
    tiers = Counter(person.tier for person in COUNTRY.entities["person"])
    assert set(tiers) == set(TIER_WEIGHTS)
    assert min(tiers.values()) == max(tiers.values())


def test_the_island_shares_no_subject_with_the_country():
    islanders = {fact.subject.name for fact in island_facts(0)}
    assert not islanders & set(COUNTRY.by_subject)
