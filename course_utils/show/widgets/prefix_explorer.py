"""The prefix explorer: virtual tokens in the attention map, and how much attention they take."""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import ipywidgets
import torch
from torch import Tensor

from course_utils.models.structure import soft_prompt_of
from course_utils.show.palette import ACCENT, GRID, INK
from course_utils.show.widgets.base import Explorer
from course_utils.validation import check_count, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# No number of a head; None would be no choice at all.
MEAN = -1
# Widest that all virtual places together are drawn, in columns of a token.
MOST_VIRTUAL = 12


@dataclass(frozen=True)
class AttentionMap:
    """Attention of a text's tokens to the virtual places and to one another.

    Args:
        text: The text.
        tokens: Its tokens as they are shown, the begin token first where the tokenizer has one.
        weights: (n_layers, n_heads, seq, n_virtual + seq), the virtual places first.
    """

    text: str
    tokens: list[str]
    weights: Tensor

    @property
    def n_virtual(self) -> int:
        """Number of virtual places."""
        return self.weights.shape[-1] - len(self.tokens)

    def of(self, layer: int, head: int = MEAN) -> Tensor:
        """Return the map of a layer's head, or the mean of its heads, (seq, n_virtual + seq)."""
        heads = self.weights[layer]
        return heads.mean(0) if head == MEAN else heads[head]

    def share(self, layer: int, head: int = MEAN) -> Tensor:
        """Return how much of its attention each token gives to the virtual places, (seq,)."""
        return self.of(layer, head)[:, : self.n_virtual].sum(-1)

    def equal_share(self) -> Tensor:
        """Return the same if all places that a token sees got the same, (seq,)."""
        n = self.n_virtual
        return n / (n + 1 + torch.arange(len(self.tokens)))


def attention_maps(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    max_length_tokens: int = 24,
) -> list[AttentionMap]:
    """Return the attention maps of texts under the soft prompt that a model carries.

    Args:
        model: Model with a soft prompt; computes eagerly meanwhile, or there are no maps.
        tokenizer: Its tokenizer.
        texts: Texts, each a forward pass.
        max_length_tokens: What is longer is cut, begin token included.

    Raises:
        ValueError: If the model carries no soft prompt or it is switched off, or a text has no
            tokens.
    """
    check_count("max_length_tokens", max_length_tokens)
    prompt = soft_prompt_of(model)
    if prompt is None:
        raise ValueError(
            f"{type(model).__name__} carries no soft prompt: "
            "apply(model, PrefixTuningConfig(num_virtual_tokens=8)) first"
        )
    maps = []
    with _eager(model), torch.no_grad():
        for text in texts:
            ids = _encode(tokenizer, text)[:max_length_tokens]
            output = model(torch.tensor([ids], device=model.device), output_attentions=True)
            # Of a prompt among the embeddings the virtual places look as well: not asked here.
            layers = [layer[0, :, -len(ids) :].float().cpu() for layer in output.attentions]
            weights, n_places = torch.stack(layers), prompt.num_virtual_tokens + len(ids)
            if weights.shape[-1] != n_places:
                raise ValueError(
                    f"the attention map has {weights.shape[-1]} places and must have {n_places}: "
                    "is the soft prompt switched off?"
                )
            maps.append(AttentionMap(text, [_visible(tokenizer.decode([i])) for i in ids], weights))
    return maps


class PrefixExplorer(Explorer):
    """Choose a text, a layer and a head; see what the tokens look at, the virtual places first.

    Args:
        maps: From :func:`attention_maps`; all of one model.
        layer: Layer to begin with, the first is 1.

    Raises:
        ValueError: If there is no map, or no such layer.
    """

    def __init__(self, maps: Sequence[AttentionMap], layer: int = 1) -> None:
        if not maps:
            raise ValueError("texts is empty: give one text at least")
        self.maps = list(maps)
        self.n_layers, self.n_heads = self.maps[0].weights.shape[:2]
        check_count("layer", layer, at_most=self.n_layers)
        texts = [(f"{k}: {_shorten(one.text)}", k - 1) for k, one in enumerate(self.maps, 1)]
        heads = [("mean of all", MEAN), *((f"{k + 1}", k) for k in range(self.n_heads))]
        self.text = ipywidgets.Dropdown(options=texts, value=0, layout={"width": "560px"})
        self.layer = ipywidgets.SelectionSlider(
            options=[(f"{k + 1} of {self.n_layers}", k) for k in range(self.n_layers)],
            value=layer - 1,
            continuous_update=False,
        )
        self.head = ipywidgets.Dropdown(options=heads, value=MEAN)
        controls = {"text": self.text, "layer": self.layer, "head": self.head}
        super().__init__(controls, self._words, self._picture)

    def refresh(self) -> None:
        """Take the chosen map and draw it."""
        self.chosen = self.maps[self.text.value]
        self.share = self.chosen.share(self.layer.value, self.head.value)
        super().refresh()

    def _where(self) -> str:
        head = self.head.value
        heads = f"mean of {self.n_heads} heads" if head == MEAN else f"head {head + 1}"
        return f"layer {self.layer.value + 1} of {self.n_layers}, {heads}"

    def _words(self) -> str:
        share, tokens, places = self.share, self.chosen.tokens, _places(self.chosen.n_virtual)
        most, least = share.argmax().item(), share.argmin().item()
        return (
            f"{self._where()}: the {len(tokens)} tokens give {share.mean():.1%} of their attention "
            f"to {places}; if every place that a token sees got the same, it would be "
            f"{self.chosen.equal_share().mean():.1%}. Most from {tokens[most]!r} (token "
            f"{most + 1}, {share[most]:.1%}), least from {tokens[least]!r} (token {least + 1}, "
            f"{share[least]:.1%})."
        )

    def _picture(self) -> "Axes":
        from course_utils.show.plotting import new_axes

        ax = new_axes("", width=9.4, height=min(2.4 + 0.2 * len(self.chosen.tokens), 6.1))
        grid = ax.figure.add_gridspec(1, 2, width_ratios=(2.2, 1))
        ax.set_subplotspec(grid[0])
        ax.figure.suptitle(
            f"{self.share.mean():.0%} of the attention goes to {_places(self.chosen.n_virtual)}"
            f"\n{self._where()}",
            x=0.01,
            ha="left",
            size=11.5,
            weight="bold",
        )
        _draw_map(ax, self.chosen, self.chosen.of(self.layer.value, self.head.value))
        _draw_share(
            ax.figure.add_subplot(grid[1], sharey=ax), self.share, self.chosen.equal_share()
        )
        return ax


def prefix_explorer(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    layer: int = 1,
    max_length_tokens: int = 24,
) -> PrefixExplorer:
    """Return the prefix explorer (see :class:`PrefixExplorer`); all maps are computed now."""
    maps = attention_maps(model, tokenizer, texts, max_length_tokens=max_length_tokens)
    return PrefixExplorer(maps, layer)


def _encode(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return a text's tokens with the begin token before them, as documents are trained on."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"text {shown(text)} has no tokens: give one word at least")
    return ids if tokenizer.bos_token_id is None else [tokenizer.bos_token_id, *ids]


@contextmanager
def _eager(model: "PreTrainedModel") -> Iterator[None]:
    """Let a model compute eagerly and without dropout inside a ``with`` block."""
    implementation, is_training = model.config._attn_implementation, model.training
    model.set_attn_implementation("eager")
    model.eval()
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)
        model.train(is_training)


def _draw_map(ax: "Axes", one: AttentionMap, weights: Tensor) -> None:
    """Draw a map: rows look, columns are looked at, a line ends the virtual places."""
    n, n_tokens = one.n_virtual, len(one.tokens)
    # Many virtual places are drawn narrower than tokens, or these would have no room.
    end = min(n, MOST_VIRTUAL)
    edges = [end * k / n for k in range(n)] + [end + k for k in range(n_tokens + 1)]
    is_seen = torch.ones_like(weights, dtype=torch.bool).tril(n)
    image = ax.pcolormesh(
        edges,
        range(n_tokens + 1),
        weights.where(is_seen, torch.nan).numpy(),
        cmap="Blues",
        vmin=0,
        vmax=weights.max().item(),
        rasterized=True,
    )
    ax.set_facecolor(GRID)
    ax.grid(visible=False)
    ax.axvline(end, color=INK, linewidth=2)
    labelled = range(0, n, -(-n // MOST_VIRTUAL))
    middles = [end * (k + 0.5) / n for k in labelled] + [end + k + 0.5 for k in range(n_tokens)]
    labels = [f"p{k + 1}" for k in labelled] + one.tokens
    ax.set_xticks(middles, labels, rotation=90, color=INK, size=8.5)
    ax.set_yticks([k + 0.5 for k in range(n_tokens)], one.tokens, color=INK, size=8.5)
    for label in ax.get_xticklabels()[: len(labelled)]:
        label.set(weight="bold", color=ACCENT)
    ax.set(
        ylim=(n_tokens, 0),
        ylabel="token that looks",
        xlabel="what it looks at: virtual places p, then tokens (grey: later ones)",
    )
    ax.figure.colorbar(image, ax=ax, label="attention", format="%.2g", pad=0.02, aspect=30)


def _draw_share(ax: "Axes", share: Tensor, equal: Tensor) -> None:
    rows = [k + 0.5 for k in range(len(share))]
    ax.barh(rows, share.tolist(), color=ACCENT, height=0.7)
    ax.plot(equal.tolist(), rows, "|", color=INK, markersize=9, markeredgewidth=1.8)
    for row, some in zip(rows, share.tolist(), strict=True):
        ax.text(1.2, row, f"{some:.0%}", ha="right", va="center", size=8.5)
    ax.set_title(
        "share of the virtual places\n( | if all places got the same)", weight="normal", size=9.5
    )
    ax.set(xlim=(0, 1.22), xlabel="share of a token's attention")
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.tick_params(axis="y", labelleft=False, left=False)
    ax.grid(axis="y", visible=False)


def _places(n: int) -> str:
    return f"the {n} virtual places" if n > 1 else "the virtual place"


def _visible(token: str) -> str:
    """Return a token as it is shown: without the space before a word, with its line breaks."""
    shown = token.replace("\n", "\u23ce")
    return shown.strip(" ") or shown.replace(" ", "\u2423")


def _shorten(text: str) -> str:
    return textwrap.shorten(text, 70, placeholder=" …")
