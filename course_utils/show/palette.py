"""One colour and one marker for each method, one colour for each part of memory.

Colours are plain hexadecimal strings, so that figures, tables and widgets share them. The twelve
main methods were placed in CIELAB by a search that keeps every pair apart for normal sight and
under simulated deuteranopia and protanopia (Machado et al., 2009), at a contrast of at least 3:1
on white; where hues are close, the markers differ. Relatives share a hue.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

INK = "#1A1A1A"
MUTED = "#6B6B6B"
GRID = "#E3E3E3"
ACCENT = "#0072B2"


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn: hexadecimal colour, matplotlib marker, name for the reader."""

    colour: str
    marker: str
    label: str


_METHODS = {
    "base": MethodStyle("#808080", "_", "base model"),
    "random_init": MethodStyle("#8F8F8F", "x", "random init"),
    "full": MethodStyle("#111111", "s", "full"),
    "last_layers": MethodStyle("#B09219", "^", "last layers"),
    "head": MethodStyle("#67461A", "v", "head only"),
    "norms": MethodStyle("#557500", "D", "norms"),
    "biases": MethodStyle("#557500", "d", "biases"),
    "lora": MethodStyle("#0072B2", "o", "LoRA"),
    "qlora": MethodStyle("#007E8F", "P", "QLoRA"),
    "dora": MethodStyle("#E86250", "p", "DoRA"),
    "qdora": MethodStyle("#E86250", "X", "QDoRA"),
    "rslora": MethodStyle("#08306B", "D", "rsLoRA"),
    "dylora": MethodStyle("#B09219", "d", "DyLoRA"),
    "qdylora": MethodStyle("#B09219", "8", "QDyLoRA"),
    "pissa": MethodStyle("#08306B", "s", "PiSSA"),
    "vera": MethodStyle("#5295D0", "v", "VeRA"),
    "ia3": MethodStyle("#557500", "*", "IA3"),
    "nola": MethodStyle("#5295D0", "H", "NOLA"),
    "lora_xs": MethodStyle("#007E8F", "d", "LoRA-XS"),
    "tiny_lora": MethodStyle("#B09219", "P", "TinyLoRA"),
    "bottleneck": MethodStyle("#0B664A", "h", "bottleneck"),
    "prompt": MethodStyle("#BF7CB6", "<", "prompt"),
    "prefix": MethodStyle("#661249", ">", "prefix"),
    "p_tuning": MethodStyle("#9B63EB", "*", "P-tuning"),
    "p_tuning_v2": MethodStyle("#661249", "1", "P-tuning v2"),
    "ppo": MethodStyle("#E86250", "o", "PPO, ours"),
    "trl_ppo": MethodStyle("#111111", "X", "PPO, TRL"),
    "ppo_like_trl": MethodStyle("#661249", "<", "ours, TRL's way"),
    "reinforce": MethodStyle("#B09219", "v", "REINFORCE"),
    "rloo": MethodStyle("#0072B2", "s", "RLOO"),
    "grpo": MethodStyle("#0B664A", "^", "GRPO"),
    "dr_grpo": MethodStyle("#557500", "p", "Dr. GRPO"),
    "dapo": MethodStyle("#BF7CB6", "h", "DAPO"),
    "dpo": MethodStyle("#9B63EB", "D", "DPO"),
    "best_of_n": MethodStyle("#67461A", "P", "best of n"),
}

_LORA_SHADES = ("#5295D0", "#0072B2", "#08306B")

# Paul Tol's "light" scheme (personal.sron.nl/~pault), made for filled cells under dark text.
_FILLS = ("#77AADD", "#EE8866", "#EEDD88", "#FFAABB", "#99DDFF", "#44BB99", "#BBCC33", "#AAAA00")
_PARTS = {
    "weights": _FILLS[0],
    "gradients": _FILLS[1],
    "master weights": _FILLS[4],
    "optimizer": _FILLS[2],
    "activations": _FILLS[5],
    "logits": _FILLS[3],
}
_RAMP = ("#FFFFFF", "#C6DBEF", "#6BAED6", "#2171B5")


def method_names() -> tuple[str, ...]:
    """Return the methods that have a colour; ``lora_r4`` and its like belong to ``lora``."""
    return tuple(_METHODS)


def method_style(name: str) -> MethodStyle:
    """Return the colour, marker and label of a method, the same in every chapter.

    Args:
        name: One of :func:`method_names`, or ``lora_r<rank>``, ``dora_r<rank>`` and
            ``rslora_r<rank>``: LoRA's blue is darker with the rank (light at 1, dark from 16 on).

    Raises:
        ValueError: If the method is unknown.
    """
    key = re.sub(r"[\s\-=]+", "_", name.strip().lower())
    if key in _METHODS:
        return _METHODS[key]
    ranked = re.fullmatch(r"(lora|dora|rslora)_r_?(\d+)", key)
    if ranked and int(ranked[2]) >= 1:
        return _ranked(ranked[1], int(ranked[2]))
    raise ValueError(
        f"no colour for method {name!r}: known are {', '.join(_METHODS)}, and lora_r<rank>, "
        "dora_r<rank> and rslora_r<rank>"
    )


def is_method(name: str) -> bool:
    """Return whether a name has a method's colour."""
    try:
        method_style(name)
    except ValueError:
        return False
    return True


def _ranked(kind: str, rank: int) -> MethodStyle:
    """Return a style with the rank in its label; for LoRA the shade grows with it."""
    style = _METHODS[kind]
    colour = blend(_LORA_SHADES, min(math.log2(rank) / 4, 1.0)) if kind == "lora" else style.colour
    return MethodStyle(colour, style.marker, f"{style.label} r={rank}")


def part_colours(parts: Sequence[str]) -> dict[str, str]:
    """Return a fill colour for each part of memory; unknown parts take the colours left over."""
    spare = [fill for fill in _FILLS if fill not in {_PARTS.get(part) for part in parts}]
    colours = {}
    for part in parts:
        colours[part] = _PARTS[part] if part in _PARTS else spare.pop(0) if spare else GRID
    return colours


def blend(stops: Sequence[str], position: float) -> str:
    """Return the colour at ``position`` in 0..1 along evenly spaced colour stops."""
    scaled = min(max(position, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(scaled), len(stops) - 2)
    low, high = _rgb(stops[index]), _rgb(stops[index + 1])
    mixed = (round(a + (b - a) * (scaled - index)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{channel:02X}" for channel in mixed)


def heat_colour(position: float) -> str:
    """Return the background for a value in 0..1: white at 0, deep blue at 1."""
    return blend(_RAMP, position)


def text_colour_on(background: str) -> str:
    """Return black or white, whichever has the higher contrast on ``background``.

    One of the two always reaches 4.5:1, the least that WCAG 2.1 asks of text (criterion 1.4.3);
    the softer ``INK`` does not.
    """
    luminance = relative_luminance(background)
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#FFFFFF"


def relative_luminance(colour: str) -> float:
    """Return the luminance of an sRGB colour in 0..1 (WCAG 2.1, relative luminance)."""
    linear = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _rgb(colour))
    )
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
