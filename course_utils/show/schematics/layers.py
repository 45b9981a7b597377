"""What trains inside a layer or a stack of layers: chapters 01 to 05."""

from dataclasses import replace
from itertools import pairwise

from course_utils.show.palette import INK, MUTED
from course_utils.show.schematics.canvas import (
    COMPUTED,
    DATA,
    FROZEN,
    PAPER,
    PASSING,
    TRAINED,
    Box,
    Canvas,
)

_KEY = ((TRAINED, "trained"), (FROZEN, "frozen"))
_N_BLOCKS = 6


def frozen() -> Canvas:
    """Draw which parts train: all, the last two layers, the norms, or the head alone."""
    c = Canvas(
        "Four ways to choose what trains",
        height=36.8,
        alt="Four copies of a model side by side: embedding, six blocks, final norm, head. In the "
        "first all parts train. In the second the last two blocks, the final norm and the head "
        "train; in the third the norms of all blocks, the final norm and the head; in the fourth "
        "the head alone.",
    )
    rows = [7.9 + 3.4 * k for k in range(_N_BLOCKS)]
    names = {4.4: "embedding", 27.5: "final norm", 30.1: "head"}
    for y, name in names.items() | {(y, f"block {k + 1}") for k, y in enumerate(rows)}:
        c.words(10.2, y, name, align="right")
    blocks = set(range(_N_BLOCKS))
    _stack(c, 18.5, rows, "full", "everything", blocks=blocks, norms=True, embedding=True)
    _stack(c, 33.5, rows, "last two layers", "and the head", blocks={4, 5}, final_norm=True)
    _stack(c, 48.5, rows, "norms", "and the head", norms=True)
    _stack(c, 63.5, rows, "head only", "")
    c.key(12.5, 1, *_KEY)
    c.words(34, 1, "thin bars: the two norms of a block", align="left")
    return c


def _stack(
    c: Canvas,
    x: float,
    rows: list[float],
    *header: str,
    blocks: frozenset[int] | set[int] = frozenset(),
    norms: bool = False,
    final_norm: bool = False,
    embedding: bool = False,
) -> None:
    """Draw a model, what trains in it filled."""
    bar = replace(TRAINED, edge=PAPER)
    c.words(x, 34, *header, bold=True)
    c.box(TRAINED if embedding else FROZEN, x, 4.4, 12, 2.2)
    for k, y in enumerate(rows):
        c.box(TRAINED if k in blocks else FROZEN, x, y, 12, 2.8)
        for up in (-0.75, 0.55):
            c.box(bar if norms or k in blocks else FROZEN, x, y + up, 10.4, 0.6)
    c.box(TRAINED if norms or final_norm else FROZEN, x, 27.5, 12, 0.7)
    c.box(TRAINED, x, 30.1, 12, 2.2)


def lora() -> Canvas:
    """Draw a frozen matrix, and two thin ones beside it."""
    c = Canvas(
        "LoRA adds two thin matrices beside a frozen one",
        height=43.5,
        alt="The input x goes two ways. One leads through the frozen matrix W, d_out x d_in. The "
        "other leads through the trained matrix A, r x d_in and drawn flat, then through the "
        "trained matrix B, d_out x r and drawn narrow, and is multiplied by alpha / r. Both ways "
        "are added to the output.",
    )
    x = c.box(DATA, 30, 4.5, 14, 2.6, "x:  d_in numbers")
    W = c.box(FROZEN, 16, 19.5, 15, 15, "W", "d_out × d_in", "frozen")
    A, scaled = _low_rank(c, 44, 10.5, size=15)
    c.words(52.5, A.y, "A", "r × d_in, random at first", align="left", bold=True)
    c.words(45.8, 21.5, "B", "d_out × r, zero at first", align="left", bold=True)
    total = c.node(30, 36.5, "+")
    y = c.box(DATA, 30, 41.5, 14, 2.6, "y:  d_out numbers")
    c.arrow(x.left, (W.x, x.y), W.bottom)
    c.arrow(x.right, (A.x, x.y), A.bottom)
    c.arrow(W.top, (W.x, total.y), total.left)
    c.arrow(scaled.top, (A.x, total.y), total.right)
    c.arrow(total.top, y.bottom)
    c.words(50, 39.5, "after training", "W + (α/r) B A is one matrix", align="left", bold=True)
    c.key(0.5, 1, *_KEY)
    return c


def _low_rank(c: Canvas, x: float, y: float, *, size: float) -> tuple[Box, Box]:
    """Draw A, flat, below B, narrow, and their scaling; return the first and the last."""
    A = c.box(TRAINED, x, y, size, 1.5)
    B = c.box(TRAINED, x, y + 3.5 + size / 2, 1.5, size)
    scaled = c.node(x, B.top[1] + 4, "α/r")
    c.arrow(A.top, B.bottom)
    c.arrow(B.top, scaled.bottom)
    return A, scaled


def qlora() -> Canvas:
    """Draw a matrix in four bits that is dequantised for its product, and LoRA beside it."""
    constants = (8 / 64 + 32 / (64 * 256)) / 8
    c = Canvas(
        "QLoRA keeps W in four bits and trains beside it",
        height=40.5,
        alt="The frozen matrix W is stored as 4-bit codes, 0.5 bytes a number, and block "
        f"constants, quantised themselves, {constants:.3f} bytes a number. Both are dequantised "
        "to a matrix in 16 bits, 2 bytes a number, that lives for its product with the input x "
        "only. LoRA's trained A and B, beside it, take 32 bits, 4 bytes a number. Both are added.",
    )
    codes = c.box(FROZEN, 9, 22.5, 17, 7, "W: 4-bit codes", "0.5 bytes a number", "frozen")
    each = f"{constants:.3f} bytes a number"
    scales = c.box(
        FROZEN, 9, 12.5, 17, 8.6, "block constants", "quantised themselves", each, "frozen"
    )
    W = c.box(PASSING, 35, 18, 13, 13, "W in 16 bits", "2 bytes a number", "this product only")
    x = c.box(DATA, 46, 4.5, 11, 2.6, "x:  16 bits")
    A, scaled = _low_rank(c, 57.5, 9.5, size=12)
    total = c.node(46, 33.5, "+")
    y = c.box(DATA, 46, 38.5, 11, 2.6, "output")
    c.line(codes.right, (19.5, codes.y), (19.5, W.y))
    c.line(scales.right, (19.5, scales.y), (19.5, W.y))
    c.arrow((19.5, W.y), W.left)
    c.words(24, W.y + 1.4, "dequantise")
    c.words(64.3, A.y, "A", "32 bits", align="left", bold=True)
    c.words(59.3, 20, "B", "32 bits", "4 bytes a number", align="left", bold=True)
    c.arrow(x.left, (W.x, x.y), W.bottom)
    c.arrow(x.right, (A.x, x.y), A.bottom)
    c.arrow(W.top, (W.x, total.y), total.left)
    c.arrow(scaled.top, (A.x, total.y), total.right)
    c.arrow(total.top, y.bottom)
    c.key(0.5, 1, *_KEY, (PASSING, "made anew at each step"))
    return c


def dora() -> Canvas:
    """Draw a matrix whose rows get a direction by LoRA and a length by themselves."""
    c = Canvas(
        "DoRA trains the direction and the length of every row apart",
        height=27.5,
        alt="The frozen matrix W and the trained product B A, times alpha / r, are added to V. "
        "Every row of V is divided by its norm, which the backward pass takes as a constant; all "
        "rows then have length 1. Every row is multiplied by its trained magnitude m, and the "
        "result, W', takes the place of W.",
    )
    at = 12.5
    W = c.box(FROZEN, 5.2, at, 9.8, 10, "W", "d_out × d_in", "frozen")
    c.words(11.8, at, "+")
    B = c.box(TRAINED, 14, at, 1.2, 10)
    A = c.box(TRAINED, 20.2, at, 9.4, 1.2)
    c.words(B.x, B.top[1] + 1.5, "B")
    c.words(A.x, A.top[1] + 1.5, "A")
    c.words(A.x, A.bottom[1] - 1.7, "times α/r")
    lengths = (0.55, 0.85, 0.4, 0.7, 0.95)
    V = _rows(c, 32.6, at, lengths)
    direction = _rows(c, 48.8, at, (0.65,) * 5)
    result = _rows(c, 65, at, (0.75, 0.6, 0.5, 0.9, 0.8))
    divided, scaled = c.node(40.7, at, "÷"), c.node(56.9, at, "×")
    norms = c.box(COMPUTED, 36.6, 23.5, 15, 5, "row norms of V", "detached: constant")
    m = c.box(TRAINED, 56.9, 23.5, 15, 5, "magnitude m", "d_out numbers")
    c.arrow((A.right[0] + 0.6, at), V.left)
    c.arrow(V.top, (V.x, norms.bottom[1]))
    for left, right in ((V, divided), (divided, direction), (direction, scaled), (scaled, result)):
        c.arrow(left.right, right.left)
    c.arrow((divided.x, norms.bottom[1]), divided.top)
    c.arrow(m.bottom, scaled.top)
    below = W.bottom[1] - 2.4
    c.words(V.x, below, "V = W + (α/r) B A", "rows of any length")
    c.words(direction.x, below, "direction", "rows of length 1")
    c.words(result.x, below, "W′, in place of W", "rows of length m")
    c.key(0.5, 1, *_KEY)
    return c


def _rows(c: Canvas, x: float, y: float, lengths: tuple[float, ...]) -> Box:
    """Draw a matrix as its rows, each an arrow of its length."""
    matrix = c.box(COMPUTED, x, y, 9.4, 10)
    for k, length in enumerate(lengths):
        left, height = matrix.at(-0.9, 0.8 - 0.4 * k)
        c.arrow((left, height), (left + 8.4 * length, height), colour=MUTED)
    return matrix


def bottleneck() -> Canvas:
    """Draw where adapters sit in a block, and what one is."""
    c = Canvas(
        "Adapters sit inside the residual branches of a block",
        height=44,
        alt="A block with Houlsby's two adapters: one behind attention and one behind the "
        "feed-forward part, each before its residual is added. A block with Pfeiffer's one "
        "adapter, behind the feed-forward part. One adapter: a layer down from d to m numbers, a "
        "nonlinearity, a layer up from m to d, and a skip that adds the input.",
    )
    _block(c, 13, "Houlsby", "two adapters a block", behind_attention=True)
    _block(c, 36, "Pfeiffer", "one adapter a block", behind_attention=False)
    x = 57
    c.words(x, 42, "one adapter", "2 d m + d + m numbers", bold=True)
    h = c.box(DATA, x, 5, 16, 2.4, "h:  d numbers")
    down = c.funnel(TRAINED, x, 11.5, 16, 7, 4.6, "down: d to m")
    middle = c.box(COMPUTED, x, 17.5, 11, 2.6, "nonlinearity")
    up = c.funnel(TRAINED, x, 23.5, 7, 16, 4.6, "up: m to d")
    total = c.node(x, 30, "+")
    c.words(x, 35, "at first up is zero,", "and h comes out as it went in")
    for below, above in ((h, down), (down, middle), (middle, up), (up, total)):
        c.arrow(below.top, above.bottom)
    c.arrow(total.top, (x, 33))
    c.arrow(h.right, (x + 10.4, h.y), (x + 10.4, total.y), total.right)
    c.words(x + 11, 17.5, "skip", align="left")
    c.key(0.5, 1, *_KEY)
    return c


def _block(c: Canvas, x: float, *header: str, behind_attention: bool) -> None:
    """Draw a block: two residual branches, the first with or without an adapter."""
    c.words(x, 42, *header, bold=True)
    entry = (x, 3.4)
    for low, name, has_adapter in (
        (3.4, "attention", behind_attention),
        (20.9, "feed-forward", True),
    ):
        parts = [c.box(FROZEN, x, low + 3.2, 13, 2.4, "norm")]
        parts.append(c.box(FROZEN, x, low + 7, 13, 2.4, name))
        if has_adapter:
            parts.append(c.box(TRAINED, x, low + 10.8, 13, 2.4, "adapter"))
        parts.append(c.node(x, low + 15, "+"))
        c.arrow(entry, parts[0].bottom)
        for below, above in pairwise(parts):
            c.arrow(below.top, above.bottom)
        c.arrow((x, low + 0.8), (x - 9, low + 0.8), (x - 9, low + 15), parts[-1].left)
        entry = parts[-1].top
    c.arrow(entry, (x, entry[1] + 2), colour=INK)
