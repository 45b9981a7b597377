"""What a model carries, and how to switch it off, fold it in or take it off again.

That is either adapted layers (LoRA and its family, bottlenecks) or a soft prompt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from course_utils.methods.linear import AdaptedLinear, adapted_layers, replace_module
from course_utils.methods.virtual_tokens import soft_prompt_of

Model = TypeVar("Model", bound=nn.Module)


def carried_by(model: nn.Module) -> str | None:
    """Return where a model carries something: its first adapted layer, ``soft_prompt``, or None."""
    if soft_prompt_of(model) is not None:
        return "soft_prompt"
    return next(iter(adapted_layers(model)), None)


def merge(model: Model, *, requantize: bool = False) -> Model:
    """Fold every update into its weight: the model computes the same, and as fast as its base.

    The base weights are kept until ``remove``; ``unmerge`` returns to them exactly.

    Args:
        model: Model that carries an adapter.
        requantize: Whether a 4-bit base gives 4-bit layers again, each with a new rounding error;
            otherwise they are merged into restored weights, which take the memory of those.

    Raises:
        ValueError: If the model carries no adapter, or one that is no change of a weight.
    """
    for layer in _layers_or_error(model):
        layer.merge(requantize=requantize)
    return model


def unmerge(model: Model) -> Model:
    """Undo ``merge``: the logits are those of before, bit for bit.

    Raises:
        ValueError: If the model carries no adapted layers.
    """
    for layer in _layers_or_error(model):
        layer.unmerge()
    return model


def remove(model: Model) -> Model:
    """Take off what a model carries, leaving its plain layers: the merged ones if it was merged.

    Raises:
        ValueError: If the model carries nothing.
    """
    if prompt := soft_prompt_of(model):
        prompt.detach_from(model)
    else:
        _layers_or_error(model)
        for name, layer in adapted_layers(model).items():
            replace_module(model, name, layer.merged or layer.base)
    model.fine_tuning_method = None
    return model


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """Compute with the base alone inside a ``with`` block: its logits, bit for bit.

    No weight is touched; afterwards the adapter is on, or merged, as it was before.

    Raises:
        ValueError: If the model carries nothing.
    """
    if prompt := soft_prompt_of(model):
        with prompt.switched_off():
            yield
        return
    layers = _layers_or_error(model)
    merged = [layer.merged for layer in layers]
    for layer in layers:
        # A layer computes with its merged one if it has one; here, with nothing merged in.
        layer.merged = layer.base
    try:
        yield
    finally:
        for layer, before in zip(layers, merged, strict=True):
            layer.merged = before


def _layers_or_error(model: nn.Module) -> list[AdaptedLinear]:
    layers = list(adapted_layers(model).values())
    if soft_prompt_of(model) is not None:
        raise ValueError("a soft prompt changes no weight: there is nothing to merge it into")
    if not layers:
        raise ValueError(f"{type(model).__name__} carries no adapter: `apply` a method first")
    return layers
