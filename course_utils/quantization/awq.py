"""AWQ: give the inputs that matter finer steps (Lin et al., 2023, arXiv:2306.00978)."""

from dataclasses import dataclass

from torch import Tensor

from course_utils.quantization.blockwise import (
    QuantizedTensor,
    check_values,
    dequantize_blockwise,
    quantize_blockwise,
)
from course_utils.quantization.gptq import check_calibration

N_TRIED = 20


@dataclass(frozen=True, kw_only=True)
class ScaledTensor:
    """A weight that was quantised with its columns stretched.

    Args:
        quantized: The stretched weight, (d_out, d_in).
        stretch: By how much each column was, (d_in,); the inputs are divided by it.
    """

    quantized: QuantizedTensor
    stretch: Tensor

    @property
    def bits_per_element(self) -> float:
        """Bits that are stored for a weight, those of the stretch included."""
        own = 8 * self.stretch.numel() * self.stretch.element_size()
        return self.quantized.bits_per_element + own / self.quantized.shape.numel()

    def dequantize(self) -> Tensor:
        """Return the weight, (d_out, d_in), with its columns as they were."""
        return dequantize_blockwise(self.quantized) / self.stretch.to(self.quantized.dtype)


def awq(weight: Tensor, inputs: Tensor, codebook: Tensor, block_size: int = 64) -> ScaledTensor:
    """Quantise a layer's weight with the columns of large inputs stretched first.

    A column that is stretched by s has a rounding error that is s times smaller. How much to
    stretch, ``mean |x|^p``, is one number p in 0..1 (section 3.2, eq. 5): the one whose outputs are
    nearest to those of the full weight. p = 0 is plain rounding.

    Args:
        weight: (d_out, d_in).
        inputs: What the layer is given on calibration texts, (n, d_in).
        codebook: Levels in -1..1.
        block_size: Weights of a row that share a scale; divides d_in.

    Raises:
        ValueError: If the shapes do not fit, ``block_size`` does not divide d_in, a value is not
            finite, or the layer's outputs are all zeros.
    """
    check_calibration(weight, inputs, codebook, block_size)
    inputs, weight = inputs.detach().float().to(weight.device), weight.detach()
    magnitude = inputs.abs().mean(dim=0).clamp(min=1e-8)

    def stretched(power: float) -> ScaledTensor:
        stretch = magnitude**power
        stretch = stretch / (stretch.max() * stretch.min()).sqrt()
        quantized = quantize_blockwise(weight * stretch.to(weight.dtype), codebook, block_size)
        return ScaledTensor(quantized=quantized, stretch=stretch)

    tried = [stretched(step / N_TRIED) for step in range(N_TRIED + 1)]
    return min(tried, key=lambda some: output_error(weight, some.dequantize(), inputs))


def output_error(weight: Tensor, approximation: Tensor, inputs: Tensor) -> float:
    """Return the mean squared error of a layer's outputs, relative to their mean square.

    Raises:
        ValueError: If the shapes do not fit, a value is not finite, or the weight's outputs are all
            zeros.
    """
    for name, tensor in (("weight", weight), ("approximation", approximation), ("inputs", inputs)):
        check_values(name, tensor)
    if weight.shape != approximation.shape or weight.shape[1:] != inputs.shape[1:]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (weight, approximation, inputs))
        raise ValueError(f"shapes {shapes} must be (d_out, d_in), the same, and (n, d_in)")
    wanted = inputs.float() @ weight.detach().float().T
    found = inputs.float() @ approximation.float().T
    size = wanted.square().mean()
    if not size:
        raise ValueError("the outputs are all zeros: an error relative to them is undefined")
    return ((found - wanted).square().mean() / size).item()
