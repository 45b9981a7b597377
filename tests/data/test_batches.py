from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data import (
    IGNORED,
    batch_order,
    count_targets,
    pack_examples,
    pad_examples,
    pad_packed,
)
from tests.training.runs import random_examples


def test_padding_is_masked_and_no_target():
    batch = pad_examples(random_examples(5), pad_token_id=0)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert (batch["labels"][padding] == IGNORED).all()
    assert (batch["labels"][~padding] == batch["input_ids"][~padding]).all()


def test_labels_of_words_are_padded_like_targets_and_labels_of_texts_are_not():
    long = {"input_ids": [1, 7, 8], "labels": [IGNORED, IGNORED, 2]}
    short = {"input_ids": [1, 9], "labels": [IGNORED, 0]}
    batch = pad_examples([long, short], pad_token_id=0)
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 2], [IGNORED, 0, IGNORED]]
    assert count_targets(batch) == 2
    texts = [{**long, "labels": 2}, {**short, "labels": 0}]
    assert pad_examples(texts, pad_token_id=0)["labels"].tolist() == [2, 0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(40, 80))
def test_packing_keeps_every_example_once_and_whole(sizes: list[int], length: int):
    examples = [{"input_ids": [i] * n, "labels": [i] * n} for i, n in enumerate(sizes)]
    rows = pack_examples(examples, length)
    kept = Counter()
    for row in rows:
        assert len(row["input_ids"]) <= length
        kept.update(row["input_ids"])
        borders = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        assert all(row["labels"][i] == IGNORED for i in borders)
    assert kept == Counter({i: n for i, n in enumerate(sizes)})


def test_packing_wastes_little():
    examples = random_examples(500)
    rows = pack_examples(examples, 64)
    used = sum(len(row["input_ids"]) for row in rows)
    assert used / (len(rows) * 64) > 0.95


def test_what_does_not_fit_a_row_is_refused():
    with pytest.raises(ValueError, match=r"an example of 70 tokens does not fit length_tokens=64"):
        pack_examples([{"input_ids": [1] * 70, "labels": [1] * 70}], 64)


def test_batches_cover_an_epoch_and_group_by_length():
    lengths = [len(e["input_ids"]) for e in random_examples(400)]
    order = batch_order(lengths, 8, seed=0)
    epoch = list(islice(order, 50))
    assert sorted(i for batch in epoch for i in batch) == list(range(400))
    spread = [max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in epoch]
    assert sum(spread) / len(spread) < 4
    assert list(islice(batch_order(lengths, 8, seed=0), 50)) == epoch
    assert list(islice(batch_order(lengths, 8, seed=1), 50)) != epoch


GOOD = {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "there are no examples: at least 1 is needed"),
        (None, "examples=None must be a list"),
        ([GOOD, {"labels": [1]}], "example 1 is .* it must have input_ids"),
        ([GOOD, {"input_ids": [1]}], "example 1 is .* it must have labels"),
        ([GOOD, [1, 2]], r"example 1 is \[1, 2\]: it must have input_ids"),
        ([GOOD, {"input_ids": [], "labels": []}], r"example 1 (has input_ids=\[\]|is empty)"),
        ([GOOD, {"input_ids": 5, "labels": [5]}], "example 1 (has input_ids=5|is empty): it must"),
        ([GOOD, {"input_ids": [1, 2], "labels": [1]}], r"example 1 has labels=\[1\] for 2 tokens"),
        ([GOOD, {"input_ids": [1, 2], "labels": None}], "example 1 has labels=None for 2 tokens"),
        ([GOOD, {"input_ids": [1, 2], "labels": 0.5}], r"example 1 has labels=0.5 for 2 tokens"),
    ],
)
def test_examples_that_make_no_batch_are_told(examples: list, message: str):
    for make in (
        lambda: pad_examples(examples, 0),
        lambda: list(pack_examples(examples, 8)),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": [1, 2.5, 3]},
        {"input_ids": [1, None, 3]},
        {"labels": ["a", "b", "c"]},
        {"labels": [1, float("nan"), 3]},
        {"input_ids": [1, 2**70, 3]},
        {"labels": True},
    ],
)
def test_tokens_and_labels_are_whole_numbers(change: dict):
    with pytest.raises(ValueError, match="tokens and labels must be whole numbers"):
        pad_examples([GOOD | change], 0)


def test_a_class_is_no_label_a_token():
    one = {"input_ids": [1, 2, 3], "labels": 2}
    with pytest.raises(ValueError, match="some examples have one class and others a label a token"):
        pad_examples([GOOD, one], 0)
    with pytest.raises(ValueError, match="example 0 must have one label a token, to be packed"):
        list(pack_examples([one], 8))
    assert pad_examples([one | {"labels": np.int64(2)}], 0)["labels"].tolist() == [2]


@pytest.mark.parametrize("pad", [-1, None, 0.0, True])
def test_padding_is_a_token(pad: object):
    rows = list(pack_examples([GOOD], 8))
    for make in (lambda: pad_examples([GOOD], pad), lambda: pad_packed(rows, pad)):
        with pytest.raises(ValueError, match=f"pad_token_id={pad} must be"):
            make()


def test_of_nothing_there_is_no_order():
    for lengths, batch_size, message in (
        ([], 2, "there are no lengths"),
        ([1], 0, "batch_size=0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            next(batch_order(lengths, batch_size, seed=0))


def test_targets_are_counted_after_the_shift():
    batch = pad_examples([{"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}], 0)
    assert count_targets(batch) == 2
    assert count_targets(pad_examples([{"input_ids": [1], "labels": 4}] * 3, 0)) == 3
    assert count_targets(pad_examples([{"input_ids": [1], "labels": [1]}], 0)) == 0
    ignored = pad_examples(
        [{"input_ids": [1], "labels": IGNORED}, {"input_ids": [1], "labels": 4}], 0
    )
    assert count_targets(ignored) == 1


def test_labels_that_stand_on_their_own_tokens_all_count():
    examples = [
        {"input_ids": [1, 2, 3], "labels": [0, IGNORED, 1]},
        {"input_ids": [4], "labels": [1]},
    ]
    batch = pad_examples(examples, 0)
    assert count_targets(batch, is_shifted=False) == 3
    assert count_targets(batch) == 1
