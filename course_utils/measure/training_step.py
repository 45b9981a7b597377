"""Where the memory of a training step goes, measured."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from course_utils.measure.tracking import PeakMemory, SavedTensors
from course_utils.memory import MemoryParts

OptimizerFactory = Callable[..., torch.optim.Optimizer]

_BITSANDBYTES = {
    "adamw8bit": "AdamW8bit",
    "paged_adamw": "PagedAdamW",
    "paged_adamw8bit": "PagedAdamW8bit",
}


@dataclass(frozen=True, kw_only=True)
class MemoryMeasurement(MemoryParts):
    """What :func:`measure_training_step` returns: an estimate's parts, measured."""


def parameter_bytes(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Return the bytes of a model's parameters; one that is used twice counts once.

    What is stored beside parameters, as the codes and scales of weights in four bits are, counts as
    weights that do not train. So do matrices that are held and not stored, as NOLA's bases, which
    come from a seed; single rows of numbers, such as codebooks and the rotation's frequencies, do
    not.
    """
    if trainable_only:
        return sum(p.nbytes for p in model.parameters() if p.requires_grad)
    fixed = [
        buffer
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set or buffer.dim() > 1
    ]
    return sum(tensor.nbytes for tensor in [*model.parameters(), *fixed])


def measure_training_step(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    *,
    optimizer: str | OptimizerFactory = "adamw",
    accumulates_gradients: bool = False,
) -> MemoryMeasurement:
    """Measure one training step: forward, backward and optimizer.

    Two steps are taken at learning rate 0. The first makes the optimizer's states; the second is
    measured. What autograd saves is seen by ``torch.autograd.graph.saved_tensors_hooks``: every
    storage once, parameters and the batch left out. The model, its gradients and torch's random
    state come out as they went in.

    Args:
        model: A causal language model or sequence classifier, wrapped by PEFT or not.
        batch: Its keyword arguments, with ``input_ids`` of shape (batch, seq) and ``labels``.
        optimizer: ``adamw``, ``sgd``, ``sgd_momentum``, those of bitsandbytes, ``adamw8bit``,
            ``paged_adamw`` and ``paged_adamw8bit``, or a class to be called with the trained
            parameters and ``lr``.
        accumulates_gradients: Whether the gradients of the first step are kept for the second.

    Raises:
        ValueError: If the batch has no labels, nothing is trained, or the optimizer is unknown.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("no parameter of the model is trained (requires_grad is False throughout)")
    if "labels" not in batch:
        raise ValueError(f"the batch has no labels, only {', '.join(batch)}")
    with _as_it_was(model, trained):
        steps = _make_optimizer(optimizer, trained)
        n_outputs = _first_step(model, batch, steps)
        if not accumulates_gradients:
            steps.zero_grad(set_to_none=True)
        return _measure(model, batch, trained, steps, (batch["input_ids"].numel(), n_outputs))


def _measure(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    trained: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    logits_shape: tuple[int, int],
) -> MemoryMeasurement:
    leaves = tree_leaves(list(optimizer.state.values()))
    states = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    earlier = [parameter.grad for parameter in trained if parameter.grad is not None]
    held = [*model.parameters(), *model.buffers(), *states, *earlier]
    peak = PeakMemory(held, device=trained[0].device, logits_shape=logits_shape)
    saved = SavedTensors(model, [*held, *batch.values()], logits_shape)
    with peak:
        with saved:
            loss = model(**batch).loss
        gradient = torch.ones_like(loss)
        peak.live.is_backward = True
        loss.backward(gradient)
        peak.live.is_backward = False
        optimizer.step()
    return MemoryMeasurement(
        weights_bytes=parameter_bytes(model),
        gradients_bytes=sum(p.grad.nbytes for p in trained if p.grad is not None),
        optimizer_bytes=sum({id(state): state.nbytes for state in states}.values()),
        layers_bytes=saved.layers_bytes,
        recomputed_bytes=peak.live.recomputed_bytes,
        outer_bytes=saved.outer_bytes,
        logits_bytes=peak.live.logits.peak_bytes,
        peak_bytes=peak.n_bytes,
    )


def _first_step(
    model: nn.Module, batch: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> int:
    """Take the step that makes the optimizer's states; return the number of the head's outputs."""
    output = model(**batch)
    output.loss.backward()
    optimizer.step()
    return output.logits.shape[-1]


@contextmanager
def _as_it_was(model: nn.Module, trained: list[nn.Parameter]) -> Iterator[None]:
    """Train without gradients of earlier steps; put everything back afterwards."""
    modes = {module: module.training for module in model.modules()}
    gradients = [parameter.grad for parameter in trained]
    devices = [trained[0].device] if trained[0].is_cuda else []
    try:
        with torch.random.fork_rng(devices=devices):
            model.train()
            for parameter in trained:
                parameter.grad = None
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient


def _make_optimizer(
    optimizer: str | OptimizerFactory, trained: list[nn.Parameter]
) -> torch.optim.Optimizer:
    if callable(optimizer):
        return optimizer(trained, lr=0.0)
    if optimizer == "adamw":
        return torch.optim.AdamW(trained, lr=0.0, fused=True)
    if optimizer in ("sgd", "sgd_momentum"):
        momentum = 0.9 if optimizer == "sgd_momentum" else 0.0
        return torch.optim.SGD(trained, lr=0.0, momentum=momentum, fused=True)
    if optimizer in _BITSANDBYTES:
        import bitsandbytes.optim

        return getattr(bitsandbytes.optim, _BITSANDBYTES[optimizer])(trained, lr=0.0)
    names = ", ".join(("adamw", "sgd", "sgd_momentum", *_BITSANDBYTES))
    raise ValueError(f"optimizer={optimizer!r} must be {names}, or a class")
