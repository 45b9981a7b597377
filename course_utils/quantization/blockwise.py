"""Blockwise quantisation: small integers, and one scale for every block of weights.

A flat weight is cut into blocks; each is divided by its largest magnitude, the *absmax*, and every
element is replaced by the index of the nearest level (Dettmers et al., 2023, arXiv:2305.14314,
section 2). Nothing else is kept.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from course_utils.quantization.codebooks import dynamic_codebook
from course_utils.validation import check_count, shown

SCALES_BLOCK_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class QuantizedScales:
    """Block scales that are quantised themselves: 8 bits each, and their mean apart.

    Args:
        centred: The scales less their mean, in the dynamic 8-bit type, blocks of 256.
        mean: Mean of the scales, a float32 scalar.
    """

    centred: "QuantizedTensor"
    mean: Tensor

    def restore(self) -> Tensor:
        """Return the scales, (n_blocks,), float32."""
        return dequantize_blockwise(self.centred) + self.mean

    def tensors(self) -> tuple[Tensor, ...]:
        """Return every tensor that must be stored."""
        return (*self.centred.tensors(), self.mean)


@dataclass(frozen=True, kw_only=True)
class QuantizedTensor:
    """A tensor in a few bits an element.

    Args:
        packed: The indices, packed into bytes without gaps, first index in the highest bits.
        scales: The absmax of each block, (n_blocks,), or these quantised.
        codebook: Levels that the indices stand for; shared by all tensors of its kind.
        block_size: Elements a block; the last may be shorter.
        shape: Shape of the tensor.
        dtype: Type of the tensor.
    """

    packed: Tensor
    scales: Tensor | QuantizedScales
    codebook: Tensor
    block_size: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def n_bits(self) -> int:
        """Bits of one index."""
        return math.ceil(math.log2(len(self.codebook)))

    @property
    def bits_per_element(self) -> float:
        """Bits that are stored for an element, scales included: counted from bytes."""
        n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())
        return 8 * n_bytes / self.shape.numel()

    def tensors(self) -> tuple[Tensor, ...]:
        """Return every tensor that must be stored; the codebook is known."""
        is_nested = isinstance(self.scales, QuantizedScales)
        return (self.packed, *(self.scales.tensors() if is_nested else (self.scales,)))

    def restored_scales(self) -> Tensor:
        """Return the scale of each block, (n_blocks,), float32."""
        is_nested = isinstance(self.scales, QuantizedScales)
        return self.scales.restore() if is_nested else self.scales


def quantize_blockwise(weight: Tensor, codebook: Tensor, block_size: int = 64) -> QuantizedTensor:
    """Quantise a tensor of any shape.

    Args:
        weight: Tensor; blocks run over its flattened elements.
        codebook: At most 256 levels in -1..1, in any order.
        block_size: Elements that share a scale.

    Raises:
        ValueError: If the weight is no tensor of finite floating-point numbers, at least one, or
            ``block_size`` or ``codebook`` is out of range.
    """
    check_values("weight", weight)
    check_codebook(codebook)
    check_count("block_size", block_size)
    flat = weight.detach().flatten().float()
    blocks = _in_blocks(flat, block_size)
    scales = blocks.abs().amax(dim=1)
    relative = blocks * (1 / scales.clamp(min=1e-38))[:, None]
    if flat.numel() % block_size:
        # As bitsandbytes does it: a short last block is divided, which may round otherwise.
        relative[-1], scales[-1] = (
            blocks[-1] / scales[-1].clamp(min=1e-38),
            scales[-1].clamp(min=1e-38),
        )
    codebook = codebook.to(flat.device)
    indices = nearest(relative.flatten()[: flat.numel()].clamp(-1, 1), codebook)
    return from_indices(indices.view(weight.shape), scales, codebook, block_size, weight.dtype)


def check_values(name: str, tensor: object) -> None:
    """Check that something is a tensor of finite floating-point numbers, at least one.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name}={shown(tensor)} must be a tensor")
    if not tensor.is_floating_point():
        raise ValueError(f"{name} of type {tensor.dtype} must hold floating-point numbers")
    if not tensor.numel():
        raise ValueError(f"{name} of shape {tuple(tensor.shape)} must have at least one element")
    if not torch.isfinite(tensor.detach()).all():
        raise ValueError(f"{name} has values that are not finite")


def check_codebook(codebook: object) -> None:
    """Check that a codebook is a row of 2 to 256 levels in -1..1, not all the same.

    Raises:
        ValueError: If it is not.
    """
    check_values("codebook", codebook)
    if codebook.ndim != 1 or not 2 <= len(codebook) <= 256:
        shape = tuple(codebook.shape)
        raise ValueError(f"codebook of shape {shape} must be one row of 2..256 levels")
    least, largest = codebook.min().item(), codebook.max().item()
    if not -1 <= least < largest <= 1:
        raise ValueError(f"codebook from {least:g} to {largest:g} must have two levels in -1..1")


def from_indices(
    indices: Tensor, scales: Tensor, codebook: Tensor, block_size: int, dtype: torch.dtype
) -> QuantizedTensor:
    """Pack indices that were chosen already, of the tensor's shape, with their blocks' scales."""
    n_bits = math.ceil(math.log2(len(codebook)))
    return QuantizedTensor(
        packed=pack(indices.flatten(), n_bits),
        scales=scales,
        codebook=codebook,
        block_size=block_size,
        shape=indices.shape,
        dtype=dtype,
    )


def dequantize_blockwise(quantized: QuantizedTensor) -> Tensor:
    """Return the tensor that was quantised, as nearly as its levels allow."""
    n, scales = quantized.shape.numel(), quantized.restored_scales()
    blocks = _in_blocks(_levels(quantized, n), quantized.block_size) * scales[:, None]
    return blocks.flatten()[:n].reshape(quantized.shape).to(quantized.dtype)


def _levels(quantized: QuantizedTensor, n: int) -> Tensor:
    """Return the level of each element, (n,)."""
    codebook, packed = quantized.codebook, quantized.packed
    if quantized.n_bits == 4 and quantized.block_size % 2 == 0:
        # Both nibbles of a byte are looked up at once, as one number of twice the size.
        table = _pair_table(tuple(codebook.tolist()), codebook.device)
        return table.index_select(0, packed.int()).view(torch.float32)[:n]
    if quantized.n_bits == 8:
        return codebook.index_select(0, packed.int())
    return codebook[unpack(packed, quantized.n_bits, n)]


def relative_error(weight: Tensor, restored: Tensor) -> float:
    """Return the mean squared error of restored weights over the mean square of the weights.

    Raises:
        ValueError: If the weights are all zeros, or the shapes differ, or a value is not finite.
    """
    check_values("weight", weight)
    check_values("restored", restored)
    if weight.shape != restored.shape:
        raise ValueError(
            f"restored of shape {tuple(restored.shape)} must have weight's {tuple(weight.shape)}"
        )
    weight, restored = weight.detach().double(), restored.detach().double()
    size = weight.square().sum()
    if not size:
        raise ValueError("the weights are all zeros: an error relative to them is undefined")
    return ((restored - weight).square().sum() / size).item()


def quantization_error(weight: Tensor, codebook: Tensor, block_size: int) -> float:
    """Return the relative mean squared error that blockwise quantisation makes.

    Args:
        weight: Weights of any shape, not all of them zeros.
        codebook: Levels in -1..1.
        block_size: Weights that share a scale.

    Raises:
        ValueError: If the weights are all zeros, or as ``quantize_blockwise`` does.
    """
    quantized = quantize_blockwise(weight, codebook, block_size)
    return relative_error(weight, dequantize_blockwise(quantized))


def quantize_scales(quantized: QuantizedTensor) -> QuantizedTensor:
    """Quantise the scales as well: 8 bits for 32, and one float for 256 of them.

    Double quantisation, from 0.5 to 0.127 bits a weight at blocks of 64 (Dettmers et al., 2023,
    arXiv:2305.14314, section 3).
    """
    scales = quantized.restored_scales()
    mean = scales.mean()
    centred = quantize_blockwise(scales - mean, dynamic_codebook(), SCALES_BLOCK_SIZE)
    return replace(quantized, scales=QuantizedScales(centred=centred, mean=mean))


def nearest(values: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest level for each value, (n,), uint8; ties go to the lower."""
    levels, order = codebook.sort()
    borders = (levels[:-1] + levels[1:]) / 2
    return order[torch.bucketize(values, borders)].to(torch.uint8)


def pack(indices: Tensor, n_bits: int) -> Tensor:
    """Pack indices below 2^n_bits into bytes, (n,) to (ceil(n n_bits / 8),), highest bit first."""
    shifts = torch.arange(n_bits - 1, -1, -1, device=indices.device, dtype=torch.uint8)
    bits = ((indices[:, None] >> shifts) & 1).flatten()
    bits = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    weights = 2 ** torch.arange(7, -1, -1, device=indices.device, dtype=torch.uint8)
    return (bits * weights).sum(dim=1, dtype=torch.uint8)


def unpack(packed: Tensor, n_bits: int, n: int) -> Tensor:
    """Return the first ``n`` indices of a packed tensor, (n,), int64."""
    shifts = torch.arange(7, -1, -1, device=packed.device, dtype=torch.uint8)
    bits = ((packed[:, None] >> shifts) & 1).flatten()[: n * n_bits].view(n, n_bits).long()
    weights = 2 ** torch.arange(n_bits - 1, -1, -1, device=packed.device)
    return (bits * weights).sum(dim=1)


def _in_blocks(flat: Tensor, block_size: int) -> Tensor:
    """Cut (n,) into (n_blocks, block_size), the last one filled up with zeros.

    A block that would be longer than all of them together is as long as they are.
    """
    block_size = min(block_size, flat.numel())
    missing = -flat.numel() % block_size
    return (torch.nn.functional.pad(flat, (0, missing)) if missing else flat).view(-1, block_size)


@lru_cache(maxsize=8)
def _pair_table(levels: tuple[float, ...], device: torch.device) -> Tensor:
    """Return both levels that a byte of two 4-bit indices stands for, in one float64, (256,)."""
    padded = torch.zeros(16, device=device)
    padded[: len(levels)] = torch.tensor(levels, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack([padded[byte >> 4], padded[byte & 15]], dim=1).view(torch.float64).flatten()
