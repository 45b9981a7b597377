"""The direction explorer: length and direction of a row, under LoRA together, under DoRA apart."""

import math
from typing import TYPE_CHECKING

import ipywidgets
import torch
from torch import Tensor

from course_utils.methods.dora import magnitude_and_direction
from course_utils.show.palette import GRID, INK, MUTED, method_style
from course_utils.show.widgets.base import Explorer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Its length is the unit and its direction the horizontal one.
ROW = torch.tensor([1.0, 0.0])


def set_magnitude(weight: Tensor, magnitude: Tensor | float) -> Tensor:
    """Return rows of a given length, ``m v / ||v||`` (Liu et al., 2024, arXiv:2402.09353, eq. 5).

    Args:
        weight: Rows v, (..., d_in), none of them all zeros.
        magnitude: Length m of every row, (...), or of all.
    """
    magnitude = torch.as_tensor(magnitude, dtype=weight.dtype, device=weight.device)
    return magnitude[..., None] * weight / weight.norm(dim=-1, keepdim=True)


def degrees(direction: float) -> float:
    """Return the angle, in degrees, of a change of direction ``1 - cos`` in 0..2."""
    return math.degrees(math.acos(min(max(1 - direction, -1.0), 1.0)))


class DirectionExplorer(Explorer):
    """Move an update and a magnitude; see what LoRA and DoRA make of one row of two weights."""

    def __init__(self) -> None:
        def slider(value: float, low: float, high: float) -> ipywidgets.FloatSlider:
            return ipywidgets.FloatSlider(
                value=value,
                min=low,
                max=high,
                step=0.05,
                readout_format=".2f",
                continuous_update=False,
            )

        # The update never takes the whole row away: a row of zeros has no direction.
        self.along = slider(0.2, -0.8, 1.0)
        self.across = slider(0.8, 0.0, 1.2)
        self.magnitude = slider(1.0, 0.4, 1.6)
        controls = {
            "update along the row": self.along,
            "update across the row": self.across,
            "DoRA's magnitude m / ‖w‖": self.magnitude,
        }
        super().__init__(controls, self._words, self._picture)

    def refresh(self) -> None:
        """Compute both rows again and draw them."""
        self.lora = ROW + torch.tensor([self.along.value, self.across.value])
        self.dora = set_magnitude(self.lora, self.magnitude.value * ROW.norm())
        super().refresh()

    def _words(self) -> str:
        sentences = []
        for name, row in {"LoRA": self.lora, "DoRA": self.dora}.items():
            magnitude, direction = (change.item() for change in magnitude_and_direction(ROW, row))
            sentences.append(
                f"{name}: the length goes from 1 to {row.norm():.2f} (change {magnitude:.2f}), "
                f"the direction turns by {degrees(direction):.1f} degrees "
                f"(1 - cos = {direction:.3f})."
            )
        return " ".join(sentences)

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        turned = degrees(magnitude_and_direction(ROW, self.lora)[1].item())
        ax = new_axes(
            f"Both turn the row by {turned:.0f}°:\nLoRA's length becomes {self.lora.norm():.2f}, "
            f"DoRA's is set to {self.dora.norm():.2f}",
            x="along w (lengths of w)",
            y="across w (lengths of w)",
            height=4.8,
        )
        around = torch.linspace(0, 2 * math.pi, 200)
        circle = torch.stack([around.cos(), around.sin()])
        for radius in (0.5, 1.0, 1.5, 2.0, 2.5):
            ax.plot(*(radius * circle).tolist(), color=GRID, linewidth=1)
        lora, dora = method_style("lora").colour, method_style("dora").colour
        ax.plot(*(self.dora.norm() * circle).tolist(), "--", color=dora, linewidth=1.2)
        # LoRA and DoRA lie on one line: the broad arrow shows beneath the thin one.
        _arrow(ax, 0 * ROW, self.lora, lora, width=6)
        _arrow(ax, 0 * ROW, ROW, INK, width=2.2)
        _arrow(ax, 0 * ROW, self.dora, dora, width=2.2)
        _arrow(ax, ROW, self.lora, MUTED, width=1.2, style=":")
        aside = torch.stack([-self.lora[1], self.lora[0]]) / self.lora.norm()
        # Where DoRA's name lies below the middle of the row, the row's own makes way for it.
        is_free = turned > 15 or self.dora.norm() > 0.75
        _name(ax, "w", ROW / 2 if is_free else ROW, torch.tensor([0.0, -0.7]), INK)
        _name(ax, "LoRA", self.lora, aside, lora)
        _name(ax, "DoRA", self.dora, -aside, dora)
        ax.set(xlim=(-0.75, 2.35), ylim=(-0.25, 1.7), aspect="equal")
        ax.set_yticks([0.0, 0.5, 1.0, 1.5])
        ax.grid(visible=False)
        return ax


def direction_explorer() -> DirectionExplorer:
    """Return the direction explorer (see :class:`DirectionExplorer`)."""
    return DirectionExplorer()


def _arrow(
    ax: "Axes", start: Tensor, end: Tensor, colour: str, *, width: float, style: str = "-"
) -> None:
    shape = {
        "arrowstyle": "-|>",
        "color": colour,
        "linewidth": width,
        "linestyle": style,
        "mutation_scale": 10 + 2 * width,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    ax.annotate("", end.tolist(), xytext=start.tolist(), arrowprops=shape)


def _name(ax: "Axes", text: str, tip: Tensor, aside: Tensor, colour: str) -> None:
    from matplotlib.patheffects import withStroke

    label = ax.annotate(
        text,
        tip.tolist(),
        xytext=(22 * aside).tolist(),
        textcoords="offset points",
        color=colour,
        weight="bold",
        ha="center",
        va="center",
    )
    label.set_path_effects([withStroke(linewidth=4, foreground="white")])
