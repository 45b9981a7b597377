import pytest

from course_utils.data import batch_order, length_statistics, pack_examples, pad_examples
from tests.training.runs import random_examples


def examples_of(*lengths: int) -> list[dict]:
    return [{"input_ids": [1] * n, "labels": [1] * n} for n in lengths]


def test_a_case_counted_by_hand():
    found = length_statistics(examples_of(4, 2, 3, 7), batch_size=4, row_tokens=8)
    assert (found.count, found.min, found.median, found.mean) == (4, 2, 3.5, 4.0)
    assert (found.max, found.total) == (7, 16)
    # One batch, padded to 7: 16 of 28 are real. Rows of 8: 7, and 4 + 3, and 2.
    assert found.padding_share == pytest.approx(12 / 28)
    assert found.packed_rows == 3
    assert length_statistics(examples_of(4, 2, 3, 7), row_tokens=9).packed_rows == 2


def test_95_of_100_are_at_most_p95_long():
    assert length_statistics(examples_of(*range(1, 101))).p95 == 95
    assert length_statistics(examples_of(*range(1, 21))).p95 == 19
    assert length_statistics(examples_of(5)).p95 == 5


def test_padding_is_what_the_batches_of_an_epoch_hold():
    examples = random_examples(50)
    order = batch_order([len(e["input_ids"]) for e in examples], 8, seed=0)
    masks = [
        pad_examples([examples[i] for i in next(order)], 0)["attention_mask"] for _ in range(7)
    ]
    padded, real = sum(m.numel() for m in masks), sum(int(m.sum()) for m in masks)
    found = length_statistics(examples, batch_size=8)
    assert found.padding_share == pytest.approx(1 - real / padded)
    assert found.total == real


def test_a_batch_of_one_has_no_padding():
    assert length_statistics(random_examples(20), batch_size=1).padding_share == 0


def test_packed_examples_are_measured_by_the_rows_they_are_in():
    examples = random_examples(60)
    rows = pack_examples(examples, 40)
    assert length_statistics(examples, row_tokens=40).packed_rows == len(rows)
    longest = max(len(e["input_ids"]) for e in examples)
    assert length_statistics(examples).packed_rows == len(pack_examples(examples, longest))


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match=r"no tokens in 0 examples: there is nothing to measure"):
        length_statistics([])
    with pytest.raises(ValueError, match=r"batch_size=0 must be at least 1"):
        length_statistics(examples_of(3), batch_size=0)
    with pytest.raises(ValueError, match=r"row_tokens=0 must be at least 1"):
        length_statistics(examples_of(3), row_tokens=0)
    with pytest.raises(ValueError, match=r"no tokens in 2 examples"):
        length_statistics(examples_of(0, 0))
    with pytest.raises(ValueError, match=r"an example of 9 tokens does not fit length_tokens=8"):
        length_statistics(examples_of(9), row_tokens=8)
