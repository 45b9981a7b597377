"""Who gave what to whom: a word does not tell its role, and what stands before it does."""

import re
from collections import Counter, defaultdict

import pytest

from course_utils.data import load_task, split_names
from course_utils.world.country import lexicon
from course_utils.world.tasks.roles import ROLES, SIZES, build

OTHER, GIVER, RECEIVER, THING, PLACE = range(len(ROLES))
PEOPLE = {name for kind in ("female", "male", "surnames") for name in lexicon("names")[kind]}
TOWNS = set(lexicon("places")["towns"])
THINGS = {thing for kind in ("goods", "edibles") for thing in lexicon("things")[kind]}
BARE = {word: kind for kind in ("colours", "days") for word in lexicon("things")[kind]}


def bare(word: str) -> str:
    return word.rstrip(".,;:?")


def labelled(split: str):
    """Yield (words without marks, roles) of each row."""
    for row in load_task("roles", split):
        yield [bare(word) for word in row["words"]], row["roles"]


def read_so_far(words: list[str]) -> list[tuple[str, ...]]:
    """What a reader knows at each word: the sentence up to it, names, things and towns replaced.

    People and things are numbered as they appear, so that "the one named first" stays visible.
    """
    number: dict[str, int] = {}
    plain: list[str] = []
    for word in words:
        core = bare(word)
        kind = "person" if core in PEOPLE else "thing" if core in THINGS else ""
        if kind:
            word = word.replace(core, f"{kind}{number.setdefault(core, len(number))}")
        elif core in TOWNS:
            word = word.replace(core, "town")
        elif core in BARE:
            word = word.replace(core, BARE[core])
        plain.append("a" if word == "an" else word)
    return [tuple(plain[: k + 1]) for k in range(len(plain))]


def test_a_seed_gives_the_same_rows_and_another_seed_others():
    rows = build(0)
    assert {split: len(some) for split, some in rows.items()} == SIZES
    assert rows == build(0)
    assert rows["test"] != build(1)["test"]


@pytest.mark.parametrize("split", SIZES)
def test_words_join_to_a_sentence_with_a_role_each(split):
    for row in load_task("roles", split):
        text = " ".join(row["words"])
        assert len(row["words"]) == len(row["roles"])
        assert text == re.sub(r"\s+", " ", text.strip())
        assert text[0].isupper()
        assert text.endswith(".")
        assert not re.search(r"[{}<>\[\]]|\s[.,;:?]|\ba [aeio]|[.,;:?]{2}|[?] [a-z]", text)


@pytest.mark.parametrize("split", SIZES)
def test_every_sentence_has_a_giver_a_receiver_and_a_thing(split):
    for words, roles in labelled(split):
        assert {GIVER, RECEIVER, THING} <= set(roles)
        for word, role in zip(words, roles, strict=True):
            kind = {GIVER: PEOPLE, RECEIVER: PEOPLE, THING: THINGS, PLACE: TOWNS}.get(role)
            assert kind is None or word in kind


def test_what_decides_a_role_stands_before_the_word():
    """Equal beginnings, whatever the names, never go on to different roles for the last word."""
    roles_of = defaultdict(set)
    for split in SIZES:
        for row in load_task("roles", split):
            for prefix, role in zip(read_so_far(row["words"]), row["roles"], strict=True):
                roles_of[prefix].add(role)
    assert [prefix for prefix, roles in roles_of.items() if len(roles) > 1] == []
    assert len(roles_of) > 5000


def test_a_word_does_not_tell_its_role():
    counts = defaultdict(Counter)
    for words, roles in labelled("train"):
        for word, role in zip(words, roles, strict=True):
            counts[word][role] += 1
    for name in PEOPLE & counts.keys():
        given, got, other = (counts[name][role] for role in (GIVER, RECEIVER, OTHER))
        assert min(given, got, other) > 0.1 * (given + got + other), name
    for word in (THINGS | TOWNS) & counts.keys():
        role = THING if word in THINGS else PLACE
        assert 0.1 < counts[word][role] / counts[word].total() < 0.9, word


def test_the_word_before_does_not_tell_who_gives():
    counts = defaultdict(Counter)
    for words, roles in labelled("train"):
        for before, role in zip(words, roles[1:], strict=False):
            counts[before.lower()][role] += 1
    for word in ("to", "from", "by"):
        people = [counts[word][role] for role in (GIVER, RECEIVER)]
        assert min(people) > 0.15 * sum(people), word


def test_who_gave_gets_in_return():
    turns = 0
    for split in SIZES:
        for words, roles in labelled(split):
            text = " ".join(words)
            if match := re.search(r"(in return|in exchange) (\w+)", text):
                at = len(text[: match.start(2)].split())
                first = roles[words.index(words[at])]
                assert {first, roles[at]} == {GIVER, RECEIVER}
                turns += 1
    assert turns > 100


def test_names_things_and_towns_of_the_tests_are_not_in_training():
    words = {split: {w for some, _ in labelled(split) for w in some} for split in SIZES}
    lists = PEOPLE | TOWNS | THINGS
    for split in set(SIZES) - {"train"}:
        assert len(lists & words[split]) > 50
        assert not lists & words[split] & words["train"]


def test_unseen_wordings_are_unseen():
    forms = ("was it that", "and again", "in exchange", "the book says", "thanks for")
    for split in split_names("roles"):
        text = "\n".join(" ".join(words) for words, _ in labelled(split)).lower()
        assert {form in text for form in forms} == {split == "test_unseen"}
