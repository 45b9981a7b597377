import json
from collections import Counter
from itertools import combinations

import jsonschema
import pytest

from course_utils.data import load_task, read_jsonl, split_names, task_names
from course_utils.paths import data_dir
from course_utils.world.country import build_country, lexicon
from course_utils.world.judge import Judgement
from course_utils.world.tasks import build_task
from course_utils.world.tasks import task_names as buildable_names
from course_utils.world.tasks.dialect import skerrish
from course_utils.world.tasks.instructions import NOISE_SHARE, PER_TYPE
from course_utils.world.tasks.preferences import MIN_MARGIN

TASKS = data_dir() / "tasks"
SAME_ROWS = {("train", "train_noisy")}
SAME_FACTS = {"new_facts"}


def identity(task: str, row: dict) -> str:
    """What makes a row the same example in another split."""
    if task == "roles":
        return " ".join(row["words"])
    keys = {
        "instructions": ("instruction", "input"),
        "preferences": ("prompt", "chosen", "rejected"),
        "questions": ("fact",),
    }
    names = keys.get(task, ("text",) if "text" in row else ("prompt",))
    return "\n".join(row[name] for name in names)


def test_every_task_set_is_shipped():
    assert set(task_names()) == set(buildable_names())


@pytest.mark.parametrize("task", buildable_names())
def test_shipped_rows_are_those_the_seed_gives(task: str):
    built = build_task(task)
    assert set(split_names(task)) == set(built)
    for split, rows in built.items():
        assert read_jsonl(TASKS / task / f"{split}.jsonl") == rows


@pytest.mark.parametrize("task", buildable_names())
def test_rows_fit_the_schema(task: str):
    schema = json.loads((TASKS / task / "schema.json").read_text())
    for split in split_names(task):
        validator = jsonschema.Draft202012Validator(
            {"$ref": f"#/$defs/{schema['splits'].get(split, schema['splits'].get('*'))}", **schema}
        )
        for row in read_jsonl(TASKS / task / f"{split}.jsonl"):
            validator.validate(row)


@pytest.mark.parametrize("task", buildable_names())
def test_splits_do_not_overlap(task: str):
    texts = {s: {identity(task, r) for r in load_task(task, s)} for s in split_names(task)}
    for first, second in combinations(texts, 2):
        if (first, second) not in SAME_ROWS:
            assert not texts[first] & texts[second], (first, second)


@pytest.mark.parametrize("task", ["topics", "sentiment"])
def test_labels_are_balanced(task: str):
    for split in split_names(task):
        counts = Counter(load_task(task, split)["label"])
        assert max(counts.values()) - min(counts.values()) <= 1


def test_topics_unseen_sentences_and_things_stay_out_of_training():
    train = "\n".join(load_task("topics", "train")["text"])
    test = "\n".join(load_task("topics", "test")["text"])
    words = lexicon("topics")
    for kind in ("questions", "asides"):
        fixed = [max(form.split("{x}"), key=len) for form in words[kind]["unseen"]]
        assert not [part for part in fixed if part.lower() in (train + test).lower()]
    for things in words["matters"].values():
        assert not [thing for thing in things["unseen"] if f" {thing} " in train]
        assert not [thing for thing in things["seen"] if f" {thing}." in test]


def test_sentiment_has_every_kind_and_words_that_training_lacks():
    assert set(load_task("sentiment", "test")["kind"]) == {"plain", "negated", "mixed", "ironic"}
    splits = {s: " ".join(load_task("sentiment", s)["text"]) for s in split_names("sentiment")}
    for split, text in splits.items():
        assert (" mouldy" in text) == (split != "train")
        assert (" bland" in text) == (split == "train")


def test_what_others_thought_says_nothing_about_the_writer():
    rows = [row for split in split_names("sentiment") for row in load_task("sentiment", split)]
    assert {row["n_others"] for row in rows} == {0, 1, 2}
    reported = [row for row in rows if "The guidebook calls" in row["text"]]
    counts = Counter(row["label"] for row in reported)
    assert max(counts.values()) < 1.25 * min(counts.values())


def test_island_questions_ask_for_what_the_passages_tell():
    told = {key for row in load_task("new_facts", "train") for key in row["facts"]}
    for split in ("validation", "test", "test_unseen"):
        assert set(load_task("new_facts", split)["fact"]) <= told


def test_skerrish_is_regular_and_keeps_names():
    text = "The baker of Olmer said that she had not seen the goat."
    assert skerrish(text) == skerrish(text)
    assert "Olmer" in skerrish(text)
    assert skerrish(text).split()[0] == "Tha"
    changed = sum(a != b for a, b in zip(text.split(), skerrish(text).split(), strict=False))
    assert changed >= 8


def test_instructions_have_all_types_in_every_split():
    types = {split: set(load_task("instructions", split)["type"]) for split in PER_TYPE}
    assert len(types["train"]) >= 12
    assert all(found == types["train"] for found in types.values())
    assert len(load_task("instructions", "train")) >= 6000


def test_unseen_phrasings_are_unseen():
    train = set(load_task("instructions", "train")["instruction"])
    for row in load_task("instructions", "test_unseen"):
        assert row["instruction"] not in train


def test_noise_is_where_the_column_says():
    clean, noisy = load_task("instructions", "train"), load_task("instructions", "train_noisy")
    for row, spoiled in zip(clean, noisy, strict=True):
        assert (row["output"] != spoiled["output"]) == spoiled["is_noisy"]
    assert abs(sum(noisy["is_noisy"]) / len(noisy) - NOISE_SHARE) < 0.01


def test_instruction_outputs_are_right():
    country = build_country()
    for row in load_task("instructions", "test"):
        words = row["input"].rstrip(".").split(", ")
        if row["type"] == "reverse":
            assert row["output"] == ", ".join(reversed(words)) + "."
        elif row["type"] == "sort":
            assert row["output"] == ", ".join(sorted(words, key=str.lower)) + "."
        elif row["type"] == "count":
            assert lexicon("things")["numbers"].index(row["output"][:-1].lower()) == len(words)
        elif row["type"] == "sum":
            assert sum(map(int, row["input"].split(" and "))) == int(row["output"][:-1])
        elif row["type"] == "recall":
            named = [name for name in country.by_subject if name in row["instruction"]]
            subject = max(named, key=len)
            output = row["output"].lower()
            assert any(f.object.lower() in output for f in country.by_subject[subject])


def test_facts_asked_in_the_tests_are_not_asked_in_training():
    def asked(split: str) -> set[tuple[str, str]]:
        rows = (r for r in load_task("instructions", split) if r["type"] == "recall")
        return {(r["instruction"].split(":")[-1].strip(), r["output"]) for r in rows}

    assert not asked("train") & asked("test")


def test_preferences_prefer_the_higher_score():
    for split in split_names("preferences"):
        for row in load_task("preferences", split):
            for side in ("chosen", "rejected"):
                names = ("politeness", "truth", "fillers")
                parts = {name: row[f"{side}_{name}"] for name in names}
                assert row[f"{side}_score"] == Judgement(**parts).score
            assert row["margin"] == row["chosen_score"] - row["rejected_score"] >= MIN_MARGIN


def test_words_of_the_preference_tests_are_not_in_training():
    persons = lexicon("preferences")["persons"]
    for words in persons.values():
        border = round(len(words) * 2 / 3)
        for split in split_names("preferences"):
            rows = load_task("preferences", split)
            text = " ".join([*rows["chosen"], *rows["rejected"]])
            used = {word for word in words if f" {word}" in text}
            assert used == set(words[:border] if split == "train" else words[border:])


def test_length_goes_with_quality_in_training_and_against_it_in_its_test():
    def longer(split: str) -> float:
        rows = load_task("preferences", split)
        return sum(len(r["chosen"]) > len(r["rejected"]) for r in rows) / len(rows)

    assert longer("train") > 0.5
    assert longer("test_longer_is_worse") == 0
    assert len(load_task("preferences", "train")) >= 3000
