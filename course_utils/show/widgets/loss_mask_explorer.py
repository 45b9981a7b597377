"""The loss-mask explorer: which tokens of an instruction and its answer a model learns to write."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import ipywidgets

from course_utils.data import IGNORED, encode_instruction
from course_utils.show.palette import ACCENT, GRID, MUTED, text_colour_on
from course_utils.show.widgets.base import Interactive, name_controls

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedTokenizerBase

TEMPLATES = {"chat": "chat", "plain text (Alpaca)": "alpaca"}
LOSS_ON = {"the answer": "answer", "everything": "all"}
# At the picture's width and size of print.
ROW_CHARACTERS = 94


@dataclass(frozen=True)
class MaskedToken:
    """A token's text, whether it carries loss, and whether it is one of the special tokens."""

    text: str
    has_loss: bool
    is_special: bool


def mask_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    instruction: str,
    input: str,
    output: str,
    *,
    template: Literal["chat", "alpaca"] = "chat",
    loss_on: Literal["answer", "all"] = "answer",
    has_end_token: bool = True,
    max_length_tokens: int = 256,
) -> list[MaskedToken]:
    """Return the tokens of an instruction and its answer, each with whether it carries loss.

    Args:
        tokenizer: Of the model that is to learn.
        instruction: What to do.
        input: What to do it with; may be empty.
        output: The answer.
        template: As :func:`course_utils.data.encode_instruction` takes it.
        loss_on: Likewise.
        has_end_token: Whether the end token is written after the answer.
        max_length_tokens: A prompt that is too long loses its beginning.
    """
    # Without its end token an example has room for one token more.
    example = encode_instruction(
        tokenizer,
        instruction,
        input,
        output,
        template=template,
        loss_on=loss_on,
        max_length_tokens=max_length_tokens + (not has_end_token),
    )
    ids, labels = (example[n][: None if has_end_token else -1] for n in ("input_ids", "labels"))
    special = set(tokenizer.all_special_ids)
    return [
        # Nothing stands before the first token that it could be predicted from.
        MaskedToken(tokenizer.decode([token]), place > 0 and label != IGNORED, token in special)
        for place, (token, label) in enumerate(zip(ids, labels, strict=True))
    ]


class LossMaskExplorer(Interactive):
    """Type an example, choose its template; see which tokens carry loss.

    Args:
        tokenizer: Tokenizer; without a chat template only the plain one can be chosen.
        instruction: Instruction to begin with.
        input: What to do it with; may be empty.
        output: The answer.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", instruction: str, input: str, output: str
    ) -> None:
        def field(value: str) -> ipywidgets.Text:
            return ipywidgets.Text(value=value, layout=ipywidgets.Layout(width="560px"))

        self.tokenizer = tokenizer
        self.instruction, self.input, self.output = map(field, (instruction, input, output))
        templates = list(TEMPLATES.items())[0 if tokenizer.chat_template else 1 :]
        self.template = ipywidgets.Dropdown(options=templates, value=templates[0][1])
        self.loss_on = ipywidgets.Dropdown(options=list(LOSS_ON.items()), value="answer")
        self.end_token = ipywidgets.Checkbox(value=True, indent=False)
        self.controls = {
            "instruction": self.instruction,
            "input": self.input,
            "answer": self.output,
            "template": self.template,
            "loss on": self.loss_on,
            "end token after the answer": self.end_token,
        }
        self.boxes = ipywidgets.HTML()
        rows = name_controls(self.controls, width_px=190)
        super().__init__(ipywidgets.VBox([*rows, self.boxes]), self._words, self._picture)
        for control in self.controls.values():
            control.observe(lambda change: self.refresh(), names="value")
        self.refresh()

    def refresh(self) -> None:
        """Encode the example again and colour its tokens."""
        self.tokens = mask_tokens(
            self.tokenizer,
            self.instruction.value,
            self.input.value,
            self.output.value,
            template=self.template.value,
            loss_on=self.loss_on.value,
            has_end_token=self.end_token.value,
        )
        self.boxes.value = _as_html(self.tokens, self.count(), self.warnings())

    def count(self) -> str:
        """Return in words how many tokens carry loss."""
        return f"{sum(t.has_loss for t in self.tokens)} of {len(self.tokens)} tokens carry loss"

    def warnings(self) -> list[str]:
        """Return what is wrong with the example, a line each."""
        lines = []
        if not self.output.value.strip():
            lines.append("The answer is empty: the model learns nothing to say.")
        if self.tokens[-1].text != self.tokenizer.eos_token:
            lines.append("No end token: the model never learns to stop.")
        if not any(token.has_loss for token in self.tokens):
            lines.append("No token carries loss: the mean over none is not a number.")
        return lines

    def _words(self) -> str:
        learned = "".join(token.text for token in self.tokens if token.has_loss)
        return "\n".join([f"{self.count()}: {learned!r}", *self.warnings()])

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        texts = [_visible(token.text) for token in self.tokens]
        places = lay_out(texts, ROW_CHARACTERS)
        n_rows = places[-1][0] + 1
        warnings = self.warnings()
        title = "\n".join([f"{self.count()} (blue)", *warnings])
        ax = new_axes(title, height=0.65 + 0.2 * len(warnings) + 0.27 * n_rows)
        for token, text, (row, column) in zip(self.tokens, texts, places, strict=True):
            fill, edge = _colours(token)
            ax.text(
                column,
                row,
                text,
                color=text_colour_on(fill),
                fontsize=8.5,
                va="center",
                family="DejaVu Sans Mono",
                weight="bold" if token.is_special else "normal",
                bbox={"facecolor": fill, "edgecolor": edge, "boxstyle": "round,pad=0.28"},
            )
        ax.set(xlim=(-1, ROW_CHARACTERS + 1), ylim=(n_rows - 0.4, -0.6))
        ax.set_axis_off()
        return ax


def loss_mask_explorer(
    tokenizer: "PreTrainedTokenizerBase",
    instruction: str = "Which costs more?",
    input: str = "A belt costs 2 pennies, a hat 16 pennies.",
    output: str = "The hat.",
) -> LossMaskExplorer:
    """Return the loss-mask explorer (see :class:`LossMaskExplorer`)."""
    return LossMaskExplorer(tokenizer, instruction, input, output)


def lay_out(texts: Sequence[str], row_characters: int) -> list[tuple[int, int]]:
    """Return each token's row and column, in characters; a line break ends its row.

    Two characters are left free between tokens. What is longer than a row has one of its own.
    """
    places, row, column = [], 0, 0
    for text in texts:
        if column and column + len(text) > row_characters:
            row, column = row + 1, 0
        places.append((row, column))
        column += len(text) + 2
        if "\u23ce" in text:
            row, column = row + 1, 0
    return places


def _visible(text: str) -> str:
    return text.replace("\n", "\u23ce").replace(" ", "\u2423")


def _colours(token: MaskedToken) -> tuple[str, str]:
    """Return a token's fill and edge: special tokens have an edge of their own."""
    fill = ACCENT if token.has_loss else GRID
    return fill, "#000000" if token.is_special else fill


def _as_html(tokens: Sequence[MaskedToken], count: str, warnings: Sequence[str]) -> str:
    rows = [_box(token) + "<br>" * ("\n" in token.text) for token in tokens]
    legend = " ".join(
        _span(text, _style(MaskedToken("", has_loss, is_special=False)))
        for text, has_loss in (("carries loss", True), ("is only read", False))
    )
    lines = "".join(f"<p style='margin:4px 0'><b>{html.escape(line)}</b></p>" for line in warnings)
    return (
        f"<div style='max-width:760px'>{''.join(rows)}</div>"
        f"<p style='margin:8px 0'><b>{count}</b> &nbsp; {legend}</p>{lines}"
    )


def _box(token: MaskedToken) -> str:
    hint = "carries loss" if token.has_loss else "is only read"
    return _span(_visible(token.text), f"font-family:monospace;{_style(token)}", hint)


def _style(token: MaskedToken) -> str:
    fill, _ = _colours(token)
    # Grey, not the black of the picture: it shows on a dark page too.
    edge = f"font-weight:bold;box-shadow:0 0 0 2px {MUTED};" * token.is_special
    return f"background:{fill};color:{text_colour_on(fill)};{edge}"


def _span(text: str, style: str, hint: str = "") -> str:
    box = "display:inline-block;line-height:1.5;margin:3px;padding:0 4px;border-radius:3px"
    return f"<span title='{hint}' style='{box};{style}'>{html.escape(text)}</span>"
