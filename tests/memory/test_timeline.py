"""When the parts of a step are held: the moment of the peak."""

from dataclasses import replace

import pytest

from course_utils.methods import (
    FrozenFineTuning,
    FullFineTuning,
)
from tests.memory.steps import Case, check, cost, tied


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", ["embedded", "grouped"])
def test_accumulated_gradients_are_there_all_along(shape: str, checkpointing: bool) -> None:
    check(Case(shape=shape, accumulates=True, checkpointing=checkpointing))


def test_checkpointing_costs_memory_where_only_the_last_block_is_trained() -> None:
    deep = replace(tied(), n_layers=200)
    method = FrozenFineTuning(last_n_layers=1, train_head=False)
    without = cost(method, deep)
    assert cost(method, deep, gradient_checkpointing=True).peak_bytes > without.peak_bytes


def test_peak_is_the_highest_moment() -> None:
    predicted = cost(FullFineTuning(), batch_size=64, seq_len=1024)
    assert predicted.peak_bytes == max(size for _, size in predicted.moments)
    assert predicted.peak_moment == "loss"
    assert cost(FullFineTuning(), batch_size=1, seq_len=1).peak_moment == "embedding"
