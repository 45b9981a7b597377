"""The text file of chapter 11 is made by the package, and is like a file of one's own."""

import pytest

from course_utils.data import load_task
from course_utils.paths import data_dir
from course_utils.world.texts import N_CHARACTERS, skerrish_text, write_texts

SHIPPED = data_dir() / "texts" / "skerrish.txt"


def test_the_shipped_file_is_what_the_package_writes(tmp_path):
    write_texts(tmp_path)
    assert (tmp_path / "skerrish.txt").read_bytes() == SHIPPED.read_bytes()


def test_paragraphs_are_parted_by_blank_lines():
    text = SHIPPED.read_text()
    assert N_CHARACTERS - 2_000 < len(text) <= N_CHARACTERS
    assert text.count("\n\n") > 300
    assert "\n\n\n" not in text
    assert text == text.strip() + "\n"


def test_no_paragraph_of_the_task_set_stands_in_it():
    paragraphs = set(SHIPPED.read_text().strip().split("\n\n"))
    for split in ("train", "validation", "test"):
        assert not paragraphs & {text.strip() for text in load_task("dialect", split)["text"]}


def test_a_shorter_text_is_the_beginning_of_a_longer_one():
    short = skerrish_text(3_000)
    assert len(short) <= 3_000
    assert skerrish_text(6_000).startswith(short.rstrip("\n"))


def test_no_text_at_all_is_refused():
    with pytest.raises(ValueError, match="n_characters"):
        skerrish_text(0)
