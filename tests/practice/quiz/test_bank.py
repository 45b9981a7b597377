"""The bank reads what the schema allows, names what it does not, and the shipped one is whole."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from statistics import mean

import nbformat
import pytest
import yaml
from scipy.stats import binom, chisquare, norm

from course_utils.practice.quiz import Question, QuestionBank
from tests.notebooks.rules import headings

NOTEBOOKS = Path(__file__).resolve().parents[3] / "notebooks"
MIN_QUESTIONS = 12
# How unlikely a give-away must be by chance to be one, and how much longer right options may be.
LEVEL = 0.01
MAX_LENGTH_RATIO = 1.1
# The questions that interviews and public articles ask, and the item that asks each.
ASKED = {
    "What is PEFT and why does it matter?": "01-what-is-peft",
    "How does LoRA reduce the trained parameters?": "02-reduces-parameters",
    "How does Delta W = B A work in practice?": "02-delta-w",
    "Advantages of LoRA over full fine-tuning": "02-advantages",
    "What is QLoRA and how does it build on LoRA?": "03-what-is-qlora",
    "How does 4-bit quantisation reduce memory in QLoRA?": "03-four-bits-memory",
    "Compare LoRA, QLoRA and full fine-tuning": "03-compare-three",
    "Practical use cases of LoRA and QLoRA": "03-use-cases",
    "Which libraries and tools implement them?": "03-libraries",
    "When QLoRA instead of LoRA or full fine-tuning?": "03-when-qlora",
    "The primary goal of PEFT techniques": "01-goal-of-peft",
    "An advantage of PEFT": "02-advantage-of-peft",
    "When full fine-tuning, when PEFT?": "02-full-or-peft",
    "How to choose LoRA's rank?": "02-choose-rank",
    "QLoRA against LoRA": "03-qlora-against-lora",
    "Which modules take LoRA?": "02-target-modules",
    "Does PEFT change inference speed?": "06-is-prefix-free",
    "How to choose a PEFT method?": "06-which-method",
    "How much data does instruction tuning need?": "07-how-much-data",
    "Is RLHF necessary?": "09-myth-always",
    "How to evaluate fine-tuning?": "07-how-to-evaluate",
    "Where does PEFT go from here?": "04-where-peft-goes",
}

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
        (SINGLE | {"source": "Hu et al., section 4"}, "source: 'Hu .* does not match"),
        (NUMERIC | {"ordered": True}, "'ordered' is not one of"),
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


def test_every_source_is_a_heading_of_its_chapter():
    titles = {
        path.name[:2]: {title for _, title in headings(nbformat.read(path, as_version=4))}
        for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")
    }
    missing = [
        f"{question.id}: {chapter}, {title}"
        for question in QuestionBank.load()
        for chapter, title in re.findall(r"Chapter (\d\d), ([^;]+)", question.source)
        if title not in titles[chapter]
    ]
    assert missing == []


def test_every_question_of_interviews_has_an_item_of_its_own():
    assert set(ASKED.values()) <= {question.id for question in QuestionBank.load()}
    assert len(set(ASKED.values())) == len(ASKED) == 22


# What would give a right option away without a thought


def of_type(kind: str, questions: Iterable[Question]) -> list[Question]:
    return [question for question in questions if question.type == kind]


def is_right_the_longest(question: Question) -> bool:
    (right,) = question.correct_options
    *_, second, longest = sorted(len(option.text) for option in question.options)
    return len(question.options[right].text) == longest > second


def chance_of_as_many_longest(singles: list[Question]) -> float:
    """Return the probability of as many right options being the longest, if length says nothing."""
    n_longest = sum(map(is_right_the_longest, singles))
    share = mean(1 / len(question.options) for question in singles)
    return binom.sf(n_longest - 1, len(singles), share)


def test_the_place_of_the_right_option_gives_nothing_away():
    singles = of_type("single", QuestionBank.load())
    assert {len(question.options) for question in singles} == {4}
    places = [min(question.correct_options) for question in singles]
    assert chisquare([places.count(place) for place in range(4)]).pvalue >= LEVEL


def test_the_longest_option_is_right_no_more_often_than_chance_allows():
    bank = QuestionBank.load()
    assert chance_of_as_many_longest(of_type("single", bank)) >= LEVEL
    for chapter in sorted({question.chapter for question in bank}):
        singles = of_type("single", bank.for_chapter(chapter))
        if len(singles) >= 10:
            assert chance_of_as_many_longest(singles) >= LEVEL, chapter


def test_among_several_right_options_each_place_is_right_as_often():
    several = of_type("multiple", QuestionBank.load())
    for place in range(max(len(question.options) for question in several)):
        having = [question for question in several if len(question.options) > place]
        shares = [len(q.correct_options) / len(q.options) for q in having]
        n_right = sum(place in question.correct_options for question in having)
        deviation = sum(share * (1 - share) for share in shares) ** 0.5
        assert abs(n_right - sum(shares)) <= norm.ppf(1 - LEVEL / 2) * deviation, place


@pytest.mark.parametrize("kind", ["single", "multiple"])
def test_right_options_are_hardly_longer_than_wrong_ones(kind):
    options = [o for question in of_type(kind, QuestionBank.load()) for o in question.options]
    right, wrong = (
        mean(len(o.text) for o in options if o.correct is is_right) for is_right in (True, False)
    )
    assert right <= MAX_LENGTH_RATIO * wrong


def test_options_are_shuffled_by_seed_and_id_and_keep_their_reasons(tmp_path):
    options = [{"text": str(i), "explanation": f"because {i}"} for i in range(8)]
    options[5]["correct"] = True
    entries = [SINGLE | {"id": f"00-q-{i}", "options": options} for i in range(2)]
    ladder = SINGLE | {"id": "00-ladder", "options": options, "ordered": True}
    first, second, ladder = QuestionBank.load(write(tmp_path, *entries, ladder))
    assert first.shuffled("a") == first.shuffled("a")
    orders = [
        tuple(option.text for option in question.shuffled(seed).options)
        for question, seed in ((first, "a"), (first, "b"), (second, "a"))
    ]
    assert len({*orders, tuple("01234567")}) == 4
    assert set(first.shuffled("a").options) == set(first.options)
    assert {o.text for o in first.shuffled("a").options if o.correct} == {"5"}
    assert ladder.shuffled("a") == ladder
