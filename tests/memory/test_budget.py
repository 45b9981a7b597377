"""Estimated memory against measured memory, and the properties that estimates must have."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.measure import measure_training_step
from course_utils.memory import (
    BlockTraining,
    Trained,
    estimate,
    known_architectures,
    optimizer_names,
)
from course_utils.methods import (
    FrozenFineTuning,
    FullFineTuning,
    LoRAConfig,
)
from tests.memory.steps import METHODS, Case, build, check, cost, make_batch, predict, tied


@pytest.mark.parametrize("method", ["full", "last 2", "lora all-linear", "lora q v"])
@pytest.mark.parametrize("shape", ["embedded", "grouped", "wide", "qwen3"])
def test_estimate_agrees_with_measurement(shape: str, method: str) -> None:
    case = Case(shape=shape, method=method)
    model = build(case)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    check(case, model)
    base.set_attn_implementation("eager")
    check(replace(case, attention="eager"), model)
    base.activation_checkpointing_enable()
    check(replace(case, attention="eager", checkpointing=True), model)
    base.set_attn_implementation("sdpa")
    check(replace(case, checkpointing=True), model)


@pytest.mark.parametrize(
    "case",
    [
        Case(batch_size=1, seq_len=7),
        Case(batch_size=8, seq_len=128),
        Case(batch_size=1, seq_len=384, attention="eager"),
        Case(shape="grouped", seq_len=200, attention="eager", checkpointing=True),
        Case(shape="qwen3", method="lora q v", batch_size=5, seq_len=33),
    ],
    ids=str,
)
def test_other_batches(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(
    "case",
    [
        Case(shape=shape, method=method)
        for shape in ("qwen2", "mistral", "smollm3", "olmo2", "gemma3", "biases")
        for method in ("full", "norms", "lora all-linear")
    ],
    ids=str,
)
def test_other_families(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("shape", ["embedded", "grouped"])
@pytest.mark.parametrize("method", ["head", "last 1 and head", "norms"])
def test_parts_that_are_trained_alone(shape: str, method: str) -> None:
    check(Case(shape=shape, method=method))


@pytest.mark.parametrize(
    "case",
    [
        Case(dtype="bfloat16"),
        Case(dtype="bfloat16", shape="grouped", attention="eager"),
        Case(dtype="bfloat16", shape="qwen3", checkpointing=True),
        Case(dtype="bfloat16", shape="olmo2"),
        Case(dtype="bfloat16", shape="gemma3"),
        Case(dtype="bfloat16", method="lora all-linear"),
        Case(dtype="bfloat16", method="lora q v", shape="qwen3", checkpointing=True),
        Case(dtype="bfloat16", method="lora all-linear", shape="grouped", attention="eager"),
        Case(dtype="bfloat16", method="lora all-linear", shape="small vocabulary"),
        Case(dtype="bfloat16", method="lora all-linear", optimizer="sgd_momentum"),
    ],
    ids=str,
)
def test_sixteen_bits(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["full", "last 1 and head", "head", "norms"])
def test_classifiers(method: str, attention: str) -> None:
    check(Case(shape="grouped", method=method, attention=attention, batch_size=4, n_labels=3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["full", "last 2", "lora all-linear"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_peak_agrees_with_the_cuda_allocator(method: str, dtype: str, checkpointing: bool) -> None:
    case = Case(method=method, dtype=dtype, checkpointing=checkpointing, batch_size=16, seq_len=256)
    model = build(case).cuda()
    batch = {name: tensor.cuda() for name, tensor in make_batch(case, 3072).items()}
    measured = measure_training_step(model, batch)
    predicted = predict(model, case, METHODS[method])
    assert predicted.weights_bytes == pytest.approx(measured.weights_bytes, rel=0.02)
    assert predicted.activations_bytes == pytest.approx(measured.activations_bytes, rel=0.1)
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.1)


def test_quantised_weights_take_their_bits() -> None:
    predicted = cost(LoRAConfig(), dtype="bfloat16", frozen_weight_bits=4.127)
    whole = cost(LoRAConfig(), dtype="bfloat16")
    shape, names = (
        tied(),
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )
    sizes = shape.block_parameters()
    n_linear = shape.n_layers * sum(sizes[f"{name}.weight"] for name in names)
    saved = whole.weights_bytes - predicted.weights_bytes
    assert saved == pytest.approx(n_linear * (16 - 4.127) / 8, abs=1)
    with pytest.raises(ValueError, match=r"frozen_weight_bits=4.* trains"):
        cost(FullFineTuning(), frozen_weight_bits=4)


def test_seventy_billion_parameters_do_not_fit_in_eighty_gigabytes_but_with_qlora() -> None:
    batch = {"batch_size": 1, "seq_len": 512, "dtype": "bfloat16", "gradient_checkpointing": True}
    lora = estimate("Llama-2-70B", LoRAConfig(rank=16), **batch)
    qlora = estimate("Llama-2-70B", LoRAConfig(rank=16), **batch, frozen_weight_bits=4.127)
    assert lora.peak_bytes > 80e9
    assert qlora.peak_bytes < 48e9  # the QLoRA paper's claim for 65B (arXiv:2305.14314)


BATCHES = st.integers(1, 64)


LENGTHS = st.integers(1, 4096)


FOOTPRINTS = st.sampled_from(list(METHODS.values()))


ARCHITECTURES = st.sampled_from(list(known_architectures().values()))


OPTIONS = st.fixed_dictionaries(
    {
        "attention": st.sampled_from(["sdpa", "eager"]),
        "gradient_checkpointing": st.booleans(),
        "is_padded": st.booleans(),
        "accumulates_gradients": st.booleans(),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "optimizer": st.sampled_from(optimizer_names()),
    }
)


@settings(max_examples=60, deadline=None)
@given(ARCHITECTURES, FOOTPRINTS, OPTIONS, BATCHES, LENGTHS, st.integers(1, 8))
def test_more_tokens_never_take_less(shape, method, options, batch, length, factor) -> None:
    small = estimate(shape, method, batch_size=batch, seq_len=length, **options)
    for more in ({"batch_size": batch * factor}, {"seq_len": length * factor}):
        sizes = {"batch_size": batch, "seq_len": length} | more
        large = estimate(shape, method, **sizes, **options)
        assert large.activations_bytes >= small.activations_bytes * (1 if factor == 1 else 1.01)
        assert large.peak_bytes >= small.peak_bytes
        assert large.total_bytes >= small.total_bytes
        assert large.weights_bytes == small.weights_bytes
        assert large.paged_out_peak_bytes >= small.paged_out_peak_bytes
    assert small.pageable_bytes <= small.optimizer_bytes
    assert small.peak_bytes - small.pageable_bytes <= small.paged_out_peak_bytes <= small.peak_bytes


@settings(max_examples=60, deadline=None)
@given(ARCHITECTURES, OPTIONS, BATCHES, LENGTHS)
def test_checkpointing_never_takes_more_where_every_block_is_trained(
    shape, options, batch, length
) -> None:
    for method in (FullFineTuning(), LoRAConfig(), METHODS["norms"]):
        sizes = options | {"batch_size": batch, "seq_len": length}
        kept = estimate(shape, method, **sizes | {"gradient_checkpointing": False})
        recomputed = estimate(shape, method, **sizes | {"gradient_checkpointing": True})
        assert recomputed.activations_bytes < kept.activations_bytes
        assert recomputed.peak_bytes <= kept.peak_bytes


@settings(max_examples=60, deadline=None)
@given(ARCHITECTURES, st.integers(1, 256))
def test_lora_optimizer_bytes_are_exact(shape, rank) -> None:
    widths = [shape.linear_shape(name) for name in ("q_proj", "k_proj", "v_proj", "o_proj")]
    widths += [(shape.d_model, shape.d_ff)] * 2 + [(shape.d_ff, shape.d_model)]
    rank = min(rank, *(min(pair) for pair in widths))
    predicted = cost(LoRAConfig(rank=rank), shape)
    n_trained = shape.n_layers * sum(rank * (d_in + d_out) for d_in, d_out in widths)
    n_tensors = shape.n_layers * 14
    assert predicted.n_trained == n_trained
    assert predicted.optimizer_bytes == 8 * n_trained + 4 * n_tensors
    assert predicted.n_parameters == shape.n_parameters + n_trained


@settings(max_examples=20, deadline=None)
@given(ARCHITECTURES, OPTIONS, BATCHES, LENGTHS)
def test_training_less_never_takes_more(shape, options, batch, length) -> None:
    sizes = options | {"batch_size": batch, "seq_len": length, "gradient_checkpointing": False}
    nothing = Trained(blocks=(BlockTraining(),) * shape.n_layers)
    peaks = [estimate(shape, SimpleNamespace(footprint=lambda _: nothing), **sizes).peak_bytes] + [
        estimate(shape, FrozenFineTuning(last_n_layers=n, train_head=False), **sizes).peak_bytes
        for n in (1, 2, shape.n_layers // 2, shape.n_layers - 1, shape.n_layers)
    ]
    assert peaks == sorted(peaks)
    full = estimate(shape, FullFineTuning(), **sizes)
    assert peaks[-1] <= full.peak_bytes
    lora = estimate(shape, LoRAConfig(), **sizes)
    only = LoRAConfig(target_modules=("q_proj",))
    assert estimate(shape, only, **sizes).total_bytes < lora.total_bytes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be a whole number, at least 1"),
        ({"batch_size": True}, "batch_size=True must be a whole number, at least 1"),
        ({"seq_len": -1}, "seq_len=-1 must be at least 1"),
        ({"seq_len": 10**30}, "seq_len=1000.* must be at most 9223372036854775807"),
        ({"dtype": "int8"}, "dtype='int8' must be one of float32, float16, bfloat16"),
        ({"dtype": []}, r"dtype=\[\] must be one of float32"),
        ({"attention": "flash"}, "attention='flash' must be one of sdpa, eager"),
        ({"is_padded": "false"}, "is_padded='false' must be True or False"),
        ({"gradient_checkpointing": 1}, "gradient_checkpointing=1 must be True or False"),
        ({"accumulates_gradients": None}, "accumulates_gradients=None must be True or False"),
        ({"frozen_weight_bits": -4}, "frozen_weight_bits=-4 must be above 0 and at most 32"),
        ({"frozen_weight_bits": math.inf}, "frozen_weight_bits=inf must be a finite number"),
        ({"optimizer": "lion"}, "optimizer='lion' must be one of adamw, adamw8bit, paged_adamw"),
        ({"mixed_precision": "no"}, "mixed_precision='no' must be True or False"),
        ({"mixed_precision": True}, "dtype='float32' must be 'bfloat16' or 'float16'"),
    ],
)
def test_arguments_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cost(FullFineTuning(), **changes)
