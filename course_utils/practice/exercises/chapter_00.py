"""Checks of chapter 00: the leaking evaluation, the bill, the largest batch."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.measure import PeakMemory
from course_utils.memory import estimate
from course_utils.methods import FullFineTuning
from course_utils.practice.exercises.check import Check, Wrong

Evaluate = Callable[[nn.Module, list[Tensor]], float]


def _tiny_model() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def _batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 100, (2, 32), generator=generator) for _ in range(count)]


def _peak_bytes(evaluate: Evaluate, model: nn.Module, count: int) -> int:
    batches = _batches(count)
    with PeakMemory(model.parameters()) as peak:
        evaluate(model, batches)
    return peak.n_bytes


def _verify_leak(evaluate: Evaluate) -> None:
    model, batches = _tiny_model(), _batches(3)
    with torch.enable_grad():
        value = evaluate(model, batches)
        if not torch.is_grad_enabled():
            raise Wrong(
                "gradients stay switched off after it returns, and the next training step fails: "
                "use `with torch.no_grad():`, which switches them on again"
            )
    if isinstance(value, Tensor):
        raise Wrong(
            "it returns a tensor: one that still knows its graph keeps the last batch alive; "
            "return a Python float (.item())"
        )
    with torch.no_grad():
        expected = sum(model(input_ids=b, labels=b).loss.item() for b in batches) / 3
    if not math.isclose(value, expected, rel_tol=1e-4):
        raise Wrong(f"the mean loss of three batches is {expected:.4f}, yours is {value:.4f}")
    few, many = (_peak_bytes(evaluate, model, count) for count in (2, 8))
    with torch.no_grad():
        without, many_without = (_peak_bytes(evaluate, model, count) for count in (2, 8))
    if many_without > 1.1 * without:
        raise Wrong(
            f"eight batches need {many_without / without:.1f} times the memory of two even without "
            "gradients: something keeps each batch's output, probably a list of logits; keep "
            "only the loss, as a number"
        )
    if many > 1.1 * few:
        raise Wrong(
            f"eight batches still need {many / few:.1f} times the memory of two: something keeps "
            "each batch's graph, probably a list of tensors made with gradients on"
        )
    if few > 1.3 * without:
        raise Wrong(
            "it no longer grows, but one batch still keeps its activations: nothing here needs "
            "gradients, so switch them off (torch.no_grad)"
        )


def _evaluate(model: nn.Module, batches: list[Tensor]) -> float:
    losses = []
    with torch.no_grad():
        for ids in batches:
            losses.append(model(input_ids=ids, labels=ids).loss.item())
    return sum(losses) / len(losses)


def _keeps_tensors(model: nn.Module, batches: list[Tensor]) -> float:
    losses = [model(input_ids=ids, labels=ids).loss for ids in batches]
    return torch.stack(losses).mean().item()


def _returns_tensor(model: nn.Module, batches: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.stack([model(input_ids=ids, labels=ids).loss for ids in batches]).mean()


def _keeps_one_graph(model: nn.Module, batches: list[Tensor]) -> float:
    return sum(model(input_ids=ids, labels=ids).loss.item() for ids in batches) / len(batches)


def _switches_off(model: nn.Module, batches: list[Tensor]) -> float:
    torch.set_grad_enabled(False)
    return _keeps_one_graph(model, batches)


def _keeps_logits(model: nn.Module, batches: list[Tensor]) -> float:
    with torch.no_grad():
        outputs = [model(input_ids=ids, labels=ids) for ids in batches]
    return sum(output.loss.item() for output in outputs) / len(outputs)


def _sums(model: nn.Module, batches: list[Tensor]) -> float:
    return _evaluate(model, batches) * len(batches)


LEAK = Check(
    name="00-leak",
    verify=_verify_leak,
    solution=_evaluate,
    rejects=(
        (_keeps_tensors, "keeps each batch's graph"),
        (_returns_tensor, "returns a tensor"),
        (_keeps_one_graph, "switch them off"),
        (_sums, "the mean loss"),
        (_switches_off, "switched off after it returns"),
        (_keeps_logits, "each batch's output"),
    ),
    insight="The peak is now that of one forward pass, however many batches there are.",
)


def _verify_bill(answer: Any) -> None:  # noqa: ANN401
    if not isinstance(answer, tuple | list) or len(answer) != 3:
        raise Wrong("give three numbers: (float32, mixed precision, 1 % trained)")
    first, second, third = answer
    if math.isclose(first, 12.8, rel_tol=0.02):
        raise Wrong("(a) 12.8 GB are the weights alone; add the gradient and Adam's two moments")
    if not math.isclose(first, 51.2, rel_tol=0.02):
        raise Wrong(
            f"(a) is not {first:g} GB: count the numbers that full fine-tuning keeps for each "
            "parameter, and the bytes of one"
        )
    if math.isclose(second, 38.4, rel_tol=0.02):
        raise Wrong("(b) you left out the float32 master copy of the weights")
    if not math.isclose(second, 51.2, rel_tol=0.02):
        raise Wrong(
            f"(b) is not {second:g} GB: weights and gradients take half the bytes, but what the "
            "optimizer keeps stays in float32"
        )
    if math.isclose(third, 0.512, rel_tol=0.02):
        raise Wrong("(c) the frozen 99 % have no gradient and no moments, but they have weights")
    if not math.isclose(third, 6.848, rel_tol=0.02):
        raise Wrong(
            f"(c) is not {third:g} GB: add what all weights take in 16 bits and what only the "
            "trained 1 % has besides"
        )


BILL = Check(
    name="00-bill",
    verify=_verify_bill,
    solution=(51.2, 51.2, 6.848),
    rejects=(
        ((12.8, 51.2, 6.848), "weights alone"),
        ((51.2, 38.4, 6.848), "master copy"),
        ((51.2, 51.2, 0.512), "they have weights"),
        ((51.2, 25.6, 6.848), "stays in float32"),
        ((12.0, 51.2, 6.848), "count the numbers"),
        ((51.2, 51.2, 3.0), "all weights take in 16 bits"),
        ((51.2, 51.2), "three numbers"),
    ),
    insight="Training 1 % of the parameters leaves little but the weights: the idea of chapter 02.",
)


def _largest_batch(name: str, card_gb: float) -> int:
    batch = 0
    while _step_bytes(name, batch + 1) <= card_gb * 1e9:
        batch += 1
    return batch


def _step_bytes(name: str, batch: int) -> int:
    return estimate(name, FullFineTuning(), batch_size=batch, seq_len=512).peak_bytes


def _verify_largest_batch(answer: Callable[[str, float], int]) -> None:
    for name, card_gb in (("SmolLM2-135M", 16), ("SmolLM2-360M", 24), ("Llama-2-7B", 80)):
        value, expected = answer(name, card_gb), _largest_batch(name, card_gb)
        if value == expected:
            continue
        if expected == 0:
            raise Wrong(f"{name} does not fit on {card_gb} GB at all: return 0, not {value}")
        if value == expected + 1:
            raise Wrong(f"{value} for {name} on {card_gb} GB is the first that does not fit")
        peak = _step_bytes(name, max(1, int(value))) / 1e9
        raise Wrong(
            f"{name} on {card_gb} GB: a batch of {value} peaks at {peak:.1f} GB, but {expected} "
            "is the largest that fits; compare peak_bytes, not the sum of the parts"
        )


LARGEST_BATCH = Check(
    name="00-largest-batch",
    verify=_verify_largest_batch,
    solution=_largest_batch,
    rejects=(
        (lambda name, card_gb: _largest_batch(name, card_gb) + 1, "first that does not fit"),
        (lambda name, card_gb: 1, "compare peak_bytes"),
        (lambda name, card_gb: max(1, _largest_batch(name, card_gb)), "return 0"),
    ),
    insight="Activations decide: the same model runs a larger batch once they are recomputed.",
)
