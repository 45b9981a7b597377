from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils import data
from course_utils.data import (
    IGNORED,
    batch_order,
    count_targets,
    encode_answer,
    encode_label,
    encode_text,
    load_task,
    pack_examples,
    pad_examples,
    pad_packed,
    read_jsonl,
    split_names,
)
from course_utils.models import load_tokenizer
from tests.training.runs import random_examples, tiny_llama


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


def test_a_text_is_all_targets_between_begin_and_end(tokenizer):
    example = encode_text(tokenizer, "The miller sleeps.")
    assert example["input_ids"] == example["labels"]
    assert example["input_ids"][0] == tokenizer.bos_token_id
    assert example["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(example["input_ids"], skip_special_tokens=True) == "The miller sleeps."


def test_of_an_answer_only_the_answer_is_a_target(tokenizer):
    example = encode_answer(tokenizer, "Question: who?\nAnswer:", " Mira Tolen.")
    targets = [t for t in example["labels"] if t != IGNORED]
    assert tokenizer.decode(targets) == " Mira Tolen.<|end|>"
    assert len(example["labels"]) == len(example["input_ids"])


def test_a_long_prompt_loses_its_beginning_not_the_answer(tokenizer):
    example = encode_answer(tokenizer, "word " * 400, " Mira.", max_length_tokens=32)
    assert len(example["input_ids"]) == 32
    assert tokenizer.decode([t for t in example["labels"] if t != IGNORED]) == " Mira.<|end|>"


def test_a_labelled_text_has_no_end_token(tokenizer):
    example = encode_label(tokenizer, "Never again.", 2)
    assert example["labels"] == 2
    assert tokenizer.eos_token_id not in example["input_ids"]


def test_padding_is_masked_and_no_target():
    batch = pad_examples(random_examples(5), pad_token_id=0)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["labels"].shape
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert (batch["labels"][padding] == IGNORED).all()
    assert (batch["labels"][~padding] == batch["input_ids"][~padding]).all()


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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_packed_examples_cannot_see_one_another(attention: str):
    """Logits in a packed row are those the example gets alone, to 1e-5."""
    model = tiny_llama(attn_implementation=attention).eval()
    examples = random_examples(6)
    rows = pack_examples(examples, 64)
    batch = pad_packed([rows[i] for i in range(len(rows))], pad_token_id=0)
    with torch.no_grad():
        packed = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"],
                       use_cache=False).logits  # fmt: skip
        for r, group in enumerate(rows.groups):
            start = 0
            for index in group:
                ids = torch.tensor([examples[index]["input_ids"]])
                alone = model(input_ids=ids).logits[0]
                torch.testing.assert_close(
                    packed[r, start : start + ids.shape[1]], alone, rtol=1e-5, atol=1e-5
                )
                start += ids.shape[1]


def test_changing_a_neighbour_changes_nothing():
    model = tiny_llama().eval()
    first, second = random_examples(2)
    other = {name: [(t % 58) + 1 for t in second[name]] for name in second}

    def logits(neighbour: dict) -> torch.Tensor:
        batch = pad_packed([pack_examples([first, neighbour], 64)[0]], 0)
        with torch.no_grad():
            return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"],
                         use_cache=False).logits[0, : len(first["input_ids"])]  # fmt: skip

    assert torch.equal(logits(second), logits(other))


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


def test_unknown_names_are_told_what_exists():
    with pytest.raises(ValueError, match=r"task 'topic' must be one of dialect, .*topics"):
        load_task("topic")
    with pytest.raises(ValueError, match=r"split 'dev' of topics must be one of test, "):
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
