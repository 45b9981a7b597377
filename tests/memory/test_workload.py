"""The batch, and the keys and values of serving."""

import math

import numpy as np
import pytest
import torch

from course_utils.memory import (
    kv_cache_bytes,
)
from course_utils.methods import LoRAConfig
from tests.memory.steps import Case, build, cost


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["embedded", "grouped", "qwen3"])
def test_a_cache_is_as_large_as_the_model_makes_it(shape: str, dtype: str) -> None:
    model = build(Case(shape=shape, dtype=dtype)).eval()
    with torch.no_grad():
        cache = model(torch.ones(3, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert kv_cache_bytes(model, 7, batch_size=3, dtype=dtype) == held


def test_a_cache_of_seven_billion_parameters_takes_half_a_megabyte_a_token() -> None:
    # 2 tensors, 32 layers, 4,096 wide, 2 bytes.
    assert kv_cache_bytes("Llama-2-7B", 1, dtype="bfloat16") == 524_288
    assert kv_cache_bytes("Llama-2-7B", 0) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": -1}, "n_tokens=-1 must be at least 0"),
        ({"n_tokens": math.nan}, "n_tokens=nan must be a whole number, at least 0"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": "1"}, "batch_size='1' must be a whole number, at least 1"),
        ({"dtype": "int8"}, "dtype='int8' must be one of float32, float16, bfloat16"),
    ],
)
def test_a_cache_has_whole_numbers_of_tokens_and_texts(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kv_cache_bytes("Llama-2-7B", **{"n_tokens": 1} | changes)


def test_numbers_of_numpy_count_as_python_s_and_never_overflow() -> None:
    narrow = kv_cache_bytes("Llama-2-7B", np.int16(30_000), batch_size=np.uint8(200))
    assert narrow == kv_cache_bytes("Llama-2-7B", 30_000, batch_size=200)
    sizes = {"batch_size": np.uint8(200), "seq_len": np.int16(30_000)}
    assert cost(LoRAConfig(), **sizes) == cost(LoRAConfig(), batch_size=200, seq_len=30_000)
