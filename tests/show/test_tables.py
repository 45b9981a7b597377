import ast
import inspect
import re

import pytest
from IPython.core.formatters import DisplayFormatter

from course_utils.methods import full as frozen
from course_utils.methods.full import FrozenFineTuning
from course_utils.show.source import show_source
from course_utils.show.tables import (
    coloured_tokens,
    interval_table,
    series_table,
    side_by_side,
    table,
    with_interval,
)


def test_a_table_has_every_cell_in_both_forms():
    shown = table(
        [{"name": "a<b", "accuracy": 0.91234}, {"name": "c", "accuracy": 0.5}],
        caption="results",
        forms={"accuracy": "{:.2f}"},
    )
    assert "a&lt;b" in shown.data
    assert "text-align:right'>0.91" in shown.data
    assert repr(shown).splitlines() == [
        "results",
        "name  accuracy",
        "a<b       0.91",
        "c         0.50",
    ]


def test_a_column_is_aligned_by_all_its_values():
    """GitHub strips styles and keeps attributes: the alignment is in both."""
    shown = table([{"n": None, "ok": True, "x": 1}, {"n": 2.5, "ok": False, "x": "a"}])
    assert re.findall(r"<th align='(\w+)' [^>]*text-align:(\w+)'>", shown.data) == [
        ("right", "right"),
        ("left", "left"),
        ("left", "left"),
    ]


def test_numbers_and_truth_are_written_for_readers():
    row = repr(table([{"n": 1234567, "x": 0.123456, "ok": True, "none": None}])).splitlines()[1]
    assert row.split() == ["1,234,567", "0.1235", "yes"]


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match="at least one row"):
        table([])


def test_texts_stand_side_by_side_and_are_escaped():
    shown = side_by_side({"before": "x < y", "after": "z"})
    assert "x &lt; y" in shown.data
    assert repr(shown) == "before:\nx < y\n\nafter:\nz"


def test_tokens_are_coloured_by_value():
    shown = coloured_tokens(["a", "<", "\n"], [0.0, 1.0, 0.5], caption="loss")
    assert shown.data.count("<span") == 3
    assert "&lt;" in shown.data
    assert "background:#FFFFFF" in shown.data
    with pytest.raises(ValueError, match="zip"):
        coloured_tokens(["a"], [0.1, 0.2])


def test_source_is_shown_without_indentation_or_path():
    shown = show_source(FrozenFineTuning.apply_to)
    assert shown.data.startswith("def apply_to(self")
    assert "course_utils/" not in shown._repr_markdown_()
    assert repr(shown) == shown.data


def test_source_costs_no_style_sheet():
    shown = show_source(table)
    data, _ = DisplayFormatter().format(shown)
    assert set(data) == {"text/markdown", "text/plain"}
    assert data["text/markdown"] == f"```python\n{shown.data}\n```"


@pytest.mark.parametrize("thing", [table, FrozenFineTuning, FrozenFineTuning.apply_to, frozen])
def test_source_without_docstrings_is_the_same_program(thing):
    full, short = show_source(thing).data, show_source(thing, docstring=False).data
    assert len(short) < len(full)
    assert '"""' not in short
    tree = ast.parse(full)
    for node in ast.walk(tree):
        if getattr(node, "body", None) and isinstance(node.body, list):
            node.body = [part for part in node.body if not is_docstring(part)]
    assert ast.dump(ast.parse(short)) == ast.dump(tree)


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def test_a_body_that_is_only_a_docstring_keeps_it():
    assert (
        show_source(OnlyADocstring, docstring=False).data
        == inspect.getsource(OnlyADocstring).strip()
    )


class OnlyADocstring(Exception):  # noqa: N818
    """All there is."""


def test_repeated_runs_are_shown_with_their_interval_and_single_ones_without():
    assert with_interval([0.5]) == "0.50"
    assert with_interval([1.0, 2.0, 3.0]) == "2.00 (-0.48 to 4.48)"
    assert with_interval([1.0, 3.0]) == "2.00 (1.00 and 3.00)"


def test_a_table_of_bars_has_a_row_a_name_and_the_columns_asked_for():
    shown = repr(interval_table({"a": [1.0], "b": [2.0, 2.0]}, "score", size={"a": 10, "b": 20}))
    lines = shown.splitlines()
    assert lines[0].split() == ["size", "score"]
    assert lines[1].split() == ["a", "10", "1.00"]
    assert lines[2].split() == ["b", "20", "2.00", "(2.00", "and", "2.00)"]


def test_a_table_of_lines_has_a_row_a_place_and_gaps_where_nothing_was_run():
    lines = repr(series_table({"a": {1: [1.0], 4: [2.0]}, "b": {4: [3.0]}}, "rank")).splitlines()
    assert [line.split() for line in lines] == [
        ["rank", "a", "b"],
        ["1", "1.00"],
        ["4", "2.00", "3.00"],
    ]


RUNS = {"lora": [0.5, 0.6, 0.4], "dora": [0.71, 0.8, 0.6], "base": [0.1, 0.9, 0.5]}


def test_names_are_compared_with_one_of_them_pair_by_pair():
    lines = repr(interval_table(RUNS, "score", against="lora")).splitlines()
    assert lines[0].endswith("  verdict")
    assert lines[1].rstrip().endswith("0.50 (0.25 to 0.75)")
    # The seeds' own spread drops out of the pairs: 0.21, 0.2, 0.2.
    assert "+0.20 (+0.19 to +0.22)  better" in lines[2]
    assert lines[3].endswith("cannot be told apart")


def test_what_does_not_matter_is_equal():
    shown = repr(interval_table(RUNS, "score", against="lora", margin=0.3))
    assert "equal within 0.3" in shown
    assert "better" not in shown
    with pytest.raises(ValueError, match="against='full' must be one of"):
        interval_table(RUNS, "score", against="full")
    with pytest.raises(ValueError, match="must be as many"):
        interval_table({"a": [1.0, 2.0], "b": [1.0, 2.0, 3.0]}, "score", against="a")
