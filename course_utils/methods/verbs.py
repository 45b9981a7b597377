"""The verbs: what can be done with any method, and with what a model carries afterwards.

That is either adapted layers (LoRA and its family, bottlenecks) or a soft prompt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import nn

from course_utils.methods.layers import AdaptedLinear, adapted_layers, replace_module
from course_utils.models.structure import carried_by, check_one_stack, soft_prompt_of
from course_utils.validation import check_flag, shown

__all__ = [
    "Method",
    "ParameterCount",
    "adapter_disabled",
    "apply",
    "carried_by",
    "count_parameters",
    "merge",
    "remove",
    "unmerge",
]

Model = TypeVar("Model", bound=nn.Module)


class Method(Protocol):
    """A frozen dataclass that describes a method and can put it on a model."""

    def apply_to(self, model: nn.Module) -> None:
        """Change ``model`` in place: replace layers, and say which parameters train."""


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a model; shared ones count once.

    Args:
        trainable: Parameters that require a gradient.
        total: All parameters.
    """

    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trainable over total, in 0..1."""
        return self.trainable / self.total

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters train ({self.share:.2%})"


def apply(model: Model, method: Method) -> Model:
    """Put a method on a model, in place, and return the model.

    Args:
        model: Base model; which of its parameters train is decided anew.
        method: Configuration of a method, as in ``FrozenFineTuning(last_n_layers=2)``.

    Raises:
        ValueError: If ``method`` is not the configuration of a method or does not fit the model, or
            the model carries an adapter, PEFT's included, or has an encoder and a decoder.
    """
    if isinstance(method, type) or not hasattr(method, "apply_to"):
        raise ValueError(
            f"{shown(method)} is not a method's configuration, such as "
            "FrozenFineTuning(last_n_layers=2)"
        )
    if taken := carried_by(model):
        raise ValueError(
            f"{taken} carries an adapter already: `remove` it first (to keep what it learnt, "
            "`merge` and then `remove`)"
        )
    check_one_stack(model)
    method.apply_to(model)
    model.fine_tuning_method = method
    return model


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of a model and those that train."""
    parameters = list(model.parameters())
    return ParameterCount(
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters),
    )


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
    check_flag("requantize", requantize)
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
    prompt = soft_prompt_of(model)
    if prompt is not None:
        prompt.detach_from(model)
    else:
        _layers_or_error(model)
        for name, layer in adapted_layers(model).items():
            replace_module(model, name, layer.merged or layer.base)
    if hasattr(model.fine_tuning_method, "leave"):
        model.fine_tuning_method.leave(model)
    model.fine_tuning_method = None
    return model


@contextmanager
def adapter_disabled(model: nn.Module) -> Iterator[None]:
    """Compute with the base alone inside a ``with`` block: its logits, bit for bit.

    No weight is touched; afterwards the adapter is on, or merged, as it was before.

    Raises:
        ValueError: If the model carries nothing.
    """
    prompt = soft_prompt_of(model)
    switched = _layers_or_error(model) if prompt is None else [prompt]
    before = [part.is_on for part in switched]
    for part in switched:
        part.is_on = False
    try:
        yield
    finally:
        for part, was_on in zip(switched, before, strict=True):
            part.is_on = was_on


def _layers_or_error(model: nn.Module) -> list[AdaptedLinear]:
    layers = list(adapted_layers(model).values())
    if soft_prompt_of(model) is not None:
        raise ValueError("a soft prompt changes no weight: there is nothing to merge it into")
    if not layers:
        raise ValueError(f"{type(model).__name__} carries no adapter: `apply` a method first")
    return layers
