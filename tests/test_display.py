import pytest

from course_utils.display import coloured_tokens, show_source, side_by_side, table
from course_utils.methods.frozen import FrozenFineTuning


def test_a_table_has_every_cell_in_both_forms():
    shown = table([{"name": "a<b", "accuracy": 0.91234}, {"name": "c", "accuracy": 0.5}],
                  caption="results", forms={"accuracy": "{:.2f}"})  # fmt: skip
    assert "a&lt;b" in shown.data
    assert "text-align:right'>0.91" in shown.data
    assert repr(shown).splitlines() == ["results", "name  accuracy", "a<b   0.91", "c     0.50"]


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
    assert "course_utils/" not in shown._repr_html_()
