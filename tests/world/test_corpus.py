import re
from collections import Counter
from itertools import islice

import pytest
from typer.testing import CliRunner

from course_utils.world import __main__ as world_command
from course_utils.world.__main__ import app
from course_utils.world.corpus import documents, genre_names
from course_utils.world.country import TIER_WEIGHTS, build_country, lexicon
from course_utils.world.probes import copying_probes, fact_probes
from course_utils.world.tasks.new_facts import island_facts

N = 12_000


@pytest.fixture(scope="module")
def told() -> Counter:
    return Counter()


@pytest.fixture(scope="module")
def train(told: Counter):
    return list(islice(documents(0, mentions=told), N))


@pytest.fixture(scope="module")
def held_out():
    return list(islice(documents(0, split="held_out"), 2000))


def test_the_corpus_follows_from_its_seed(train):
    assert list(islice(documents(0), 50)) == train[:50]
    assert list(islice(documents(1), 50)) != train[:50]


def test_every_genre_occurs(train):
    assert {document.genre for document in train} == set(genre_names())


def test_fewer_than_two_percent_of_held_out_texts_stand_in_training(train, held_out):
    texts = {document.text for document in train}
    assert sum(document.text in texts for document in held_out) / len(held_out) < 0.02


def test_documents_are_finished_text(train):
    for document in train:
        assert document.text.strip() == document.text != ""
        assert not re.search(r"[\[\]{}<>](?!\|)", re.sub(r"<\|\w+\|>", "", document.text))
        assert "  " not in document.text


def test_articles_agree(train):
    wrong = [
        d.text for d in train if re.search(r"\b[Aa] [aeio]\w|\b[Aa]n [bcdfgjkmpqrstvz]", d.text)
    ]
    assert wrong == []


def test_frequent_facts_are_told_far_more_often_than_rare_ones(train, told):
    facts = build_country().facts
    means = {}
    for tier in TIER_WEIGHTS:
        counts = [told[f.key] for f in facts if f.tier == tier and f.relation.startswith("person")]
        means[tier] = sum(counts) / len(counts)
    assert means["frequent"] > 2 * means["middling"] > 8 * means["rare"] > 0


def test_facts_are_told_in_many_genres(train):
    """A frequent fact's object stands beside its subject in at least five genres."""
    fact = build_country().facts[1]
    genres = {d.genre for d in train if fact.subject.name in d.text and fact.object in d.text}
    assert len(genres) >= 5


def test_what_is_told_is_true(train):
    """Every "... lives in ..." of the corpus agrees with the ground truth."""
    country = build_country()
    claims = [
        m for d in train for m in re.findall(r"\b([A-Z]\w+ [A-Z]\w+) lives in (\w+)\.", d.text)
    ]
    assert len(claims) > 50
    assert all(country.lookup(name, "person.town") == town for name, town in claims)


def test_probes_use_wordings_that_the_corpus_never_uses(train):
    text = "\n".join(document.text for document in train)
    questions = {p.prompt for p in fact_probes() if p.form == "question"}
    assert not any(question in text for question in islice(questions, 300))


def test_a_statement_probe_and_its_answer_make_one_sentence():
    for probe in fact_probes():
        if probe.form == "statement":
            assert probe.answer.startswith(" ")
            assert re.fullmatch(r"[A-Z].*[^.]", probe.prompt + probe.answer)


def test_copying_probes_are_right():
    for probe in copying_probes(50):
        shown = re.search(r": (.*)\.\n", probe.prompt)
        words = shown[1].split(", ")
        if probe.kind == "reverse":
            assert probe.answer == f" {', '.join(reversed(words))}."
        elif probe.kind == "repeat":
            assert probe.answer == f" {shown[1]}."
        else:
            assert probe.answer.strip(" .") in probe.prompt


def test_the_corpus_never_speaks_of_the_island(train):
    text = "\n".join(document.text for document in train)
    assert not [f.subject.name for f in island_facts(0) if f.subject.name in text]
    assert not [town for town in lexicon("names")["island_towns"] if town in text]


def test_unknown_splits_are_refused():
    with pytest.raises(ValueError, match="split='test'"):
        next(documents(0, split="test"))


def test_the_command_writes_a_corpus_whole_or_not_at_all(tmp_path, monkeypatch):
    out = tmp_path / "corpus.txt"
    assert CliRunner().invoke(app, ["corpus", str(out), "--n-documents", "3"]).exit_code == 0
    text = out.read_text(encoding="utf-8")
    expected = list(islice(documents(0), 3))
    assert text == "".join(f"=== {d.genre}\n{d.text}\n\n" for d in expected)

    def cut_short(seed, *, split):
        yield expected[0]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(world_command, "documents", cut_short)
    assert CliRunner().invoke(app, ["corpus", str(out)]).exit_code == 1
    assert out.read_text(encoding="utf-8") == text
    assert [file.name for file in tmp_path.iterdir()] == ["corpus.txt"]
