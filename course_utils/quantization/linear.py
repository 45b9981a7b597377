"""Linear layers whose frozen weight is stored in four bits.

The forward pass restores the weight, multiplies and throws it away; the backward pass restores it
again. At no time does a full-precision copy lie in memory between two steps.
"""

from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from course_utils.models.structure import (
    below_heads,
    carried_by,
    check_one_stack,
    is_plain,
    is_transposed,
    packed_by,
)
from course_utils.quantization.blockwise import (
    QuantizedScales,
    QuantizedTensor,
    dequantize_blockwise,
    quantize_blockwise,
    quantize_scales,
)
from course_utils.quantization.codebooks import dynamic_codebook, nf4_codebook
from course_utils.validation import check_count, check_flag

Model = TypeVar("Model", bound=nn.Module)


class NF4Linear(nn.Module):
    """Linear layer, d_in to d_out, with a frozen weight in NormalFloat4 (arXiv:2305.14314, eq. 5).

    Args:
        base: ``nn.Linear`` or GPT-2's ``Conv1D``; its bias is kept as it is.
        block_size: Weights that share a scale.
        is_double: Whether the scales are quantised too.

    Raises:
        ValueError: If the layer's weight is no plain matrix of finite numbers, or an option is out
            of range.
    """

    is_packed = True

    def __init__(self, base: nn.Module, *, block_size: int = 64, is_double: bool = True) -> None:
        super().__init__()
        check_flag("is_double", is_double)
        if not (isinstance(base, nn.Linear) or is_transposed(base)) or not is_plain(base):
            raise ValueError(f"{type(base).__name__} has no plain matrix to store in four bits")
        weight = base.weight.T if is_transposed(base) else base.weight
        quantized = quantize_blockwise(weight, nf4_codebook(), block_size)
        self._put(quantize_scales(quantized) if is_double else quantized)
        self.out_features, self.in_features = weight.shape
        bias = base.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` of shape (..., d_in) to shape (..., d_out)."""
        y = _MultiplyRestored.apply(x, self)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @property
    def quantized(self) -> QuantizedTensor:
        """The weight as it is stored."""
        scales: Tensor | QuantizedScales = self.scales
        if self.scales_mean is not None:
            centred = QuantizedTensor(
                packed=self.scales,
                scales=self.scales_scales,
                codebook=self.scales_codebook,
                block_size=256,
                shape=self.scales.shape,
                dtype=torch.float32,
            )
            scales = QuantizedScales(centred=centred, mean=self.scales_mean)
        return QuantizedTensor(
            packed=self.packed,
            scales=scales,
            codebook=self.codebook,
            block_size=self.block_size,
            shape=torch.Size((self.out_features, self.in_features)),
            dtype=self.dtype,
        )

    def dequantize(self) -> Tensor:
        """Return the weight, (d_out, d_in)."""
        return dequantize_blockwise(self.quantized)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the layer; codes and scales change their place, never their type or their values."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in kept.items():
            if buffer is not None:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return self

    def extra_repr(self) -> str:
        """Describe the layer where a model is printed."""
        bits = self.quantized.bits_per_element
        return f"{self.in_features}, {self.out_features}, {bits:.3f} bits a weight"

    def _put(self, quantized: QuantizedTensor) -> None:
        self.block_size, self.dtype = quantized.block_size, quantized.dtype
        self.register_buffer("packed", quantized.packed)
        self.register_buffer("codebook", quantized.codebook, persistent=False)
        nested = quantized.scales if isinstance(quantized.scales, QuantizedScales) else None
        self.register_buffer("scales", nested.centred.packed if nested else quantized.scales)
        self.register_buffer("scales_scales", nested.centred.scales if nested else None)
        self.register_buffer("scales_mean", nested.mean if nested else None)
        codebook = dynamic_codebook().to(quantized.packed.device) if nested else None
        self.register_buffer("scales_codebook", codebook, persistent=False)


class _MultiplyRestored(torch.autograd.Function):
    """``x W^T`` with a weight that is restored in both passes and kept in neither."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: NF4Linear) -> Tensor:  # noqa: ANN001
        ctx.layer = layer
        return nn.functional.linear(x, layer.dequantize().to(x.dtype))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN001
        return gradient @ ctx.layer.dequantize().to(gradient.dtype), None


def quantize_model(model: Model, *, block_size: int = 64, is_double: bool = True) -> Model:
    """Replace every linear layer but the head by an ``NF4Linear``, in place, and freeze the model.

    Args:
        model: Model to quantise, one layer at a time.
        block_size: Weights that share a scale.
        is_double: Whether the scales are quantised too.

    Raises:
        ValueError: If there is nothing to quantise, the model carries an adapter or a soft prompt,
            is stored in few bits already, has weights that are not finite, or has an encoder and a
            decoder; it stays as it was.
    """
    check_count("block_size", block_size)
    check_flag("is_double", is_double)
    if taken := carried_by(model):
        raise ValueError(f"the model carries {taken}: quantise the base first, then `apply`")
    if packed := packed_by(model):
        raise ValueError(f"{packed} is stored in few bits already: quantise a full-precision model")
    check_one_stack(model)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 2:  # a mixture's experts, side by side: most of the model
            raise ValueError(f"{name} has {parameter.ndim} dimensions and is no linear layer's")
    layers = {
        name: layer
        for name, layer in below_heads(model)
        if isinstance(layer, nn.Linear) or is_transposed(layer)
    }
    if not layers:
        raise ValueError(f"{type(model).__name__} has no linear layer beside its head to quantise")
    for name, layer in layers.items():
        if not layer.weight.isfinite().all():
            raise ValueError(f"the weight of {name} has values that are not finite")
    model.requires_grad_(False)
    for name in list(layers):
        parent, _, child = name.rpartition(".")
        layer = NF4Linear(layers.pop(name), block_size=block_size, is_double=is_double)
        setattr(model.get_submodule(parent), child, layer)
    return model
