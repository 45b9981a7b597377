import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from course_utils.data import batch_order, pad_examples
from course_utils.methods import apply
from course_utils.methods.full import FrozenFineTuning
from course_utils.training import TrainingConfig, TrainingDivergedError, cosine_factor, train
from tests.training.runs import killable_run, random_examples, tiny_llama


def quick(**options: object) -> TrainingConfig:
    return TrainingConfig(
        **{"max_steps": 5, "learning_rate": 1e-2, "batch_size": 8, "show_progress": False} | options
    )


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
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


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


def test_nan_stops_with_a_clear_message(tmp_path: Path):
    metrics = tmp_path / "metrics.jsonl"

    def broken(model: nn.Module, batch: dict) -> torch.Tensor:
        loss = model(**batch).loss
        return loss * math.nan if batch["input_ids"].shape[0] and len(read(metrics)) == 2 else loss

    with pytest.raises(TrainingDivergedError, match=r"nan at step 3.*lower learning_rate=0.01"):
        train(tiny_llama(), random_examples(), quick(metrics_file=metrics), loss_function=broken)
    assert len(read(metrics)) == 3


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps=0 must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0 must be greater than 0"),
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


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "tests.training.runs", str(folder)])


def kill_at(folder: Path, step: int) -> None:
    """Run until the metrics show ``step``, then kill without warning."""
    process = start(folder)
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and len(read_whole(metrics)) < step:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()


def read_whole(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_in_the_same_bits(tmp_path: Path):
    for step in (2, 9, 10, 21):
        kill_at(tmp_path, step)
        assert not (tmp_path / "final.pt").exists()
    assert start(tmp_path).wait() == 0
    (tmp_path / "whole").mkdir()
    expected, result = killable_run(tmp_path / "whole")
    resumed = torch.load(tmp_path / "final.pt", weights_only=True)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(resumed[name], tensor), name
    losses = [row["loss"] for row in read(tmp_path / "metrics.jsonl")]
    assert losses == result.losses


def test_a_finished_run_is_not_run_again(tmp_path: Path):
    model, result = killable_run(tmp_path, steps=6)
    again, second = killable_run(tmp_path, steps=6)
    assert second.losses == result.losses
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_configuration_does_not_take_up_the_run(tmp_path: Path):
    killable_run(tmp_path, steps=6)
    with pytest.raises(ValueError, match="another configuration"):
        killable_run(tmp_path, steps=7)
