"""Widgets: the next-token explorer and "will it fit?".

What a widget computes is in plain functions. The interface is common to ipywidgets 7.7 and 8.
"""

import base64
import html
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import ipywidgets
import torch
from IPython import get_ipython
from IPython.display import display

from course_utils.memory import (
    FrozenFootprint,
    FullFootprint,
    LoRAFootprint,
    MemoryEstimate,
    estimate,
    format_bytes,
    known_architectures,
)
from course_utils.palette import ACCENT, INK, part_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARDS_GB = {
    "T4 (16 GB)": 16, "RTX 4090 (24 GB)": 24, "A100 (40 GB)": 40, "H100 (80 GB)": 80,
    "H200 (141 GB)": 141, "8 x H100 (640 GB)": 640,
}  # fmt: skip
FOOTPRINTS = {
    "full": FullFootprint(), "last 2 layers": FrozenFootprint(last_n_layers=2),
    "LoRA r=8": LoRAFootprint(rank=8), "LoRA r=64": LoRAFootprint(rank=64),
}  # fmt: skip
PRECISIONS = {
    "float32": {"dtype": "float32"},
    "mixed 16-bit": {"dtype": "bfloat16", "mixed_precision": True},
    "pure 16-bit": {"dtype": "bfloat16"},
}


class Interactive:
    """A widget, its picture and its text in one output, of which a front end takes the best.

    JupyterLab takes the widget, GitHub and a saved notebook the picture, a terminal the text.

    Args:
        view: The ipywidgets view.
        describe: Returns the present state in words.
        draw: Draws the present state and returns its axes.
    """

    def __init__(
        self, view: ipywidgets.Widget, describe: Callable[[], str], draw: "Callable[[], Axes]"
    ) -> None:
        self.view, self.describe, self.draw = view, describe, draw

    def __repr__(self) -> str:
        return self.describe()

    def bundle(self) -> dict[str, object]:
        """Return the present state by MIME type: widget, PNG picture, text."""
        # ipywidgets 7.7 and 8 build this entry in different ways; the format is the same.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.view.model_id}
        return {
            "application/vnd.jupyter.widget-view+json": view,
            "image/png": _png(self.draw()),
            "text/plain": self.describe(),
        }

    def _ipython_display_(self) -> None:
        has_kernel = hasattr(get_ipython(), "kernel")
        display(self.bundle() if has_kernel else {"text/plain": self.describe()}, raw=True)


def next_tokens(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str, *,
    temperature: float = 1.0, count: int = 10,
) -> list[tuple[str, float]]:  # fmt: skip
    """Return the likeliest next tokens and their probabilities, the likeliest first.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompt: Text so far; empty asks for the first token of a document.
        temperature: The logits are divided by it; below 1 sharpens, above 1 flattens.
        count: How many tokens.

    Raises:
        ValueError: If ``temperature`` is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be greater than 0")
    text = (tokenizer.bos_token or "") + prompt
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if ids.shape[1] == 0:
        ids = torch.tensor([[tokenizer.eos_token_id]])
    limit = getattr(model.config, "max_position_embeddings", ids.shape[1])
    with torch.no_grad():
        logits = model(input_ids=ids[:, -limit:].to(model.device)).logits[0, -1].float()
    probabilities = (logits / temperature).softmax(-1)
    top = probabilities.topk(count)
    return [
        (tokenizer.decode([token]), probability)
        for token, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


class NextTokenExplorer(Interactive):
    """Type a prompt, see the ten likeliest next tokens, click one to append it.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompt: Text to begin with.
    """

    def __init__(
        self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str = ""
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.text = ipywidgets.Textarea(
            value=prompt, rows=3, layout=ipywidgets.Layout(width="640px")
        )
        self.temperature = ipywidgets.FloatSlider(
            value=1.0, min=0.1, max=2.0, step=0.1, description="temperature",
            style={"description_width": "initial"}, continuous_update=False,
        )  # fmt: skip
        self.buttons = [
            ipywidgets.Button(layout=ipywidgets.Layout(width="150px")) for _ in range(10)
        ]
        self.bars = [ipywidgets.HTML() for _ in range(10)]
        rows = [ipywidgets.HBox(pair) for pair in zip(self.buttons, self.bars, strict=True)]
        super().__init__(
            ipywidgets.VBox([self.text, self.temperature, *rows]), self._words, self._picture
        )
        for button in self.buttons:
            button.on_click(self._append)
        self.text.observe(lambda change: self.refresh(), names="value")
        self.temperature.observe(lambda change: self.refresh(), names="value")
        self.refresh()

    def refresh(self) -> None:
        """Ask the model again and redraw the bars."""
        self.choices = next_tokens(
            self.model, self.tokenizer, self.text.value, temperature=self.temperature.value
        )
        for button, bar, (token, probability) in zip(
            self.buttons, self.bars, self.choices, strict=True
        ):
            button.description = token.replace("\n", "\u23ce").replace(" ", "\u2423")
            button.tooltip = f"append {token!r}"
            bar.value = _bar(probability)

    def _append(self, button: ipywidgets.Button) -> None:
        self.text.value += self.choices[self.buttons.index(button)][0]

    def _words(self) -> str:
        likely = ", ".join(f"{token!r} {p:.1%}" for token, p in self.choices[:5])
        return f"After {self.text.value!r}: {likely}"

    def _picture(self) -> "Axes":
        from course_utils.plotting import plot_probabilities

        tokens, probabilities = zip(*self.choices, strict=True)
        prompt = self.text.value if len(self.text.value) <= 50 else f"…{self.text.value[-50:]}"
        return plot_probabilities(tokens, probabilities, f"What may follow {prompt!r}")


def next_token_explorer(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str = ""
) -> NextTokenExplorer:
    """Return the next-token explorer (see :class:`NextTokenExplorer`)."""
    return NextTokenExplorer(model, tokenizer, prompt)


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
        "gradients": "train fewer parameters", "optimizer": "train fewer parameters",
        "activations": "shorten the batch, or recompute them (gradient checkpointing)",
        "logits": "shorten the batch",
    }[largest]  # fmt: skip
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
        rows = [
            ipywidgets.HBox([ipywidgets.Label(name, layout={"width": "110px"}), control])
            for name, control in self.controls.items()
        ]
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
            chosen["model"], FOOTPRINTS[chosen["method"]], batch_size=chosen["batch"],
            seq_len=chosen["tokens"], gradient_checkpointing=chosen["checkpointing"],
            **PRECISIONS[chosen["precision"]],
        )  # fmt: skip
        self.picture.value = _stack(self.estimate, self.card_gb)

    def _words(self) -> str:
        return verdict(self.estimate, self.card_gb)

    def _picture(self) -> "Axes":
        from course_utils.plotting import plot_memory

        name = "{model}\n{method}, {precision}".format(**self.chosen)
        finding = self._words().split(". ")[0]
        ax = plot_memory({name: self.estimate}, finding, limit_gb=self.card_gb)
        ax.set_xlabel("memory (GB); the parts are not all held at once")
        return ax


def will_it_fit() -> WillItFit:
    """Return the will-it-fit widget (see :class:`WillItFit`)."""
    return WillItFit()


def _bar(probability: float) -> str:
    width = max(1, round(380 * probability))
    box = f"display:inline-block;height:14px;width:{width}px;background:{ACCENT};border-radius:2px"
    return f"<span style='{box}'></span> {probability:.1%}"


def _png(ax: "Axes") -> str:
    """Return a figure as base64 PNG and close it, or the notebook would show it a second time."""
    from matplotlib.pyplot import close

    ax.figure.savefig(buffer := io.BytesIO(), format="png", bbox_inches="tight")
    close(ax.figure)
    return base64.b64encode(buffer.getvalue()).decode()


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
