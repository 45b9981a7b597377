"""Will it fit?: the memory of a training step against a card."""

import html
from typing import TYPE_CHECKING

import ipywidgets

from course_utils.memory import MemoryEstimate, estimate, format_bytes, known_architectures
from course_utils.memory.cards import CARDS
from course_utils.methods import FrozenFineTuning, FullFineTuning, LoRAConfig
from course_utils.show.palette import INK, part_colours
from course_utils.show.widgets.base import Interactive, name_controls

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CARDS_GB = {str(card): card.memory_gb for card in CARDS.values()} | {"8 x H100 (640 GB)": 640}
FOOTPRINTS = {
    "full": FullFineTuning(),
    "last 2 layers": FrozenFineTuning(last_n_layers=2),
    "LoRA r=8": LoRAConfig(rank=8),
    "LoRA r=64": LoRAConfig(rank=64),
}
PRECISIONS = {
    "float32": {"dtype": "float32"},
    "mixed 16-bit": {"dtype": "bfloat16", "mixed_precision": True},
    "pure 16-bit": {"dtype": "bfloat16"},
}


def verdict(needed: MemoryEstimate, card_gb: float) -> str:
    """Say in one sentence whether a training step fits on a card, and what would help if not."""
    room = card_gb * 1e9
    peak = format_bytes(needed.peak_bytes)
    if needed.peak_bytes <= 0.9 * room:
        return f"It fits: {peak} at the peak of a step, {needed.peak_bytes / room:.0%} of the card."
    if needed.peak_bytes <= room:
        return f"It hardly fits: {peak} of {card_gb:g} GB, and the CUDA context wants some too."
    parts = needed.parts()
    largest = max(parts, key=lambda name: parts[name])
    advice = {
        "weights": "store them in fewer bits, or take a smaller model",
        "gradients": "train fewer parameters",
        "optimizer": "train fewer parameters",
        "activations": "shorten the batch, or recompute them (gradient checkpointing)",
        "logits": "shorten the batch",
    }[largest]
    return f"It does not fit: {peak} on {card_gb:g} GB. Most of it is {largest}: {advice}."


class WillItFit(Interactive):
    """Choose a model, a method and a batch; see the memory of a training step against a card."""

    def __init__(self) -> None:
        names = list(known_architectures())
        self.controls = {
            "model": ipywidgets.Dropdown(options=names, value="Llama-2-7B"),
            "method": ipywidgets.Dropdown(options=list(FOOTPRINTS), value="full"),
            "precision": ipywidgets.Dropdown(options=list(PRECISIONS), value="mixed 16-bit"),
            "batch": ipywidgets.BoundedIntText(value=1, min=1, max=1024),
            "tokens": ipywidgets.BoundedIntText(value=1024, min=1, max=131072),
            "checkpointing": ipywidgets.Checkbox(value=False, indent=False),
            "card": ipywidgets.Dropdown(options=list(CARDS_GB), value="T4 (16 GB)"),
        }
        rows = name_controls(self.controls, width_px=110)
        self.picture = ipywidgets.HTML()
        super().__init__(ipywidgets.VBox([*rows, self.picture]), self._words, self._picture)
        for control in self.controls.values():
            control.observe(lambda change: self.refresh(), names="value")
        self.refresh()

    def refresh(self) -> None:
        """Estimate again and redraw."""
        self.chosen = chosen = {name: c.value for name, c in self.controls.items()}
        self.card_gb = CARDS_GB[chosen["card"]]
        self.estimate = estimate(
            chosen["model"],
            FOOTPRINTS[chosen["method"]],
            batch_size=chosen["batch"],
            seq_len=chosen["tokens"],
            gradient_checkpointing=chosen["checkpointing"],
            **PRECISIONS[chosen["precision"]],
        )
        self.picture.value = _stack(self.estimate, self.card_gb)

    def _words(self) -> str:
        return verdict(self.estimate, self.card_gb)

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import plot_memory

        name = "{model}\n{method}, {precision}".format(**self.chosen)
        finding = self._words().split(". ")[0]
        ax = plot_memory({name: self.estimate}, finding, limit_gb=self.card_gb)
        ax.set_xlabel("memory (GB); the parts are not all held at once")
        return ax


def will_it_fit() -> WillItFit:
    """Return the will-it-fit widget (see :class:`WillItFit`)."""
    return WillItFit()


def _stack(needed: MemoryEstimate, card_gb: float) -> str:
    """Return a stacked bar, its legend, the card's line and the verdict as HTML."""
    parts = needed.parts()
    colours = part_colours(list(parts))
    scale = 600 / max(sum(parts.values()), card_gb * 1e9)
    box = "display:inline-block;height:34px"
    bar = "".join(
        f"<span title='{name}: {format_bytes(size)}' style='{box};width:{size * scale:.1f}px;"
        f"background:{colours[name]}'></span>"
        for name, size in parts.items()
    )
    legend = " &nbsp; ".join(
        f"<span style='background:{colours[name]};color:{INK};padding:1px 6px'>"
        f"{name}</span> {format_bytes(size)}"
        for name, size in parts.items()
    )
    # currentColor: dark on the light theme, light on the dark one.
    line = f"left:{card_gb * 1e9 * scale:.1f}px;border-left:2px dashed currentColor;height:60px"
    words = html.escape(verdict(needed, card_gb))
    sums = f"The parts sum to {format_bytes(needed.total_bytes)}, but not all are held at once."
    return (
        f"<div style='position:relative;height:64px;width:700px;margin-top:8px'>"
        f"<div style='position:absolute;top:22px;white-space:nowrap;font-size:0'>{bar}</div>"
        f"<div style='position:absolute;top:0;{line};line-height:18px;padding-left:5px'>"
        f"{card_gb:g} GB</div></div>"
        f"<div style='width:700px;line-height:2'>{legend}<br>{sums}</div><p><b>{words}</b></p>"
    )
