"""The adapter explorer: a block with bottleneck adapters, what trains in it, and how much."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ipywidgets
import torch

from course_utils.memory import Architecture, architecture_of
from course_utils.methods import LoRAConfig
from course_utils.methods.bottleneck import ACTIVATIONS, PLACEMENTS
from course_utils.show.palette import GRID, INK, MUTED, method_style
from course_utils.show.widgets.base import Explorer
from course_utils.validation import check_choice, check_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import nn
    from transformers import PreTrainedConfig

FACTORS = (2, 4, 8, 16, 32, 64, 128, 256)
OTHERS = ("Qwen3-0.6B", "Llama-2-7B", "Llama-3.1-70B")
WIDTHS = {"norm": 7.0, "attention": 13.0, "feed-forward": 15.0, "adapter": 10.0, "+": 3.4}
# Heights of the drawn block and of the drawn adapter, in the picture's units.
BLOCK, ADAPTER = 47.0, 16.0


@dataclass(frozen=True, kw_only=True)
class AdapterAnatomy:
    """Bottleneck adapters in a model's blocks, counted.

    An adapter is ``h + up(f(down(h)))`` (Houlsby et al., 2019, arXiv:1902.00751, section 2.1).

    Args:
        architecture: Shape of the model.
        reduction_factor: d_model over the bottleneck size m, rounded down; in 1..d_model.
        placement: ``houlsby``, two adapters a layer, or ``pfeiffer`` (Pfeiffer et al., 2020,
            arXiv:2005.00247), one.
        activation: f, which has no parameters; one of ``ACTIVATIONS``.

    Raises:
        ValueError: If a choice is unknown, or the reduction factor is out of range.
    """

    architecture: Architecture
    reduction_factor: int = 16
    placement: str = "houlsby"
    activation: str = "gelu"

    def __post_init__(self) -> None:
        for name, known in (("placement", PLACEMENTS), ("activation", ACTIVATIONS)):
            check_choice(name, getattr(self, name), known)
        d_model = self.architecture.d_model
        check_count("reduction_factor", self.reduction_factor, at_most=d_model)

    @property
    def bottleneck_size(self) -> int:
        """The inner width m."""
        return self.architecture.d_model // self.reduction_factor

    @property
    def n_adapters(self) -> int:
        """Adapters in the whole model."""
        return self.architecture.n_layers * PLACEMENTS[self.placement]

    @property
    def parameters_each(self) -> int:
        """Parameters of one adapter, ``2 d m + d + m``: two matrices and their biases."""
        d, m = self.architecture.d_model, self.bottleneck_size
        return 2 * d * m + d + m

    @property
    def n_trained(self) -> int:
        """Parameters of all adapters."""
        return self.n_adapters * self.parameters_each

    @property
    def share(self) -> float:
        """Trained parameters over all of the model with its adapters, in 0..1."""
        return self.n_trained / (self.architecture.n_parameters + self.n_trained)

    @property
    def equal_lora_rank(self) -> float:
        """Rank at which LoRA on every linear layer of the blocks trains as many parameters."""
        one = LoRAConfig(rank=1).footprint(self.architecture).sizes(self.architecture)
        return self.n_trained / sum(one)

    def parts(self) -> list[list[str]]:
        """Return the parts of a block in the order of the computation, a list a sublayer."""
        norms = self.architecture.norm_placement
        before, after = ["norm"] * (norms != "post"), ["norm"] * (norms != "pre")
        first = ["adapter"] * (self.placement == "houlsby")
        return [
            [*before, "attention", *first, *after, "+"],
            [*before, "feed-forward", "adapter", *after, "+"],
        ]


class AdapterExplorer(Explorer):
    """Choose a model, a bottleneck, a placement and f; see the block and its trained parameters.

    Args:
        model: As :func:`course_utils.memory.architecture_of` takes it: the model to begin with.
        others: Further models to choose from.
        reduction_factor: Factor to begin with; the nearest one on the slider is taken.
        placement: Placement to begin with.
        activation: Activation to begin with.
    """

    def __init__(
        self,
        model: "nn.Module | PreTrainedConfig | Architecture | str",
        others: Sequence[str],
        reduction_factor: int,
        placement: str,
        activation: str,
    ) -> None:
        shapes = [architecture_of(some) for some in (model, *others)]
        self.shapes: dict[str, Architecture] = {}
        for shape in shapes:
            self.shapes.setdefault(shape.name, shape)
        names = [
            (f"{name} (d = {shape.d_model:,}, {shape.n_layers} layers)", name)
            for name, shape in self.shapes.items()
        ]
        first = AdapterAnatomy(
            architecture=shapes[0],
            reduction_factor=min(reduction_factor, shapes[0].d_model),
            placement=placement,
            activation=activation,
        )
        smallest = min(shape.d_model for shape in shapes)
        factors = [factor for factor in FACTORS if factor <= smallest] or [1]
        nearest = min(factors, key=lambda factor: abs(factor - first.reduction_factor))
        self.model = ipywidgets.Dropdown(options=names, value=shapes[0].name)
        self.factor = ipywidgets.SelectionSlider(
            options=[(f"d / {factor}", factor) for factor in factors],
            value=nearest,
            continuous_update=False,
        )
        self.placement = ipywidgets.Dropdown(options=list(PLACEMENTS), value=placement)
        self.activation = ipywidgets.Dropdown(options=list(ACTIVATIONS), value=activation)
        controls = {
            "model": self.model,
            "bottleneck size m": self.factor,
            "placement": self.placement,
            "activation f": self.activation,
        }
        super().__init__(controls, self._words, self._picture)

    def refresh(self) -> None:
        """Count again and draw."""
        self.anatomy = AdapterAnatomy(
            architecture=self.shapes[self.model.value],
            reduction_factor=self.factor.value,
            placement=self.placement.value,
            activation=self.activation.value,
        )
        super().refresh()

    def _words(self) -> str:
        one, shape = self.anatomy, self.anatomy.architecture
        d, m = shape.d_model, one.bottleneck_size
        return (
            f"{shape.name}, {one.placement}: {one.n_adapters} adapters of {d:,} → {m:,} → {d:,} "
            f"with {one.activation}. Each trains 2 x {d} x {m} + {d} + {m} = "
            f"{one.parameters_each:,} parameters, all of them {one.n_trained:,}, {one.share:.2%} "
            f"of the model. LoRA on all linear layers trains as many at rank "
            f"{one.equal_lora_rank:.3g}. Everything else is frozen."
        )

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        one = self.anatomy
        ax = new_axes(
            f"{one.n_adapters} adapters train {one.share:.2%} of {one.architecture.name}, "
            f"as many parameters as LoRA of rank {one.equal_lora_rank:.3g}",
            height=4.6,
            width=8.8,
        )
        ax.set(xlim=(0, 100), ylim=(-2, 60))
        ax.set_axis_off()
        _draw_block(ax, one)
        _draw_adapter(ax, one)
        _draw_numbers(ax, one)
        return ax


def adapter_explorer(
    model: "nn.Module | PreTrainedConfig | Architecture | str",
    *,
    others: Sequence[str] = OTHERS,
    reduction_factor: int = 16,
    placement: str = "houlsby",
    activation: str = "gelu",
) -> AdapterExplorer:
    """Return the adapter explorer (see :class:`AdapterExplorer`)."""
    return AdapterExplorer(model, others, reduction_factor, placement, activation)


def _draw_block(ax: "Axes", one: AdapterAnatomy) -> None:
    """Draw the block as a line of boxes, the residual paths above, and the lines of the zoom."""
    sublayers = one.parts()
    parts = [part for sublayer in sublayers for part in sublayer]
    # Room for "h" and an arrow at both ends, and a branch before each sublayer.
    gap = (92 - sum(map(WIDTHS.get, parts))) / (len(parts) + 2)
    _line(ax, [(2, BLOCK), (98, BLOCK)])
    ax.text(1, BLOCK, "h", ha="right", va="center", style="italic")
    left = 3 + gap
    for sublayer in sublayers:
        branch, left = left - gap / 2, left + gap / 2
        for part in sublayer:
            middle, right = left + WIDTHS[part] / 2, left + WIDTHS[part]
            _draw_part(ax, part, left, middle)
            if part == "adapter":
                zoomed = left, right
            left = right + gap
        above = BLOCK + 8
        _line(ax, [(branch, BLOCK), (branch, above), (middle, above), (middle, BLOCK + 2)])
        ax.text(
            (branch + middle) / 2,
            above + 0.6,
            "residual",
            ha="center",
            va="bottom",
            size=8.5,
            color=MUTED,
        )
    for corner, end in zip(zoomed, (1.0, 63.0), strict=True):
        ax.plot([corner, end], [BLOCK - 4, 35], ":", color=MUTED, linewidth=1)


def _draw_part(ax: "Axes", part: str, left: float, middle: float) -> None:
    from matplotlib.patches import Rectangle

    if part == "+":
        _sum(ax, middle, BLOCK)
        return
    is_trained = part == "adapter"
    height = 4.0 if part != "norm" else 3.0
    ax.add_patch(
        Rectangle((left, BLOCK - height), WIDTHS[part], 2 * height, zorder=2, **_fill(is_trained))
    )
    colour = "white" if is_trained else INK
    ax.text(
        middle,
        BLOCK,
        part,
        ha="center",
        va="center",
        size=9,
        color=colour,
        zorder=3,
        weight="bold" if is_trained else "normal",
    )


def _draw_adapter(ax: "Axes", one: AdapterAnatomy) -> None:
    """Draw one adapter from d to m and back; the heights of its ends are to scale."""
    from matplotlib.patches import Polygon, Rectangle

    d, m = one.architecture.d_model, one.bottleneck_size
    wide, y = 8.0, ADAPTER
    narrow = wide * m / d
    ax.add_patch(Rectangle((1, -2), 62, 37, facecolor="none", edgecolor=MUTED, linestyle=":"))
    _line(ax, [(4, y), (61.5, y)])
    _line(ax, [(6.5, y), (6.5, y + 12), (57, y + 12), (57, y + 2)])
    _sum(ax, 57, y)
    ax.text(32, y + 12.7, "h, unchanged", ha="center", va="bottom", size=8.5, color=MUTED)
    for left, ends, name, n_bias in (
        (10, (wide, narrow), "down", m),
        (40, (narrow, wide), "up", d),
    ):
        right = left + 12
        corners = [
            (left, y - ends[0]),
            (left, y + ends[0]),
            (right, y + ends[1]),
            (right, y - ends[1]),
        ]
        ax.add_patch(Polygon(corners, zorder=2, **_fill(is_trained=True)))
        shape = f"{d:,} → {m:,}" if name == "down" else f"{m:,} → {d:,}"
        ax.text(
            left + 6,
            y - wide - 1.2,
            f"{name}: {shape}\n{d * m + n_bias:,} trained",
            ha="center",
            va="top",
            size=8.5,
            linespacing=1.4,
        )
    _draw_activation(ax, one.activation, y, y - wide - 1.2)


def _draw_activation(ax: "Axes", activation: str, y: float, below: float) -> None:
    """Draw what stands between the two projections, as the curve that it is."""
    from matplotlib.patches import Rectangle

    ax.add_patch(Rectangle((26, y - 5), 10, 10, zorder=2, facecolor="white", edgecolor=MUTED))
    ax.plot([27, 35], [y, y], [31, 31], [y - 4, y + 4], color=GRID, linewidth=1, zorder=2)
    x = torch.linspace(-3, 3, 61)
    value = ACTIVATIONS[activation](x)
    ax.plot(31 + x * 1.4, y + value * 1.4, color=INK, linewidth=1.6, zorder=3)
    ax.text(
        31,
        below,
        f"{activation}\nno weights",
        ha="center",
        va="top",
        size=8.5,
        linespacing=1.4,
    )


def _draw_numbers(ax: "Axes", one: AdapterAnatomy) -> None:
    """Write what is counted, and which fill stands for what."""
    from matplotlib.patches import Rectangle

    shape = one.architecture
    rows = (
        ("one adapter, 2dm + d + m", f"{one.parameters_each:,}"),
        (f"adapters, {PLACEMENTS[one.placement]} x {shape.n_layers} layers", f"{one.n_adapters:,}"),
        ("trained", f"{one.n_trained:,}"),
        ("frozen", f"{shape.n_parameters:,}"),
        ("trained, share of all", f"{one.share:.2%}"),
        ("LoRA rank, all linear layers", f"{one.equal_lora_rank:.3g}"),
    )
    for row, (name, number) in enumerate(rows):
        y = 32.5 - 5 * row
        ax.text(66, y, name, va="center", size=9)
        ax.text(100, y, number, va="center", ha="right", size=9, weight="bold")
    for left, name, is_trained in ((66, "trained", True), (83, "frozen", False)):
        ax.add_patch(Rectangle((left, 0), 3, 2.6, **_fill(is_trained)))
        ax.text(left + 4, 1.3, name, va="center", size=9)


def _fill(is_trained: bool) -> dict[str, str]:
    colour = method_style("bottleneck").colour
    face, edge = (colour, colour) if is_trained else (GRID, MUTED)
    return {"facecolor": face, "edgecolor": edge}


def _sum(ax: "Axes", x: float, y: float) -> None:
    ax.plot(x, y, "o", color="white", markeredgecolor=INK, markersize=13, zorder=2)
    ax.text(x, y, "+", ha="center", va="center_baseline", zorder=3)


def _line(ax: "Axes", points: Sequence[tuple[float, float]]) -> None:
    """Draw a path that ends in an arrow."""
    style = {"arrowstyle": "-|>", "color": INK, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
    ax.plot(*zip(*points, strict=True), color=INK, linewidth=1.1, zorder=1)
    ax.annotate("", points[-1], xytext=points[-2], arrowprops=style, zorder=1)
