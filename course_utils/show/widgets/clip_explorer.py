"""The clip explorer: PPO's clipped objective, and where its gradient is zero."""

from typing import TYPE_CHECKING

import ipywidgets
import torch
from torch import Tensor

from course_utils.show.palette import ACCENT, INK, MUTED
from course_utils.show.widgets.base import Explorer
from course_utils.validation import check_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_RATIO, MOST_ADVANTAGE = 2.5, 2.0


def clipped_surrogate(
    ratio: Tensor, advantage: Tensor | float, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Return PPO's clipped objective, to be maximised, and its slope over the ratio.

    ``min(r A, clip(r, 1 - eps, 1 + eps) A)`` (Schulman et al., 2017, arXiv:1707.06347, eq. 7).

    Args:
        ratio: r, new probability of an action over the old, any shape.
        advantage: A, of a shape that goes with ``ratio``.
        clip_range: eps, above 0.

    Returns:
        Objective and slope, both of the common shape of ratio and advantage, without gradient.

    Raises:
        ValueError: If ``clip_range`` is not above 0, or a ratio is negative.
    """
    check_number("clip_range", clip_range, above=0)
    if (ratio < 0).any():
        raise ValueError(f"ratio={ratio.min().item():g} must be at least 0")
    advantage = torch.as_tensor(advantage, dtype=ratio.dtype)
    ratio, advantage = torch.broadcast_tensors(ratio.detach(), advantage)
    ratio = ratio.clone().requires_grad_()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    objective = torch.minimum(ratio * advantage, clipped * advantage)
    (slope,) = torch.autograd.grad(objective.sum(), ratio)
    return objective.detach(), slope


class ClipExplorer(Explorer):
    """Move ratio, advantage and clip range; see the objective and whether a gradient flows."""

    def __init__(self) -> None:
        def slider(value: float, low: float, high: float, step: float) -> ipywidgets.FloatSlider:
            return ipywidgets.FloatSlider(
                value=value,
                min=low,
                max=high,
                step=step,
                readout_format=".2f",
                continuous_update=False,
            )

        self.ratio = slider(1.5, 0.0, MOST_RATIO, 0.05)
        self.advantage = slider(1.0, -MOST_ADVANTAGE, MOST_ADVANTAGE, 0.1)
        self.clip_range = slider(0.2, 0.05, 0.5, 0.05)
        controls = {
            "ratio r = π(a) / π_old(a)": self.ratio,
            "advantage A": self.advantage,
            "clip range ε": self.clip_range,
        }
        super().__init__(controls, self._words, self._picture)

    def refresh(self) -> None:
        """Compute objective and slope again and draw them."""
        # A front end's sums of steps may be a rounding error beside the edge of the clip range.
        controls = (self.ratio, self.advantage, self.clip_range)
        self.r, self.A, self.eps = (round(control.value, 2) for control in controls)
        value, slope = clipped_surrogate(
            torch.tensor(self.r, dtype=torch.float64), self.A, self.eps
        )
        self.objective, self.slope = value.item(), slope.item()
        super().refresh()

    def _words(self) -> str:
        r, A, low, high = self.r, self.A, 1 - self.eps, 1 + self.eps
        flow = f"The gradient flows (slope {self.slope:.2f})" if self.slope else "No gradient"
        start = f"L = min(r A, clip(r) A) = {self.objective:.2f}. {flow}: "
        if A == 0:
            return f"{start}the advantage is 0, so there is nothing to make likelier."
        if self.slope and low <= r <= high:
            return f"{start}r = {r:.2f} lies within {low:.2f} to {high:.2f}, nothing is clipped."
        goal = "likelier" if A > 0 else "less likely"
        edge = f"above 1 + ε = {high:.2f}" if r > high else f"below 1 - ε = {low:.2f}"
        if self.slope:
            return (
                f"{start}r = {r:.2f} is {edge}, but A wants the action {goal}. It went the wrong "
                "way, the unclipped term is the smaller, and the step leads back."
            )
        return (
            f"{start}r = {r:.2f} is {edge}, and A wants the action {goal}, which it already is. "
            "The clipped term is the smaller, and it does not depend on r."
        )

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        state = "a gradient flows" if self.slope else "no gradient"
        at = f"At r = {self.r:.2f}, A = {self.A:.2f}"
        ax = new_axes("", height=3.9, width=8.6)
        grid = ax.figure.add_gridspec(1, 2, width_ratios=(1, 1.15))
        ax.set_subplotspec(grid[0])
        ax.figure.suptitle(
            f"{at}: L = {self.objective:.2f}, {state}", x=0.01, ha="left", size=11.5, weight="bold"
        )
        self._draw_curve(ax)
        self._draw_surface(ax.figure.add_subplot(grid[1]))
        return ax

    def _draw_curve(self, ax: "Axes") -> None:
        A, eps = self.A, self.eps
        ratio = torch.linspace(0, MOST_RATIO, 501, dtype=torch.float64)
        objective, _ = clipped_surrogate(ratio, A, eps)
        clipped = ratio.clamp(1 - eps, 1 + eps) * A
        ax.axvspan(1 - eps, 1 + eps, color=MUTED, alpha=0.12, linewidth=0)
        ax.plot(ratio, objective, color=ACCENT, linewidth=5, alpha=0.45, label="L, the smaller")
        ax.plot(ratio, A * ratio, "--", color=INK, linewidth=1.3, label="r A")
        ax.plot(ratio, clipped, ":", color=INK, linewidth=1.8, label="clip(r) A")
        # Where r is 1, there is room below a rising curve and above a falling one.
        ax.text(
            1,
            0.03 if A >= 0 else 0.92,
            "1 ± ε",
            transform=ax.get_xaxis_transform(),
            ha="center",
            color=INK,
        )
        ax.set_ylim(*(sorted([-0.15 * A, 2.6 * A]) if A else (-1, 1)))
        _mark(ax, self.r, self.objective)
        ax.set_title(f"for A = {A:.2f}", weight="normal", size=10)
        ax.set(xlabel="ratio r", ylabel="objective L", xlim=(0, MOST_RATIO))
        # A rising curve leaves the corner above its start free, a falling one that below.
        ax.legend(loc="upper left" if A >= 0 else "lower left", frameon=False)

    def _draw_surface(self, ax: "Axes") -> None:
        import matplotlib.pyplot as plt

        ratio = torch.linspace(0, MOST_RATIO, 251, dtype=torch.float64)
        advantage = torch.linspace(-MOST_ADVANTAGE, MOST_ADVANTAGE, 201, dtype=torch.float64)
        objective, slope = clipped_surrogate(ratio, advantage[:, None], self.eps)
        limit = MOST_RATIO * MOST_ADVANTAGE
        levels = torch.linspace(-limit, limit, 21).tolist()
        surface = ax.contourf(ratio, advantage, objective, levels=levels, cmap="RdBu")
        # Where A is 0 the slope is 0 too, but that is no region.
        is_flat = (slope == 0) & (advantage[:, None] != 0)
        with plt.rc_context({"hatch.color": INK, "hatch.linewidth": 0.6}):
            ax.contourf(
                ratio, advantage, is_flat.double(), levels=[0.5, 1.5], colors="none", hatches=["//"]
            )
        ax.axhline(self.A, color=INK, linewidth=1)
        _mark(ax, self.r, self.A)
        ax.set_title("hatched: no gradient", weight="normal", size=10)
        ax.set(xlabel="ratio r", ylabel="advantage A", xlim=(0, MOST_RATIO))
        ax.grid(visible=False)
        ax.figure.colorbar(surface, ax=ax, label="objective L", ticks=[-limit, 0, limit])


def clip_explorer() -> ClipExplorer:
    """Return the clip explorer (see :class:`ClipExplorer`)."""
    return ClipExplorer()


def _mark(ax: "Axes", x: float, y: float) -> None:
    ax.plot(x, y, "o", color=INK, markersize=9, markeredgecolor="white", clip_on=False, zorder=5)
