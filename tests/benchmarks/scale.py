"""How a training step grows with batch, length, model and threads: speed, memory, arithmetic.

Run with `python -m tests.benchmarks.scale` (about five minutes on two quiet cores); it writes
data/results/scale.json and the figure data/results/scale.svg.
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from course_utils.files import write_text
from course_utils.measure import PeakMemory
from course_utils.models import load_base_model
from course_utils.models.lean import lean
from course_utils.paths import data_dir
from course_utils.training.model_loss import model_loss
from tests.benchmarks.__main__ import machine
from tests.benchmarks.adapters import SHAPE_135M

REPEATS = 3
SHAPES = {
    "4.7M": None,
    "14M": {"hidden_size": 320, "num_hidden_layers": 8, "num_attention_heads": 5, "vocab": 8192},
    "43M": {"hidden_size": 448, "num_hidden_layers": 14, "num_attention_heads": 7, "vocab": 16384},
    "135M": {},
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """One step that was measured.

    Args:
        axis: What is varied.
        model: Its size.
        batch_size: Texts.
        seq_len: Tokens a text.
        threads: Threads of the processor.
        tokens_per_second: Median of a few steps.
        peak_bytes: The most that a step held.
        flops: Of the matrix products of a step.
    """

    axis: str
    model: str
    batch_size: int
    seq_len: int
    threads: int
    tokens_per_second: float
    peak_bytes: int
    flops: int


def build(size: str) -> nn.Module:
    """Return a causal language model of about so many parameters."""
    shape = SHAPES[size]
    if shape is None:
        return load_base_model("embedded")
    torch.manual_seed(0)
    if not shape:
        return AutoModelForCausalLM.from_config(SHAPE_135M)
    config = LlamaConfig(
        hidden_size=shape["hidden_size"],
        intermediate_size=8 * shape["hidden_size"] // 3,
        num_hidden_layers=shape["num_hidden_layers"],
        num_attention_heads=shape["num_attention_heads"],
        vocab_size=shape["vocab"],
        tie_word_embeddings=True,
        use_cache=False,
    )
    return AutoModelForCausalLM.from_config(config)


def measure(axis: str, model: nn.Module, size: str, batch_size: int, seq_len: int) -> Point:
    """Measure full fine-tuning on random tokens, all of them targets."""
    torch.manual_seed(0)
    ids = torch.randint(1, 3000, (batch_size, seq_len))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-5, fused=True)

    def step() -> float:
        start = time.perf_counter()
        model_loss(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    with lean(model):
        with FlopCounterMode(display=False) as counter:
            step()
        states = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, Tensor)]
        with PeakMemory([*model.parameters(), *states]) as peak:
            step()
        seconds = statistics.median(step() for _ in range(REPEATS))
    return Point(
        axis=axis,
        model=size,
        batch_size=batch_size,
        seq_len=seq_len,
        threads=torch.get_num_threads(),
        tokens_per_second=ids.numel() / seconds,
        peak_bytes=peak.n_bytes,
        flops=counter.get_total_flops(),
    )


def points() -> Iterator[Point]:
    """Measure along each axis, the others held."""
    model, threads = build("4.7M"), torch.get_num_threads()
    for batch_size in (1, 4, 16, 64):
        yield measure("batch", model, "4.7M", batch_size, 64)
    for seq_len in (16, 64, 256, 512):
        yield measure("length", model, "4.7M", 1024 // seq_len, seq_len)
    for n in sorted({1, threads}):
        torch.set_num_threads(n)
        yield measure("threads", model, "4.7M", 16, 64)
    torch.set_num_threads(threads)
    for size in SHAPES:
        yield measure("model", build(size), size, 8, 64)


def draw(measured: list[Point]) -> None:
    """Draw speed, memory, and arithmetic a second over each axis."""
    import matplotlib.pyplot as plt

    labels = {
        "batch": lambda p: p.batch_size,
        "length": lambda p: p.seq_len,
        "threads": lambda p: p.threads,
        "model": lambda p: p.model,
    }
    rows = {
        "tokens a second": lambda p: p.tokens_per_second,
        "peak, MB": lambda p: p.peak_bytes / 1e6,
        "GFLOP a second": lambda p: (
            p.flops * p.tokens_per_second / (p.batch_size * p.seq_len) / 1e9
        ),
    }
    figure, grid = plt.subplots(len(rows), len(labels), figsize=(11, 7), layout="constrained")
    for column, (axis, label) in enumerate(labels.items()):
        some = [point for point in measured if point.axis == axis]
        for row, (name, value) in enumerate(rows.items()):
            place = grid[row][column]
            place.plot([str(label(p)) for p in some], [value(p) for p in some], marker="o")
            place.set_ylim(0, 1.1 * max(map(value, some)))
            place.spines[["top", "right"]].set_visible(False)
            if column == 0:
                place.set_ylabel(name)
            if row == len(rows) - 1:
                place.set_xlabel({"length": "tokens a text, of 1,024 a batch"}.get(axis, axis))
    figure.suptitle("A step of full fine-tuning on a processor")
    figure.savefig(data_dir() / "results" / "scale.svg", metadata={"Date": None})


def main() -> None:
    """Measure, print, write and draw."""
    measured = []
    for point in points():
        measured.append(point)
        sys.stdout.write(
            f"{point.axis:8} {point.model:5} {point.batch_size:3} x {point.seq_len:3}, "
            f"{point.threads} threads: {point.tokens_per_second:8,.0f} tokens/s, "
            f"{point.peak_bytes / 1e6:8,.1f} MB\n"
        )
        sys.stdout.flush()
    record = {"machine": machine(), "points": [asdict(point) for point in measured]}
    write_text(data_dir() / "results" / "scale.json", json.dumps(record, indent=1) + "\n")
    draw(measured)


if __name__ == "__main__":
    main()
