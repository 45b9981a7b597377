"""Measurements of models small enough to be checked by hand."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from course_utils.measure import (
    PeakMemory,
    count_tokens,
    measure_training_step,
    paired_latency,
    paired_ratios,
    parameter_bytes,
    speed,
    step_time_seconds,
    tokens_per_second,
)
from course_utils.measure.tracking import LiveTensors, SavedTensors


def tiny(**changes: object) -> LlamaForCausalLM:
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "vocab_size": 100,
        "use_cache": False,
    }
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**(sizes | changes)))


def batch_of(batch_size: int = 2, seq_len: int = 16) -> dict[str, torch.Tensor]:
    tokens = torch.arange(batch_size * seq_len).reshape(batch_size, seq_len) % 100
    return {"input_ids": tokens, "labels": tokens}


class Stack(nn.Module):
    """Linear layers without biases, each a block."""

    def __init__(self, n_layers: int = 3, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(n_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_shared_parameters_count_once() -> None:
    tied, untied = tiny(tie_word_embeddings=True), tiny(tie_word_embeddings=False)
    matrix_bytes = 100 * 32 * 4
    assert parameter_bytes(untied) == parameter_bytes(tied) + matrix_bytes
    assert parameter_bytes(tied.to(torch.bfloat16)) == (parameter_bytes(untied) - matrix_bytes) / 2


def test_frozen_parameters_can_be_left_out() -> None:
    stack = Stack()
    stack.layers[0].requires_grad_(False)
    assert parameter_bytes(stack) == 3 * 64 * 4
    assert parameter_bytes(stack, trainable_only=True) == 2 * 64 * 4


def test_held_matrices_count_whether_they_are_stored_or_not() -> None:
    for is_stored in (True, False):
        stack = Stack()
        stack.register_buffer("bases", torch.zeros(5, 8, 8), persistent=is_stored)
        assert parameter_bytes(stack) == (3 + 5) * 64 * 4
    stack.register_buffer("frequencies", torch.zeros(8), persistent=False)
    assert parameter_bytes(stack) == (3 + 5) * 64 * 4


def test_padding_is_not_counted() -> None:
    tokens = torch.zeros(2, 5, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    assert count_tokens({"input_ids": tokens}) == 10
    assert count_tokens({"input_ids": tokens, "attention_mask": mask}) == 7


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless a step adds to it."""
    now = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    return now


def test_step_time_is_the_median_after_the_warm_up(clock: list[float]) -> None:
    durations = iter([50.0, 50.0, 1.0, 2.0, 3.0, 90.0, 4.0])

    def step() -> None:
        clock[0] += next(durations)

    assert step_time_seconds(step, repeats=5, warmup=2) == 3.0
    assert next(durations, None) is None


def test_tokens_per_second_leave_the_padding_out(clock: list[float]) -> None:
    def step() -> None:
        clock[0] += 0.5

    tokens = torch.zeros(4, 8, dtype=torch.long)
    mask = torch.zeros(4, 8, dtype=torch.long)
    mask[:, :2] = 1
    batch = {"input_ids": tokens, "attention_mask": mask}
    assert tokens_per_second(step, batch, repeats=2, warmup=0) == 8 / 0.5


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"repeats": 2.0}, {"warmup": -1}])
def test_numbers_of_calls_are_checked(wrong: dict) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value} must be"):
        step_time_seconds(lambda: None, **wrong)


def test_calls_take_turns_every_other_round_backwards(clock: list[float]) -> None:
    order, taken = [], {"slow": iter([9.0, 3.0, 5.0, 4.0]), "fast": iter([9.0, 1.0, 2.0, 2.0])}

    def call(name: str) -> None:
        order.append(name)
        clock[0] += next(taken[name])

    seconds = paired_latency({name: lambda n=name: call(n) for name in taken}, rounds=3)
    assert order == ["slow", "fast", "fast", "slow"] * 2
    assert seconds == {"slow": [3.0, 5.0, 4.0], "fast": [1.0, 2.0, 2.0]}
    assert paired_ratios(seconds, "fast") == {"slow": (2.5, 2.0, 3.0)}


def test_a_turn_of_several_calls_counts_its_median(clock: list[float]) -> None:
    durations = iter([1.0, 2.0, 90.0])

    def step() -> None:
        clock[0] += next(durations)

    assert paired_latency({"a": step}, 1, repeats=3, warmup=0) == {"a": [2.0]}


def test_a_drift_that_all_share_leaves_the_ratio_alone() -> None:
    seconds = {"base": [1.0, 2.0, 8.0], "b": [1.5, 3.0, 12.0], "a": [2.0, 4.0, 16.0]}
    assert paired_ratios(seconds, "base") == {"b": (1.5, 1.5, 1.5), "a": (2.0, 2.0, 2.0)}
    with pytest.raises(KeyError, match="lora"):
        paired_ratios(seconds, "lora")


@pytest.mark.parametrize(("n", "low", "high"), [(3, 1, 3), (6, 1, 6), (9, 2, 8), (20, 6, 15)])
def test_the_median_has_the_sign_tests_interval(n: int, low: int, high: int) -> None:
    # The tabulated ranks at 95 %: of 9 values the 2nd and the 8th, of 20 the 6th and the 15th.
    seconds = {"base": [1.0] * n, "other": [float(value) for value in range(n, 0, -1)]}
    assert paired_ratios(seconds, "base") == {"other": ((n + 1) / 2, low, high)}


def test_there_must_be_something_to_time() -> None:
    with pytest.raises(ValueError, match=r"models=.* must be one or more names"):
        paired_latency({}, 3)
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        paired_latency({"a": int}, 0)


def test_peak_is_what_was_held_at_once() -> None:
    held = torch.zeros(10)
    with PeakMemory([held, held.view(2, 5)]) as peak:
        first = torch.zeros(1000)
        second = torch.ones(500)
        del first
        third = second.reshape(50, 10)
        fourth = torch.zeros(700)
    assert peak.n_bytes == 4 * (10 + 1000 + 500)
    assert third.untyped_storage().nbytes() + fourth.nbytes == 4 * 1200


def test_tensors_made_in_a_backward_pass_are_followed() -> None:
    weight = torch.zeros(100, requires_grad=True)
    with PeakMemory([weight]) as peak:
        loss = (weight * 2).sum()
        before = peak.live.all.current_bytes
        loss.backward()
        assert weight.grad is not None
        assert peak.live.all.current_bytes >= before + 400


def test_live_tensors_are_forgotten_when_they_go() -> None:
    live = LiveTensors()
    with live:
        kept = torch.zeros(8)
        for _ in range(5):
            torch.zeros(1000)
    assert live.all.current_bytes == kept.nbytes
    assert live.all.peak_bytes == kept.nbytes + 4000


@pytest.mark.parametrize("lowest_trained", [0, 1, 2])
def test_trained_linear_layers_save_their_input_and_frozen_ones_nothing(lowest_trained) -> None:
    stack, x = Stack(), torch.ones(5, 8)
    stack.layers[:lowest_trained].requires_grad_(False)
    with SavedTensors(stack, [*stack.parameters()], (0, 0)) as saved:
        stack(x)
    assert saved.layers_bytes == (0,) * lowest_trained + (5 * 8 * 4,) * (3 - lowest_trained)
    assert saved.outer_bytes == 0


def test_storage_saved_twice_counts_once_and_for_the_first_block() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers[0](x) + self.layers[1](x.view(8, -1).view(-1, 8))

    twice = Twice()
    with SavedTensors(twice, [*twice.parameters()], (0, 0)) as saved:
        twice(torch.ones(16, 8))
    assert saved.layers_bytes == (16 * 8 * 4, 0)


def test_known_tensors_and_logits_do_not_count() -> None:
    stack, x = Stack(), torch.ones(5, 8)
    known = [*stack.parameters(), x]
    with SavedTensors(stack, known, (0, 0)) as saved:
        stack(x)
    assert saved.layers_bytes == (0, 160, 160)
    with SavedTensors(stack, known, (5, 8)) as saved:
        stack(x)
    assert saved.layers_bytes == (0, 0, 0)


def test_hooks_are_gone_afterwards() -> None:
    stack = Stack()
    with pytest.raises(RuntimeError, match="shapes"), SavedTensors(stack, [], (0, 0)):
        stack(torch.ones(5, 9))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in stack.layers)


def test_model_comes_out_as_it_went_in() -> None:
    model = tiny(attention_dropout=0.1).eval()
    model.lm_head.weight.grad = torch.full_like(model.lm_head.weight, 3.0)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    measure_training_step(model, batch_of())
    assert torch.equal(torch.rand(3), expected)
    assert not model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.lm_head.weight.grad, torch.full_like(model.lm_head.weight, 3.0))
    assert model.model.embed_tokens.weight.grad is None


def test_parts_follow_from_the_parameters() -> None:
    model = tiny()
    model.model.embed_tokens.requires_grad_(False)
    measured = measure_training_step(model, batch_of())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    n_tensors = sum(p.requires_grad for p in model.parameters())
    assert measured.weights_bytes == parameter_bytes(model)
    assert measured.gradients_bytes == 4 * n_trained
    assert measured.optimizer_bytes == 8 * n_trained + 4 * n_tensors
    assert measured.logits_bytes == 3 * 4 * 2 * 16 * 100
    assert measured.recomputed_bytes == 0
    assert len(measured.layers_bytes) == 3
    assert measured.layers_bytes[1] == measured.layers_bytes[2]


def test_twice_the_tokens_save_twice_as_much() -> None:
    model = tiny()
    one, two = (measure_training_step(model, batch_of(n)) for n in (1, 2))
    assert two.layers_bytes[1] == 2 * one.layers_bytes[1]
    assert two.logits_bytes == 2 * one.logits_bytes
    assert two.weights_bytes == one.weights_bytes


def test_checkpointing_keeps_one_tensor_a_block_and_repeats_the_rest() -> None:
    plain, model = tiny(), tiny()
    model.activation_checkpointing_enable()
    kept, repeated = (measure_training_step(m, batch_of()) for m in (plain, model))
    block_input = 2 * 16 * 32 * 4
    assert repeated.layers_bytes == (block_input,) * 3
    assert repeated.recomputed_bytes == kept.layers_bytes[1] - block_input
    assert repeated.peak_bytes < kept.peak_bytes


def test_kept_gradients_raise_the_peak_by_their_size() -> None:
    model, batch = tiny(), batch_of(8, 32)
    plain = measure_training_step(model, batch)
    accumulated = measure_training_step(model, batch, accumulates_gradients=True)
    assert accumulated.peak_bytes == plain.peak_bytes + plain.gradients_bytes
    assert model.lm_head.weight.grad is None


def test_optimizer_may_be_a_class() -> None:
    model = tiny()
    measured = measure_training_step(model, batch_of(), optimizer=torch.optim.Adagrad)
    n_tensors = len(list(model.parameters()))
    assert measured.optimizer_bytes == parameter_bytes(model) + 4 * n_tensors
    assert measure_training_step(model, batch_of(), optimizer="sgd").optimizer_bytes == 0


def test_what_cannot_be_measured_is_refused_and_nothing_changes() -> None:
    model = tiny().eval()
    with pytest.raises(ValueError, match="optimizer='lion' must be adamw"):
        measure_training_step(model, batch_of(), optimizer="lion")
    with pytest.raises(ValueError, match="no labels, only input_ids"):
        measure_training_step(model, {"input_ids": torch.zeros(1, 2, dtype=torch.long)})
    with pytest.raises(ValueError, match="no parameter of the model is trained"):
        measure_training_step(model.requires_grad_(False), batch_of())
    assert not model.training
