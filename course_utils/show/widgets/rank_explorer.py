"""The rank explorer: how much of a weight's change a few directions hold."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import ipywidgets
import torch
from torch import Tensor

from course_utils.show.widgets.base import Explorer
from course_utils.validation import check_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN = 64
PANEL_GAP = 0.12
Factors = tuple[Tensor, Tensor, Tensor]


def rebuild(change: Tensor, rank: int) -> tuple[Tensor, float]:
    """Return the best rebuild of a matrix at a rank, and the share of its squared size.

    The r largest singular values and their vectors: no other matrix of rank r is nearer (Eckart
    and Young, 1936, doi:10.1007/BF02288367).

    Args:
        change: Change of a weight, (d_out, d_in).
        rank: r, in 1..min(d_out, d_in).

    Returns:
        The rebuild, (d_out, d_in), float32, and its squared size over that of the change; 1 where
        the change is all zeros.

    Raises:
        ValueError: If ``change`` is no matrix of finite values, or ``rank`` is out of range.
    """
    _check(change)
    check_count("rank", rank, at_most=min(change.shape))
    return _truncate(_factorise(change), rank)


def ranks_up_to(limit: int) -> list[int]:
    """Return the powers of two below ``limit``, and ``limit`` itself."""
    return [2**k for k in range(limit.bit_length()) if 2**k < limit] + [limit]


class RankExplorer(Explorer):
    """Choose a layer and a rank; see the layer's change, its rebuild, and what is left over.

    Args:
        changes: For each layer's name the change of its weight, (d_out, d_in).
        rank: Rank to begin with; the nearest one on the slider is taken.

    Raises:
        ValueError: If there is no change, or one is no matrix of finite values.
    """

    def __init__(self, changes: Mapping[str, Tensor], rank: int = 4) -> None:
        if not changes:
            raise ValueError("changes is empty: give the change of one layer at least")
        for change in changes.values():
            _check(change)
        self.changes = dict(changes)
        self.factors: dict[str, Factors] = {}
        names = list(self.changes)
        self.layer = ipywidgets.Dropdown(options=names, value=names[0])
        ranks = self._ranks(names[0])
        self.rank = ipywidgets.SelectionSlider(
            options=ranks, value=_nearest(ranks, rank), continuous_update=False
        )
        self.is_fitting = False
        # Before the explorer's own: by the time that it draws, the layer's ranks are in place.
        self.layer.observe(lambda change: self._fit_ranks(), names="value")
        super().__init__({"layer": self.layer, "rank": self.rank}, self._words, self._picture)

    def refresh(self) -> None:
        """Rebuild the change at the present rank and draw it."""
        if self.is_fitting:
            return
        name = self.layer.value
        if name not in self.factors:
            self.factors[name] = _factorise(self.changes[name])
        self.rebuilt, self.kept = _truncate(self.factors[name], self.rank.value)
        super().refresh()

    def _ranks(self, name: str) -> list[int]:
        return ranks_up_to(min(self.changes[name].shape))

    def _fit_ranks(self) -> None:
        ranks, wanted = self._ranks(self.layer.value), self.rank.value
        if tuple(ranks) != tuple(self.rank.options):
            # New options set the slider to the first: that is no state to draw.
            self.is_fitting = True
            self.rank.options = ranks
            self.rank.value = _nearest(ranks, wanted)
            self.is_fitting = False

    def _words(self) -> str:
        rank, (d_out, d_in) = self.rank.value, self.changes[self.layer.value].shape
        stored, whole = rank * (d_in + d_out), d_in * d_out
        words = (
            f"{self.layer.value}: rank {rank} keeps {_percent(self.kept)} of the squared size of "
            f"the change. It stores {rank} x ({d_in} + {d_out}) = {stored:,} numbers, the whole "
            f"change {d_in} x {d_out} = {whole:,}: {stored / whole:.1%}."
        )
        rows, columns = min(d_out, SHOWN), min(d_in, SHOWN)
        if (rows, columns) == (d_out, d_in):
            return words
        return f"{words} The picture shows the first {rows} rows and {columns} columns."

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        change = self.changes[self.layer.value].detach().float().cpu()
        panels = {"change": change, "rebuild": self.rebuilt, "left over": change - self.rebuilt}
        corners = {name: panel[:SHOWN, :SHOWN] for name, panel in panels.items()}
        height, width = corners["change"].shape
        # Cells are squares as long as no side of a panel becomes a sliver.
        wide, high = min(1.0, max(0.4, width / height)), min(1.0, max(0.4, height / width))
        ax = new_axes(
            f"Rank {self.rank.value} of {min(change.shape)} keeps {_percent(self.kept)} of the "
            f"change's squared size\n{_end_of(self.layer.value)}",
            height=1.1 + 2.1 * high / wide if wide == 1 else 3.2,
        )
        # One large value must not bleach all others.
        limit = corners["change"].abs().flatten().quantile(0.99).item() or 1.0
        for k, (name, corner) in enumerate(corners.items()):
            left = k * (wide + PANEL_GAP)
            image = ax.imshow(
                corner.numpy(),
                cmap="RdBu",
                vmin=-limit,
                vmax=limit,
                interpolation="nearest",
                extent=(left, left + wide, 0, high),
            )
            ax.text(left, high + 0.03, name, va="bottom")
        ax.set(xlim=(-0.01, 3 * wide + 2 * PANEL_GAP + 0.01), ylim=(-0.01, high + 0.15))
        ax.set_axis_off()
        ax.figure.colorbar(
            image,
            ax=ax,
            extend="both",
            shrink=0.8,
            aspect=14,
            ticks=[-limit, 0, limit],
            format="%.2g",
            label="change of a weight",
        )
        return ax


def rank_explorer(changes: Mapping[str, Tensor], rank: int = 4) -> RankExplorer:
    """Return the rank explorer (see :class:`RankExplorer`)."""
    return RankExplorer(changes, rank)


def _check(change: Tensor) -> None:
    if change.ndim != 2 or not change.numel() or not torch.isfinite(change).all():
        shape = tuple(change.shape)
        raise ValueError(f"a change of shape {shape} must be a matrix (d_out, d_in), all finite")


def _factorise(change: Tensor) -> Factors:
    return torch.linalg.svd(change.detach().float().cpu(), full_matrices=False)


def _truncate(factors: Factors, rank: int) -> tuple[Tensor, float]:
    U, S, Vh = factors
    energy = S.double().square()
    total = energy.sum()
    kept = (energy[:rank].sum() / total).item() if total else 1.0
    return (U[:, :rank] * S[:rank]) @ Vh[:rank], kept


def _nearest(ranks: list[int], rank: int) -> int:
    return min(ranks, key=lambda some: abs(some - rank))


def _percent(share: float) -> str:
    """Return a share in per cent; what is not all is not called 100%."""
    return "over 99.9%" if 0.9995 <= share < 1 - 1e-9 else f"{share:.1%}"


def _end_of(name: str) -> str:
    return name if len(name) <= 60 else f"…{name[-60:]}"
