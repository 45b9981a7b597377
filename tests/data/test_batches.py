from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.data import (
    IGNORED,
    batch_order,
    count_targets,
    pack_examples,
    pad_examples,
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


def test_targets_are_counted_after_the_shift():
    batch = pad_examples([{"input_ids": [1, 2, 3], "labels": [IGNORED, 2, 3]}], 0)
    assert count_targets(batch) == 2
    assert count_targets(pad_examples([{"input_ids": [1], "labels": 4}] * 3, 0)) == 3
