"""How to train, what a run did, and how it can end badly."""

from dataclasses import dataclass, field
from pathlib import Path

PRECISIONS = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}


class TrainingDivergedError(FloatingPointError):
    """The loss is no longer a finite number."""


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
        for name in ("max_steps", "batch_size", "accumulation_steps", "checkpoint_every_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"accumulation_steps={self.accumulation_steps} must divide "
                f"batch_size={self.batch_size}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be greater than 0")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio={self.warmup_ratio} must be in 0..1")
        if self.precision not in PRECISIONS:
            names = ", ".join(PRECISIONS)
            raise ValueError(f"precision={self.precision!r} must be one of {names}")


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
