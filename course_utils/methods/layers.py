"""Wrapping a model's linear layers: find them, read their weight, put an adapted layer in place.

GPT-2's ``Conv1D`` is a linear layer whose weight is stored transposed, and ``NF4Linear`` one whose
weight is stored in four bits; here every weight is read and written as (d_out, d_in).
"""

import copy
from collections.abc import Callable, Mapping
from typing import Self

import torch
from torch import Tensor, nn

from course_utils.models.structure import below_heads, classifier_heads, is_plain, is_transposed
from course_utils.quantization import NF4Linear
from course_utils.validation import check_names

Targets = str | tuple[str, ...]


class AdaptedLinear(nn.Module):
    """A frozen linear layer with a trainable change of its weight; the base of every such method.

    Args:
        base: Linear layer, d_in to d_out; frozen in place.
    """

    is_adapter = True

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.merged: nn.Module | None = None
        self.is_on = True

    def in_its_place(self) -> nn.Module | None:
        """Return the plain layer that computes in this one's place, if one does.

        That is the base while the adapter is off, and the merged layer after ``merge``.

        Raises:
            ValueError: If the layer is merged and trains: its update would get no gradient.
        """
        if not self.is_on:
            return self.base
        if self.merged is not None and self.training and torch.is_grad_enabled():
            raise ValueError("a merged adapter does not train: `unmerge` the model first")
        return self.merged

    def plain_and_update(self) -> tuple[nn.Module, tuple[Tensor, Tensor, float] | None]:
        """Return what the layer amounts to in evaluation: a layer, and what is added to it.

        That is this layer itself, and nothing, unless a method says otherwise; or a layer and A,
        (r, d_in), B, (d_out, r), and the scaling of an update of low rank.
        """
        return self.in_its_place() or self, None

    def adapted_weight(self) -> Tensor:
        """Return the weight that the layer now amounts to, (d_out, d_in)."""
        raise NotImplementedError

    def merge(self, *, requantize: bool = False) -> Self:
        """Compute with one plain layer that has the adapted weight; the base is kept beside it.

        Args:
            requantize: Whether a 4-bit base gives a 4-bit layer again, with a new rounding error.
        """
        layer = with_weight(self.base, self.adapted_weight().detach())
        if requantize and isinstance(self.base, NF4Linear):
            is_double = self.base.scales_mean is not None
            layer = NF4Linear(layer, block_size=self.base.block_size, is_double=is_double)
        self.merged = layer
        return self

    def unmerge(self) -> Self:
        """Compute with base and update again, exactly as before ``merge``."""
        self.merged = None
        return self


def adapted_layers(model: nn.Module) -> dict[str, AdaptedLinear]:
    """Return every adapted layer of a model by its name, in forward order."""
    return {n: m for n, m in model.named_modules() if isinstance(m, AdaptedLinear)}


def is_linear(layer: nn.Module) -> bool:
    """Say whether a layer multiplies by a matrix: ``nn.Linear``, ``NF4Linear`` or ``Conv1D``."""
    return isinstance(layer, nn.Linear | NF4Linear) or is_transposed(layer)


def shape_of(layer: nn.Module) -> tuple[int, int]:
    """Return (d_out, d_in) of a linear layer.

    Raises:
        ValueError: If another library has packed the weight, so that its shape is not to be seen.
    """
    if isinstance(layer, NF4Linear):
        return layer.out_features, layer.in_features
    if not is_plain(layer):
        raise ValueError(
            f"{type(layer).__name__} stores its weight as {layer.weight.dtype}: use "
            "course_utils.quantization.quantize_model, or that library's own adapters"
        )
    rows, columns = layer.weight.shape
    return (columns, rows) if is_transposed(layer) else (rows, columns)


def dtype_of(layer: nn.Module) -> torch.dtype:
    """Return the type that a linear layer's weight has, or is restored to."""
    return layer.dtype if isinstance(layer, NF4Linear) else layer.weight.dtype


def device_of(layer: nn.Module) -> torch.device:
    """Return where a linear layer's weight is."""
    return layer.packed.device if isinstance(layer, NF4Linear) else layer.weight.device


def weight_of(layer: nn.Module) -> Tensor:
    """Return a linear layer's weight as (d_out, d_in); one in four bits is restored."""
    if isinstance(layer, NF4Linear):
        return layer.dequantize()
    return layer.weight.T if is_transposed(layer) else layer.weight


def with_weight(layer: nn.Module, weight: Tensor) -> nn.Module:
    """Return a plain copy of a linear layer with another weight, (d_out, d_in), and its bias."""
    if isinstance(layer, NF4Linear):
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        return plain
    other = copy.copy(layer)
    other._parameters = dict(layer._parameters)
    stored = weight.T if is_transposed(layer) else weight
    other.weight = nn.Parameter(stored.to(layer.weight.dtype).contiguous(), requires_grad=False)
    return other


def check_targets(target_modules: Targets) -> None:
    """Check that targets are ``"all-linear"`` or a tuple of names.

    Raises:
        ValueError: If they are not.
    """
    if isinstance(target_modules, str) and target_modules != "all-linear":
        raise ValueError(
            f"target_modules={target_modules!r} must be 'all-linear' or a tuple of names"
        )
    if not isinstance(target_modules, str):
        check_names("target_modules", target_modules)


def find_linear(model: nn.Module, target_modules: Targets) -> dict[str, nn.Module]:
    """Return the linear layers that are meant, by full name.

    Args:
        model: Model to search, adapted or not: an adapted layer goes by its base.
        target_modules: ``"all-linear"`` for all but the head, or names: a layer is meant if a name
            is its own or the last parts of it, as in ``("q_proj", "self_attn.v_proj")``.

    Raises:
        ValueError: If a name fits no linear layer, or there is none at all.
    """
    check_targets(target_modules)
    adapted = adapted_layers(model)
    inner = tuple(f"{name}." for name in adapted)
    layers = {
        name: adapted[name].base if name in adapted else layer
        for name, layer in below_heads(model)
        if (name in adapted or is_linear(layer)) and not name.startswith(inner)
    }
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer beside its head")
    if target_modules == "all-linear":
        return layers
    for target in target_modules:
        if not any(_is_meant(name, target) for name in layers):
            kinds = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(f"target_modules={target!r} must be one of {', '.join(kinds)}")
    return {n: layer for n, layer in layers.items() if any(_is_meant(n, t) for t in target_modules)}


def wrap_layers(
    model: nn.Module, layers: Mapping[str, nn.Module], put_on: Callable[[nn.Module], AdaptedLinear]
) -> None:
    """Freeze a model and put an adapted layer in the place of each of some linear layers.

    A classifier's head is new and goes on training. If a layer cannot be adapted, the model stays
    as it was.

    Args:
        model: Model to change.
        layers: The layers, by full name.
        put_on: Makes the adapted layer of a linear layer.

    Raises:
        ValueError: If the method does not fit a layer.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        made = {name: put_on(layer) for name, layer in layers.items()}
    except BaseException:
        for parameter in trained:
            parameter.requires_grad_(True)
        raise
    freeze_below_head(model)
    for name, layer in made.items():
        new = [p for key, p in layer.named_parameters() if not key.startswith("base.")]
        replace_module(model, name, layer.train(model.training))
        for parameter in new:
            parameter.requires_grad_(True)


def freeze_below_head(model: nn.Module) -> None:
    """Freeze a model, but for a classifier's head, which is new."""
    model.requires_grad_(False)
    for head in classifier_heads(model):
        model.get_submodule(head).requires_grad_(True)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put ``module`` where ``name`` is."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _is_meant(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")
