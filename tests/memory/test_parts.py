"""The parts of a step: written down, and added up."""

import math

import pytest

from course_utils.memory import (
    MemoryParts,
    format_bytes,
)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 KB"),
        (12_345, "12.3 KB"),
        (999_499, "999 KB"),
        (999_600, "1.00 MB"),
        (112e9, "112 GB"),
        (9.996e9, "10.0 GB"),
        (1.2e12, "1.20 TB"),
        (5e15, "5000 TB"),
    ],
)
def test_bytes_are_written_with_three_digits(n_bytes: float, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize("n_bytes", [-1, math.nan, math.inf, "1", None, True])
def test_what_is_no_number_of_bytes_is_not_written(n_bytes: object) -> None:
    with pytest.raises(ValueError, match=rf"n_bytes={n_bytes!r} must be"):
        format_bytes(n_bytes)


def test_parts_add_up_and_are_listed() -> None:
    parts = MemoryParts(
        weights_bytes=1,
        gradients_bytes=2,
        optimizer_bytes=4,
        layers_bytes=(8, 16),
        recomputed_bytes=32,
        outer_bytes=64,
        logits_bytes=128,
        peak_bytes=200,
    )
    assert parts.activations_bytes == 8 + 16 + 32 + 64
    assert parts.total_bytes == 255
    rows = dict(parts.rows())
    assert rows["sum of the parts"] == sum(list(rows.values())[:-2]) == 255
    assert rows["peak"] == 200
    assert "activations" in str(parts)
    assert "120 B" in str(parts)
