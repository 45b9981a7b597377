"""YAML is read as it stands: what it would guess, double or multiply is refused by place."""

import json
import os
import sys

import pytest

from course_utils.practice.checked_yaml import read_entries

SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["id"],
        "properties": {"answer": {"type": "number"}, "text": {"type": "string"}},
    },
}


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a text, or bytes, as entries."""
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))

    def read_text(content: str | bytes) -> list[dict]:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "a.yaml").write_bytes(data)
        return read_entries(tmp_path / "a.yaml", tmp_path / "schema.json")

    return read_text


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("4", 4),
        ("-0", 0),
        ("+4.50", 4.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.5e+3", 1500.0),
        ("999999999999999999", 10**18 - 1),
    ],
)
def test_plain_numbers_are_numbers(read, written, number):
    assert read(f"- id: a\n  answer: {written}\n") == [{"id": "a", "answer": number}]


@pytest.mark.parametrize(
    "written",
    [
        ".nan",
        "-.inf",
        "010",
        "0x10",
        "0b1",
        "1_000",
        "1:30",
        "1.0e+999",
        "9" * 19,
        "9" * 5000,
        "!!float 'nan'",
        "!!int '010'",
        "!!int 'x'",
    ],
)
def test_numbers_that_are_guessed_or_not_finite_are_refused(read, written):
    with pytest.raises(
        ValueError, match=r"^a.yaml is not YAML: .* no plain, finite number, line 2"
    ):
        read(f"- id: a\n  answer: {written}\n")


LAUGHS = "- &a [x, x]\n- &b [*a, *a]\n- &c [*b, *b]\n"
DEEP = ["[" * 5000, "{a: " * 5000, "- " * 5000]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "- id: a\n  answer: 4\n  answer: 5\n",
            "not YAML: the key 'answer' is there twice, line 3",
        ),
        ("- id: a\n  'x': {y: 1, \"y\": 1}\n", "not YAML: the key 'y' is there twice, line 2"),
        (LAUGHS, "not YAML: aliases are not read, line 2"),
        ("- <<: {id: a}\n", "not YAML: merge keys are not read, line 1"),
        *((text, "not YAML: it nests too deep") for text in DEEP),
        ("- !!python/object:os.system x\n", "not YAML: could not determine a constructor"),
        ('- id: a\n  text: "\\ud83d"\n', "half of a character, line 2"),
        ("- id: a\0\n", "not YAML: unacceptable character"),
        (b"- id: K\xe4se\n", "not UTF-8, from byte 7 on"),
        ("- [a]: 1\n", "not YAML: found unhashable key, line 1"),
        ("id: a\n", "the file: {'id': 'a'} is not of type 'array'"),
        ("- [1]\n", "entry 1: [1] is not of type 'object'"),
        ("---\n- id: a\n---\n- id: b\n", "another document, line 3"),
        ("x" * 10**5, "xxx' is not of type 'array'"),
        ("- id: a\n  text: [" + "1, " * 10**3 + "]\n", "] is not of type 'string'"),
    ],
)
def test_what_is_no_plain_list_is_one_sentence(read, content, message):
    with pytest.raises(ValueError, match=r"^a.yaml") as caught:
        read(content)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes in folders")
def test_a_pipe_is_not_opened_and_a_missing_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(OSError, match=r"a.yaml is a folder, pipe, socket or device"):
        read_entries(tmp_path / "a.yaml", tmp_path / "schema.json")
    with pytest.raises(FileNotFoundError, match=r"b.yaml cannot be read: No such file"):
        read_entries(tmp_path / "b.yaml", tmp_path / "schema.json")
