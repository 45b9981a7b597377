"""How to train, what a run did, and how it can end badly."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from course_utils.validation import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    check_path,
    keep_plain,
    shown,
)

# Beyond that no model reads, and a search for room in such rows does not end.
_LONGEST_ROW_TOKENS = 2**20
PRECISIONS = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}


class TrainingDivergedError(FloatingPointError):
    """A loss, a gradient or a weight is no longer a finite number."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Args:
        max_steps: Optimizer steps.
        learning_rate: Peak learning rate.
        batch_size: Examples (or packed rows) an optimizer step.
        accumulation_steps: Micro-batches that ``batch_size`` is split into.
        warmup_ratio: Share of the steps over which the rate rises to its peak.
        final_ratio: Rate at the end of the cosine, as a share of the peak.
        weight_decay: AdamW's decoupled weight decay, on matrices only.
        betas: AdamW's decay rates of the two moments.
        max_grad_norm: Gradients are scaled down to this norm.
        precision: Compute type: ``float32``, ``bfloat16`` or ``float16``.
        packing_length_tokens: Pack examples into rows of this length; None pads each batch.
        seed: Seed of the order of the examples and of dropout.
        checkpoint_dir: Folder of checkpoints; an existing one is resumed from. None writes none.
        checkpoint_every_steps: Steps from one checkpoint to the next.
        metrics_file: JSONL file: a line a step. None writes none.
        show_progress: Whether to draw a progress bar.
    """

    max_steps: int
    learning_rate: float
    batch_size: int = 16
    accumulation_steps: int = 1
    warmup_ratio: float = 0.1
    final_ratio: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = 1.0
    precision: str = "float32"
    packing_length_tokens: int | None = None
    seed: int = 0
    checkpoint_dir: Path | None = None
    checkpoint_every_steps: int = 500
    metrics_file: Path | None = None
    show_progress: bool = True

    def __post_init__(self) -> None:
        """Validate.

        Raises:
            ValueError: If a value is out of its range.
        """
        keep_plain(self)
        for name in ("max_steps", "batch_size", "accumulation_steps", "checkpoint_every_steps"):
            check_count(name, getattr(self, name))
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps={self.accumulation_steps} must divide "
                f"batch_size={self.batch_size}"
            )
        for name in ("learning_rate", "max_grad_norm"):
            check_number(name, getattr(self, name), above=0)
        for name in ("warmup_ratio", "final_ratio"):
            check_number(name, getattr(self, name), at_least=0, at_most=1)
        check_number("weight_decay", self.weight_decay, at_least=0)
        if not isinstance(self.betas, list | tuple) or len(self.betas) != 2:
            raise ValueError(f"betas={shown(self.betas)} must be two numbers")
        for beta in self.betas:
            check_number("each of betas", beta, at_least=0, below=1)
        check_choice("precision", self.precision, PRECISIONS)
        check_count(
            "packing_length_tokens",
            self.packing_length_tokens,
            at_most=_LONGEST_ROW_TOKENS,
            is_none_ok=True,
        )
        check_count("seed", self.seed, at_least=0)
        check_flag("show_progress", self.show_progress)
        for name in ("checkpoint_dir", "metrics_file"):
            check_path(name, place := getattr(self, name))
            if place is not None and (not os.fspath(place) or "\0" in str(place)):
                raise ValueError(f"{name}={shown(place)} must be a path, or None")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run did.

    Args:
        losses: Loss of every step.
        learning_rates: Rate of every step; with several optimizers, the highest.
        gradient_norms: Norm before clipping, of every step.
        tokens: Tokens seen, padding not counted.
        seconds: Time of all steps; a run that was resumed carries on counting.
        tokens_per_second: Tokens over seconds.
        peak_bytes: Most bytes held at once during the second step: on CUDA the allocator's peak,
            on the CPU that of the tensors alive.
    """

    losses: list[float] = field(repr=False)
    learning_rates: list[float] = field(repr=False)
    gradient_norms: list[float] = field(repr=False)
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_bytes: int
