"""The NF4 explorer: where a codebook puts its levels, and where the weights are."""

from typing import TYPE_CHECKING

import ipywidgets
import torch
from torch import Tensor

from course_utils.quantization import (
    QuantizedTensor,
    dequantize_blockwise,
    fp4_codebook,
    integer_codebook,
    nf4_codebook,
    quantization_error,
    quantize_blockwise,
    quantize_scales,
    relative_error,
)
from course_utils.show.palette import INK, heat_colour
from course_utils.show.widgets.base import Explorer
from course_utils.validation import check_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CODEBOOKS = {
    "NF4": nf4_codebook(),
    "FP4": fp4_codebook(),
    **{f"INT{n_bits}": integer_codebook(n_bits) for n_bits in (4, 3, 2, 8)},
}
BLOCK_SIZES = [2**k for k in range(4, 11)]
MOST_WEIGHTS = 2**16
OUTLIER_FACTOR = 20


def make_outliers(weight: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return weights of which a random share is 20 times as large, and a mask of these.

    Args:
        weight: Weights, (n,).
        share: Share of outliers, in 0..1; with one seed, the fewer are among the more.
        seed: Seed of the draw.

    Raises:
        ValueError: If ``share`` is out of range.
    """
    check_number("share", share, at_least=0, at_most=1)
    order = torch.randperm(len(weight), generator=torch.Generator().manual_seed(seed))
    is_outlier = torch.zeros(len(weight), dtype=torch.bool)
    is_outlier[order[: round(share * len(weight))]] = True
    return torch.where(is_outlier, OUTLIER_FACTOR * weight, weight), is_outlier


def divide_by_absmax(weight: Tensor, quantized: QuantizedTensor) -> Tensor:
    """Return weights, (n,), divided by the scale of their block: in -1..1."""
    scales = quantized.restored_scales().repeat_interleave(quantized.block_size)[: len(weight)]
    return weight / scales.clamp(min=1e-38)


class NF4Explorer(Explorer):
    """Choose a format, a block size and outliers; see the levels among the weights.

    Args:
        weight: Weights of any shape; of more than 65,536 the first are taken.
        seed: Seed of the outliers' places.

    Raises:
        ValueError: If the weights are all zeros, or not finite.
    """

    def __init__(self, weight: Tensor, seed: int = 0) -> None:
        flat = weight.detach().flatten().float().cpu()
        self.n_given, self.seed = len(flat), seed
        self.weight = flat[:MOST_WEIGHTS]
        self.format = ipywidgets.Dropdown(options=list(CODEBOOKS), value="NF4")
        self.block_size = ipywidgets.SelectionSlider(
            options=BLOCK_SIZES, value=64, continuous_update=False
        )
        self.outliers = ipywidgets.FloatSlider(
            value=0.0, min=0.0, max=2.0, step=0.1, readout_format=".1f", continuous_update=False
        )
        controls = {
            "format": self.format,
            "block size (weights)": self.block_size,
            "outliers (% of weights)": self.outliers,
        }
        super().__init__(controls, self._words, self._picture)

    def refresh(self) -> None:
        """Quantise again and draw it."""
        codebook, block_size = CODEBOOKS[self.format.value], self.block_size.value
        values, is_outlier = make_outliers(self.weight, self.outliers.value / 100, self.seed)
        self.quantized = quantize_blockwise(values, codebook, block_size)
        restored = dequantize_blockwise(self.quantized)
        self.relative = divide_by_absmax(values, self.quantized)
        self.error = relative_error(values, restored)
        self.zeros = (restored == 0).double().mean().item()
        self.n_outliers = int(is_outlier.sum())
        # The large weights rule the error of all: what they do to the others is seen apart.
        self.others_error = relative_error(values[~is_outlier], restored[~is_outlier])
        super().refresh()

    def _words(self) -> str:
        name, block_size = self.format.value, self.block_size.value
        plain = self.quantized.bits_per_element
        double = quantize_scales(self.quantized).bits_per_element
        words = (
            f"{name} in blocks of {block_size}: the mean squared error is {_percent(self.error)} "
            f"of the weights' mean square. A weight takes {plain:.3f} bits with float32 scales, "
            f"{double:.3f} with the scales quantised too."
        )
        if self.n_outliers:
            before = quantization_error(self.weight, CODEBOOKS[name], block_size)
            words += (
                f" Of the weights, {self.n_outliers:,} were made {OUTLIER_FACTOR} times as large; "
                f"the error of the others is {_percent(self.others_error)} of their own mean "
                f"square, and without outliers it is {_percent(before)}."
            )
        if self.n_given > len(self.weight):
            words += f" Taken are the first {len(self.weight):,} of {self.n_given:,} weights."
        return words

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        levels = self.quantized.codebook.unique()
        setting = f"{self.format.value}, blocks of {self.block_size.value}"
        others = " of ordinary weights" if self.n_outliers else ""
        ax = new_axes(
            f"{setting}: {self.zeros:.0%} of the weights round to 0,\n"
            f"relative squared error{others} {_percent(self.others_error)}",
            x="weight / largest magnitude of its block",
            y="share of weights (%)",
        )
        shares = torch.histc(self.relative, bins=100, min=-1, max=1) / len(self.relative)
        borders = torch.linspace(-1, 1, 101)
        ax.stairs((100 * shares).tolist(), borders.tolist(), fill=True, color=heat_colour(0.55))
        # 255 lines would hide the histogram: they are a strip at the top.
        start, width, style = (0.94, 0.35, "-") if len(levels) > 16 else (0, 1.1, (0, (4, 2)))
        ax.vlines(
            levels.tolist(),
            start,
            1,
            transform=ax.get_xaxis_transform(),
            color=INK,
            linewidth=width,
            linestyle=style,
        )
        ax.margins(y=0.1)
        ax.annotate(
            f"{len(levels)} levels",
            (1, 1),
            xytext=(0, 3),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
        )
        ax.grid(axis="x", visible=False)
        ax.set_xlim(-1.02, 1.02)
        return ax


def nf4_explorer(weight: Tensor, seed: int = 0) -> NF4Explorer:
    """Return the NF4 explorer (see :class:`NF4Explorer`)."""
    return NF4Explorer(weight, seed)


def _percent(share: float) -> str:
    """Return a share in per cent with three digits, however small it is."""
    return f"{100 * share:.3g}%"
