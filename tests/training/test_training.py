import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from course_utils.data import batch_order, pad_examples
from course_utils.methods import apply
from course_utils.methods.full import FrozenFineTuning
from course_utils.training import (
    RunResult,
    TrainingDivergedError,
    cosine_factor,
    loop,
    train,
)
from course_utils.training.checkpoints import load_checkpoint
from course_utils.training.loop import LossFunction
from course_utils.training.model_loss import model_loss
from tests.training.runs import Stop, quick, random_examples, stopping_at, tiny_llama


def test_the_loop_is_the_loop_written_out():
    """Ten lines of PyTorch over the same batches give the same losses and weights."""
    examples, config = random_examples(), quick(weight_decay=0.1)
    ours, by_hand = tiny_llama(), tiny_llama()
    result = train(ours, examples, config)
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in by_hand.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in by_hand.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
    )
    order = batch_order([len(e["input_ids"]) for e in examples], 8, seed=0)
    losses = []
    by_hand.train()
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * cosine_factor(step, config)
        loss = by_hand(**pad_examples([examples[i] for i in next(order)], 0)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert result.losses == pytest.approx(losses, rel=1e-5)
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=5e-5)


def test_training_lowers_the_loss_and_leaves_the_model_ready():
    model = tiny_llama()
    examples = random_examples(16)
    result = train(model, examples, quick(max_steps=60, batch_size=16))
    assert result.losses[-1] < 0.5 * result.losses[0]
    assert not model.training
    assert len(result.losses) == len(result.learning_rates) == len(result.gradient_norms) == 60
    assert result.tokens == 60 * sum(len(e["input_ids"]) for e in examples)
    assert result.peak_bytes > 3 * sum(p.nbytes for p in model.parameters())


def test_micro_batches_add_up_to_the_batch():
    """Unequal micro-batches weigh as many targets as they hold."""
    whole, split = tiny_llama(), tiny_llama()
    first = train(whole, random_examples(), quick())
    second = train(split, random_examples(), quick(accumulation_steps=4))
    assert second.losses == pytest.approx(first.losses, rel=1e-5)
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_packed_training_takes_the_same_step_as_padded():
    """One batch with every example: the mean over targets does not care how they are laid out."""
    examples = random_examples(12)
    padded, packed = tiny_llama(), tiny_llama()
    one = train(padded, examples, quick(max_steps=1, batch_size=12))
    two = train(packed, examples, quick(max_steps=1, batch_size=12, packing_length_tokens=64))
    assert two.losses == pytest.approx(one.losses, rel=1e-5)
    assert two.tokens == one.tokens


def test_only_what_requires_a_gradient_changes():
    model = apply(tiny_llama(), FrozenFineTuning(last_n_layers=1, train_head=False))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, random_examples(), quick())
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in model.named_parameters() if p.requires_grad}


def test_the_rate_rises_then_falls():
    config = quick(max_steps=100, warmup_ratio=0.1, final_ratio=0.05)
    factors = [cosine_factor(step, config) for step in range(100)]
    assert factors[9] == pytest.approx(1.0) == max(factors)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert cosine_factor(100, config) == pytest.approx(0.05)


def test_several_optimizers_share_the_schedule():
    model = tiny_llama()
    head, rest = (
        [model.lm_head.weight],
        [p for n, p in model.named_parameters() if "lm_head" not in n],
    )
    rates = []

    def two(model: nn.Module) -> list:
        made = [torch.optim.SGD(head, lr=0.1), torch.optim.AdamW(rest, lr=0.01)]
        rates.append(made)
        return made

    result = train(model, random_examples(), quick(), make_optimizers=two)
    assert max(result.learning_rates) == pytest.approx(0.1)
    sgd, adamw = (o.param_groups[0]["lr"] for o in rates[0])
    assert sgd == pytest.approx(10 * adamw)


def test_bfloat16_computes_low_and_keeps_float32_weights():
    model = tiny_llama()
    seen = set()
    handle = model.model.layers[0].mlp.down_proj.register_forward_hook(
        lambda module, args, output: seen.add(output.dtype)
    )
    train(model, random_examples(), quick(precision="bfloat16"))
    handle.remove()
    assert seen == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model(input_ids=torch.tensor([[1, 2]])).logits.dtype == torch.float32


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def are_equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def diverging(kind: str, step: int) -> LossFunction:
    """A loss that is no number from a step on, or whose gradient is none."""
    calls = 0

    def loss(model: nn.Module, batch: dict) -> torch.Tensor:
        nonlocal calls
        calls += 1
        output = model(**batch)
        if calls < step:
            return output.loss
        # The root of a squared distance that is 0: its value is 0, and its gradient NaN.
        root = (output.logits - output.logits.detach()).square().sum().sqrt()
        return output.loss + {"loss": math.nan, "gradient": 0.0 * root}[kind]

    return loss


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_run_that_diverges_keeps_the_last_weights_and_can_be_tried_again(
    kind: str, tmp_path: Path
):
    model = tiny_llama()
    options = {"checkpoint_dir": tmp_path / "c", "checkpoint_every_steps": 1}
    options |= {"metrics_file": tmp_path / "m.jsonl"}
    with pytest.raises(TrainingDivergedError, match=r"is nan at step 3 .*lower learning_rate=0.01"):
        train(model, random_examples(), quick(**options), loss_function=diverging(kind, 3))
    assert all(p.isfinite().all() and p.grad is None for p in model.parameters())
    assert not model.training
    steps = [json.loads(line, parse_constant=int) for line in read(tmp_path / "m.jsonl")]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("c/step*"))[-1] == "step-00000002"
    assert are_equal(weights_of(model), load_checkpoint(tmp_path / "c")["weights"])
    again = tiny_llama()
    again.load_state_dict(model.state_dict())
    one, two = (train(m, random_examples(), quick()) for m in (model, again))
    assert one.losses == two.losses
    assert are_equal(weights_of(model), weights_of(again))


def read(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_step_that_leaves_no_finite_weights_is_not_kept(tmp_path: Path):
    with pytest.raises(TrainingDivergedError, match="is not finite after step 1: lower"):
        train(
            tiny_llama(),
            random_examples(),
            quick(max_steps=1, learning_rate=1e39, checkpoint_dir=tmp_path),
        )
    assert not list(tmp_path.glob("step*"))


@pytest.mark.parametrize("when", ["before", "between"])
def test_gradients_of_others_enter_no_step(when: str):
    """Those that lie on the model before it trains, and those that ``on_step`` leaves."""

    def leave(_: int, model: nn.Module) -> None:
        (model(**pad_examples(random_examples(4), 0)).loss * 100).backward()

    model, plain = tiny_llama(), tiny_llama()
    if when == "before":
        leave(0, model)
    one = train(model, random_examples(), quick(), on_step=leave if when == "between" else None)
    two = train(plain, random_examples(), quick())
    assert one.gradient_norms == two.gradient_norms
    assert are_equal(weights_of(model), weights_of(plain))
    assert all(p.grad is None for p in model.parameters())


def test_float16_on_a_processor_is_refused():
    with pytest.raises(ValueError, match="precision='float16' must be 'float32' or 'bfloat16' on"):
        train(tiny_llama(), random_examples(), quick(precision="float16"))


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loss be scaled as on a GPU in float16, at first too far."""

    def make(*arguments: object) -> object:
        accelerator = real(*arguments)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=2)
        return accelerator

    real = loop._accelerator
    monkeypatch.setattr(loop, "_accelerator", make)


@pytest.mark.parametrize("n_optimizers", [1, 2])
@pytest.mark.usefixtures("scaled")
def test_a_scaled_loss_trains_the_same_and_comes_back_from_a_checkpoint(
    n_optimizers: int, tmp_path: Path
):
    """Steps whose gradient overflows are left out; the rest are those of an unscaled loss."""

    def make_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
        parts = list(model.parameters())[::2], list(model.parameters())[1::2]
        groups = parts if n_optimizers == 2 else [list(model.parameters())]
        return [torch.optim.SGD(group, lr=1e-2) for group in groups]

    def steep_loss(model: nn.Module, batch: dict) -> torch.Tensor:
        return 16 * model_loss(model, batch)

    def run(folder: Path, **options: object) -> tuple[nn.Module, RunResult | None]:
        model = tiny_llama()
        config = quick(max_steps=12, checkpoint_dir=folder, checkpoint_every_steps=1)
        options |= {"make_optimizers": make_optimizers, "loss_function": steep_loss}
        try:
            return model, train(model, random_examples(), config, **options)
        except Stop:
            return model, None

    model, result = run(tmp_path / "whole")
    skipped = [not math.isfinite(norm) for norm in result.gradient_norms]
    assert any(skipped)
    assert not all(skipped)
    state = load_checkpoint(tmp_path / "whole")
    assert state["scaler"]["scale"] < 2.0**127
    run(tmp_path / "part", on_step=stopping_at(9))
    again, resumed = run(tmp_path / "part")
    assert resumed.losses == result.losses
    assert are_equal(weights_of(model), weights_of(again))
    assert load_checkpoint(tmp_path / "part")["scaler"] == state["scaler"]
    finite = [norm for norm in result.gradient_norms if math.isfinite(norm)]
    assert max(finite) < 100  # unscaled, and once


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"max_steps": True}, "max_steps=True must be a whole number, at least 1"),
        ({"batch_size": 2.0}, "batch_size=2.0 must be a whole number"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be above 0"),
        ({"learning_rate": 10**400}, "learning_rate=a number of 1329 bits must be"),
        ({"learning_rate": "0.1"}, "learning_rate='0.1' must be a finite number"),
        ({"weight_decay": math.nan}, "weight_decay=nan must be a finite number, at least 0"),
        ({"betas": (0.9, 1.0)}, "each of betas=1.0 must be at least 0 and below 1"),
        ({"betas": 0.9}, "betas=0.9 must be two numbers"),
        ({"max_grad_norm": 0}, "max_grad_norm=0 must be above 0"),
        ({"seed": -1}, "seed=-1 must be at least 0"),
        ({"packing_length_tokens": 2**33}, "packing_length_tokens=8589934592 must be in 1..1048"),
        ({"show_progress": 1}, "show_progress=1 must be True or False"),
        ({"checkpoint_dir": 3}, "checkpoint_dir=3 must be a path, or None"),
        ({"metrics_file": "a\0b"}, "metrics_file=.* must be a path, or None"),
        ({"accumulation_steps": 3}, "accumulation_steps=3 must divide"),
        ({"warmup_ratio": 1.5}, "warmup_ratio=1.5 must be in 0..1"),
        ({"precision": "int8"}, "precision='int8' must be one of float32"),
    ],
)
def test_bad_settings_are_named(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        quick(**options)


def test_nothing_to_train_is_said():
    with pytest.raises(ValueError, match="no parameter requires a gradient"):
        train(tiny_llama().requires_grad_(False), random_examples(), quick())
    with pytest.raises(ValueError, match="no examples"):
        train(tiny_llama(), [], quick())
