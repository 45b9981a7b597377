"""Chapter 11's checks take right answers in any form, and agree with what the libraries do."""

import math
from itertools import chain, islice

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from course_utils.evaluation import win_rate
from course_utils.practice.exercises.chapter_11 import BLOCKS, FAIR, STEPS, STOP, judges, runs
from tests.practice.exercises.verdicts import is_correct, message


def test_blocks_may_be_made_in_any_way():
    def by_slices(rows, end, size):
        ids = list(chain.from_iterable([*row, end] for row in rows))
        return [ids[start : start + size] for start in range(0, len(ids) - size + 1, size)]

    def by_tensor(rows, end, size):
        ids = torch.tensor([token for row in rows for token in [*row, end]])
        return ids[: len(ids) // size * size].view(-1, size)

    def by_iterator(rows, end, size):
        ids = iter([token for row in rows for token in [*row, end]])
        blocks = iter(lambda: tuple(islice(ids, size)), ())
        return [block for block in blocks if len(block) == size]

    assert is_correct(BLOCKS, by_slices, by_tensor, by_iterator)


def test_steps_may_be_counted_in_any_way():
    def by_loop(n_rows, batch_size, accumulation, n_devices, epochs):
        rounds = len(range(0, n_rows, batch_size * n_devices))
        return sum(len(range(0, rounds, accumulation)) for _ in range(epochs))

    def as_float(*run):
        return float(STEPS.solution(*run))

    def by_floor(n_rows, batch_size, accumulation, n_devices, epochs):
        rounds = (n_rows + batch_size * n_devices - 1) // (batch_size * n_devices)
        return (rounds + accumulation - 1) // accumulation * epochs

    assert is_correct(STEPS, by_loop, as_float, by_floor)


@pytest.mark.parametrize(("rows", "batch", "accumulation", "epochs"), [(24, 2, 2, 2), (7, 2, 3, 3)])
def test_the_trainer_counts_the_same_steps(tmp_path, rows, batch, accumulation, epochs):
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(**shape, **ends, num_attention_heads=1))
    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        save_strategy="no",
        report_to="none",
        dataloader_pin_memory=False,
        disable_tqdm=True,
        use_cpu=True,
    )
    examples = [{"input_ids": [3, 4], "labels": [3, 4]}] * rows
    trainer = Trainer(model, arguments, train_dataset=examples)
    trainer.train()
    assert trainer.state.global_step == STEPS.solution(rows, batch, accumulation, 1, epochs)


def test_stopping_may_be_written_in_any_way():
    def by_running_minimum(losses, patience):
        for last in range(1, len(losses) + 1):
            seen = losses[:last]
            best = seen.index(min(seen)) + 1
            if last - best >= patience:
                return best, last
        return [best, last]

    def by_counter(losses, patience):
        best, lowest, waited = 0, math.inf, 0
        for epoch, loss in enumerate(losses, start=1):
            best, lowest, waited = (epoch, loss, 0) if loss < lowest else (best, lowest, waited + 1)
            if waited == patience:
                return torch.tensor([best, epoch])
        return best, len(losses)

    assert is_correct(STOP, by_running_minimum, by_counter)


def test_the_rate_may_be_computed_in_any_way():
    def by_sum(first, second):
        return (sum(first) + sum(second)) / (2 * len(first))

    def by_tensor(first, second):
        return torch.tensor([first, second], dtype=torch.float32).mean()

    def by_the_package(first, second):
        ours = [a + b for a, b in zip(first, second, strict=True)]
        return win_rate(ours, [1] * len(ours)).rate

    assert is_correct(FAIR, by_sum, by_tensor, by_the_package)


def test_an_answer_of_another_kind_is_told_so():
    assert "list of lists" in message(BLOCKS, lambda rows, end, size: 3)
    assert "two epochs" in message(STOP, lambda losses, patience: 2)


def test_all_named_mistakes_of_a_run_are_told_apart():
    for run in runs._RUNS[:3]:
        right = runs._n_steps(*run)
        assert any(slip(*run) != right for slip, _ in runs._STEP_SLIPS)
    for slip, sentence in runs._STEP_SLIPS:
        assert any(slip(*run) != runs._n_steps(*run) for run in runs._RUNS), sentence
    for slip, sentence in judges._SLIPS:
        assert any(
            not math.isclose(slip(*case), judges._fair_win_rate(*case)) for case in judges._CASES
        ), sentence
