"""The bank reads what the schema allows, names what it does not, and the shipped one is whole."""

import json
from pathlib import Path

import pytest
import yaml

from course_utils.practice.quiz import QuestionBank

NOTEBOOKS = Path(__file__).resolve().parents[3] / "notebooks"
MIN_QUESTIONS = 12

COMMON = {"topic": "memory", "difficulty": 1, "prompt": "How much?", "source": "Chapter 00, Memory"}
RIGHT = {"text": "4", "correct": True, "explanation": "Four bytes."}
FALSE = {"text": "8", "explanation": "Too many."}
SINGLE = {"id": "00-single", "type": "single", "options": [RIGHT, FALSE], **COMMON}
NUMERIC = {
    "id": "00-numeric",
    "type": "numeric",
    "answer": 4,
    "tolerance": 0,
    "unit": "GB",
    "explanation": "Two and two.",
    **COMMON,
}
FLASH = {"id": "00-flash", "type": "flash", "answer": "Enough.", **COMMON, "topic": "bugs"}


def write(folder, *entries, name="00.yaml"):
    (folder / name).write_text(yaml.safe_dump(json.loads(json.dumps(entries))))
    return folder


def without(entry, key):
    return {name: value for name, value in entry.items() if name != key}


def test_questions_are_read_as_written(tmp_path):
    write(tmp_path, SINGLE, NUMERIC)
    write(tmp_path, FLASH | {"id": "01-flash"}, name="01.yaml")
    single, numeric, flash = QuestionBank.load(tmp_path)
    assert single.correct_options == {0}
    assert [option.text for option in single.options] == ["4", "8"]
    assert (numeric.answer, numeric.tolerance, numeric.unit) == (4, 0, "GB")
    assert (flash.chapter, flash.answer, flash.options) == ("01", "Enough.", ())


def test_questions_are_found_by_chapter_and_topic(tmp_path):
    write(tmp_path, SINGLE, NUMERIC)
    bank = QuestionBank.load(write(tmp_path, FLASH | {"id": "01-flash"}, name="01.yaml"))
    assert bank.topics() == ("bugs", "memory")
    assert [q.id for q in bank.for_chapter("00")] == ["00-single", "00-numeric"]
    assert [q.id for q in bank.by_topic("bugs")] == ["01-flash"]
    assert len(bank.by_topic("bugs", "memory")) == len(bank) == 3
    with pytest.raises(ValueError, match="no question on chapter '07': there are"):
        bank.for_chapter("07")
    with pytest.raises(ValueError, match="no question on topic 'cooking': there are"):
        bank.by_topic("memory", "cooking")


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        (SINGLE | {"options": [FALSE, {**FALSE, "text": "9"}]}, "exactly one .* correct .found 0"),
        (SINGLE | {"options": [RIGHT, {**RIGHT, "text": "9"}]}, "exactly one .* correct .found 2"),
        (SINGLE | {"type": "multiple", "options": [FALSE, {**FALSE, "text": "9"}]}, "at least one"),
        (SINGLE | {"options": [RIGHT]}, "too short"),
        (SINGLE | {"options": [RIGHT, RIGHT | {"correct": False}]}, "the same text"),
        (SINGLE | {"options": [RIGHT, {"text": "8"}]}, r"options\.1: 'explanation' is a required"),
        (without(SINGLE, "options"), "'options' is a required property"),
        (without(SINGLE, "source"), "'source' is a required property"),
        (SINGLE | {"source": " "}, "source: ' ' does not match"),
        (SINGLE | {"answer": 4}, "'answer' is not one of"),
        (FLASH | {"unit": "GB"}, "'unit' is not one of"),
        (SINGLE | {"type": "essay"}, "'essay' is not one of"),
        (SINGLE | {"difficulty": 4}, "4 is not one of"),
        (SINGLE | {"hint": "four"}, "'hint' is not one of"),
        (SINGLE | {"id": "01-single"}, "must begin with the file's chapter, 00-"),
        (SINGLE | {"id": "Single"}, "does not match"),
        *(
            (without(NUMERIC, key), f"'{key}' is a required")
            for key in ("answer", "tolerance", "unit", "explanation")
        ),
        (NUMERIC | {"answer": "four"}, "'four' is not of type 'number'"),
        (NUMERIC | {"tolerance": -1}, "less than the minimum"),
        (without(FLASH, "answer"), "'answer' is a required property"),
    ],
)
def test_a_fault_names_file_question_and_rule(tmp_path, entry, rule):
    with pytest.raises(ValueError, match=rule) as caught:
        QuestionBank.load(write(tmp_path, entry))
    assert str(caught.value).startswith(f"00.yaml: {entry['id']}")


def test_an_entry_without_an_id_is_named_by_its_place(tmp_path):
    with pytest.raises(ValueError, match=r"00\.yaml: entry 2: 'id' is a required property"):
        QuestionBank.load(write(tmp_path, SINGLE, without(NUMERIC, "id")))


def test_an_id_is_used_once(tmp_path):
    with pytest.raises(ValueError, match=r"00\.yaml: 00-single: the id must be unique"):
        QuestionBank.load(write(tmp_path, SINGLE, SINGLE))


def test_faults_of_all_files_are_told_at_once(tmp_path):
    write(tmp_path, SINGLE | {"difficulty": 0}, NUMERIC | {"tolerance": -1})
    write(tmp_path, FLASH, name="01.yaml")
    with pytest.raises(ValueError, match="difficulty") as caught:
        QuestionBank.load(tmp_path)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [
        "00.yaml",
        "00.yaml",
        "01.yaml",
    ]


@pytest.mark.parametrize(
    "text",
    ["", "- id: [", "just words", "- id: 00-a\n  id: 00-b", "- answer: .nan", "- tolerance: .inf"],
)
def test_a_file_that_is_no_list_of_questions_is_named(tmp_path, text):
    (tmp_path / "00.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^00\.yaml"):
        QuestionBank.load(tmp_path)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no question file"):
        QuestionBank.load(tmp_path)


# The shipped bank; loading it applies the checks above


def test_every_chapter_with_a_notebook_has_enough_questions():
    bank = QuestionBank.load()
    chapters = {path.name[:2] for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")}
    for chapter in chapters | {question.chapter for question in bank}:
        assert len(bank.for_chapter(chapter)) >= MIN_QUESTIONS, chapter


def test_the_longest_option_is_not_always_the_right_one():
    singles = [question for question in QuestionBank.load() if question.type == "single"]
    tell = sum(
        max(question.options, key=lambda option: len(option.text)).correct for question in singles
    )
    assert tell <= 0.8 * len(singles)
