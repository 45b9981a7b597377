import pytest

from course_utils import data
from course_utils.data import load_task, read_jsonl, split_names


def test_unknown_names_are_told_what_exists():
    with pytest.raises(ValueError, match=r"task='topic' must be one of dialect, .*topics"):
        load_task("topic")
    with pytest.raises(ValueError, match=r"split of topics='dev' must be one of test, "):
        load_task("topics", "dev")
    assert "train" in split_names("topics")


def test_a_bad_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2 is not JSON"):
        read_jsonl(path)


def test_tasks_come_as_datasets():
    rows = load_task("topics", "validation")
    assert type(rows).__name__ == "Dataset"
    assert rows.column_names == ["text", "label", "label_name", "asides"]
    assert data.task_names() == tuple(sorted(data.task_names()))
