"""The next-token explorer: what a model thinks may follow a text."""

from typing import TYPE_CHECKING

import ipywidgets
import torch

from course_utils.show.palette import ACCENT
from course_utils.show.widgets.base import Interactive
from course_utils.validation import check_count, check_number, check_text, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def next_tokens(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    *,
    temperature: float = 1.0,
    count: int = 10,
) -> list[tuple[str, float]]:
    """Return the likeliest next tokens and their probabilities, the likeliest first.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompt: Text so far; empty asks for the first token of a document.
        temperature: The logits are divided by it; below 1 sharpens, above 1 flattens.
        count: How many tokens.

    Raises:
        ValueError: If ``temperature`` is not above 0, ``prompt`` is no text, or the model gives no
            finite logits.
    """
    check_number("temperature", temperature, above=0)
    check_text("prompt", prompt)
    text = (tokenizer.bos_token or "") + prompt
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    if ids.shape[1] == 0:
        ids = torch.tensor([[tokenizer.eos_token_id]])
    limit = getattr(model.config, "max_position_embeddings", ids.shape[1])
    with torch.no_grad():
        logits = model(input_ids=ids[:, -limit:].to(model.device)).logits[0, -1].float()
    check_count("count", count, at_most=len(logits))
    probabilities = (logits / temperature).softmax(-1)
    if not probabilities.isfinite().all():
        raise ValueError(f"the model's logits after {shown(prompt)} are not finite")
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
            value=1.0,
            min=0.1,
            max=2.0,
            step=0.1,
            description="temperature",
            style={"description_width": "initial"},
            continuous_update=False,
        )
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
        from course_utils.show.plotting import plot_probabilities

        tokens, probabilities = zip(*self.choices, strict=True)
        prompt = self.text.value if len(self.text.value) <= 50 else f"…{self.text.value[-50:]}"
        return plot_probabilities(tokens, probabilities, f"What may follow {prompt!r}")


def next_token_explorer(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", prompt: str = ""
) -> NextTokenExplorer:
    """Return the next-token explorer (see :class:`NextTokenExplorer`)."""
    return NextTokenExplorer(model, tokenizer, prompt)


def _bar(probability: float) -> str:
    width = max(1, round(380 * probability))
    box = f"display:inline-block;height:14px;width:{width}px;background:{ACCENT};border-radius:2px"
    return f"<span style='{box}'></span> {probability:.1%}"
