"""GPTQ: round a column, let the others make up for it (Frantar et al., 2022, arXiv:2210.17323)."""

import torch
from torch import Tensor

from course_utils.quantization.blockwise import (
    QuantizedTensor,
    check_codebook,
    check_values,
    from_indices,
    nearest,
)
from course_utils.validation import check_count, check_number


def gptq(
    weight: Tensor, inputs: Tensor, codebook: Tensor, block_size: int = 64, *, damping: float = 0.01
) -> QuantizedTensor:
    """Quantise a layer's weight so that its *outputs* change little, and not its weights.

    Columns are rounded from left to right. The error of each is spread over the columns that are
    still free, by the inverse of the inputs' second moments (section 3, eq. 2 and 3): columns whose
    inputs go together can stand in for one another.

    Args:
        weight: (d_out, d_in).
        inputs: What the layer is given on calibration texts, (n, d_in).
        codebook: Levels in -1..1.
        block_size: Weights of a row that share a scale; divides d_in.
        damping: Share of the mean second moment that is added to each, so that the inverse exists.

    Raises:
        ValueError: If the shapes do not fit, ``block_size`` does not divide d_in, a value is not
            finite, or ``damping`` is too small for the inputs.
    """
    check_calibration(weight, inputs, codebook, block_size)
    check_number("damping", damping, at_least=0)
    d_in = weight.shape[1]
    spread = _spread(inputs.detach().float().to(weight.device), damping)
    codebook = codebook.to(weight.device)
    columns = weight.detach().float().clone()
    indices = torch.empty(weight.shape, dtype=torch.uint8, device=weight.device)
    scales = torch.empty(weight.shape[0], d_in // block_size, device=weight.device)
    for j in range(d_in):
        block = j // block_size
        if j % block_size == 0:
            scales[:, block] = columns[:, j : j + block_size].abs().amax(dim=1).clamp(min=1e-38)
        indices[:, j] = nearest((columns[:, j] / scales[:, block]).clamp(-1, 1), codebook)
        rounded = codebook[indices[:, j].long()] * scales[:, block]
        error = (columns[:, j] - rounded) / spread[j, j]
        columns[:, j + 1 :] -= error[:, None] * spread[j, j + 1 :]
    return from_indices(indices, scales.flatten(), codebook, block_size, weight.dtype)


def check_calibration(weight: Tensor, inputs: Tensor, codebook: Tensor, block_size: int) -> None:
    """Check that inputs fit a weight, blocks its rows, and that the codebook is one.

    Raises:
        ValueError: If they do not.
    """
    check_values("weight", weight)
    check_values("inputs", inputs)
    check_codebook(codebook)
    if weight.ndim != 2:
        raise ValueError(f"weight of shape {tuple(weight.shape)} must be (d_out, d_in)")
    d_in = weight.shape[1]
    if inputs.ndim != 2 or inputs.shape[1] != d_in:
        raise ValueError(f"inputs of shape {tuple(inputs.shape)} must be (n, {d_in})")
    check_count("block_size", block_size)
    if d_in % block_size:
        raise ValueError(f"block_size={block_size} must divide d_in={d_in}")


def _spread(inputs: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inputs' inverse second moments, (d_in, d_in).

    Raises:
        ValueError: If there is none: some inputs follow from others, or are beyond float32.
    """
    moments = inputs.T @ inputs / len(inputs)
    moments.diagonal().add_(damping * moments.diagonal().mean() + 1e-8)
    refusal = ValueError(
        f"damping={damping:g} leaves the inputs' second moments without an inverse: raise it, or "
        "give more and smaller inputs"
    )
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
        spread = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError as error:
        raise refusal from error
    if not spread.isfinite().all():
        raise refusal
    return spread
