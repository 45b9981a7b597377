"""One plain training loop on accelerate: every method of the course, and the pretraining, runs on it."""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from course_utils.checkpoints import load_checkpoint, save_checkpoint
from course_utils.data import (
    Batch,
    Example,
    count_targets,
    lengths_of,
    pack_examples,
    pad_examples,
    pad_packed,
)
from course_utils.measure import PeakMemory

if TYPE_CHECKING:
    from accelerate import Accelerator

LossFunction = Callable[[nn.Module, Batch], Tensor]
OptimizerFactory = Callable[[nn.Module], Sequence[torch.optim.Optimizer]]
_PRECISIONS = {"float32": "no", "float16": "fp16", "bfloat16": "bf16"}
_BUCKET_BATCHES = 16


class TrainingDiverged(FloatingPointError):
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
                f"accumulation_steps={self.accumulation_steps} must divide batch_size={self.batch_size}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be greater than 0")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio={self.warmup_ratio} must be in 0..1")
        if self.precision not in _PRECISIONS:
            names = ", ".join(_PRECISIONS)
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


def train(
    model: nn.Module,
    examples: Sequence[Example],
    config: TrainingConfig,
    *,
    loss_function: LossFunction | None = None,
    make_optimizers: OptimizerFactory | None = None,
    on_step: Callable[[int, nn.Module], None] | None = None,
) -> RunResult:
    """Train the parameters of ``model`` that require gradients.

    Args:
        model: Model whose forward takes a batch and returns ``.loss``, unless ``loss_function`` is
            given. It is left in evaluation mode.
        examples: Encoded examples (``course_utils.data.encode_*``).
        config: How to train.
        loss_function: ``(model, batch) -> loss``, a mean over the batch's targets.
        make_optimizers: ``model -> optimizers`` of the trained parameters, each group at its peak
            rate; one fused AdamW at ``config.learning_rate`` by default.
        on_step: Called after every optimizer step with the number of steps done and the model.

    Returns:
        Losses, time, tokens and peak memory.

    Raises:
        ValueError: If there is nothing to train or nothing to train on.
        TrainingDiverged: If the loss is not finite; the model keeps its last weights.
        CheckpointError: If a checkpoint cannot be written or read.
    """
    make_optimizers = make_optimizers or (lambda model: [fused_adamw(model, config)])
    run = _Run(model, examples, config, loss_function or _model_loss, make_optimizers)
    return run.go(on_step)


def cosine_factor(step: int, config: TrainingConfig) -> float:
    """Return a step's learning rate as a share of its peak: linear warm-up, then half a cosine."""
    warmup = round(config.warmup_ratio * config.max_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, config.max_steps - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.final_ratio + (1 - config.final_ratio) * cosine


def fused_adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW (arXiv:1711.05101) over what trains; norms and biases do not decay."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True)


def batch_order(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices without end, each epoch in a new order.

    Examples of similar length are put together (shuffled, sorted within a window of sixteen
    batches, the batches shuffled again), so that little of a batch is padding. The order is a
    function of the seed alone, which is what lets a killed run resume exactly.
    """
    epoch = 0
    while True:
        rng = random.Random(f"{seed}-{epoch}")
        order = list(range(len(lengths)))
        rng.shuffle(order)
        window = batch_size * _BUCKET_BATCHES
        batches = []
        for start in range(0, len(order), window):
            chunk = sorted(order[start : start + window], key=lambda i: lengths[i])
            batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
        rng.shuffle(batches)
        yield from batches
        epoch += 1


def _model_loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(**batch, use_cache=False).loss if "position_ids" in batch else model(**batch).loss


class _Run:
    """One training run: its model, optimizer and place in the data."""

    def __init__(
        self, model: nn.Module, examples: Sequence[Example], config: TrainingConfig,
        loss_function: LossFunction, make_optimizers: OptimizerFactory,
    ) -> None:  # fmt: skip
        self.config = config
        self.loss_function = loss_function
        if not len(examples):
            raise ValueError("there are no examples to train on")
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError("no parameter requires a gradient: apply a method before training")
        self.pad_token_id = getattr(model.config, "pad_token_id", None) or 0
        if config.packing_length_tokens:
            self.rows: Sequence = pack_examples(examples, config.packing_length_tokens)
            self.lengths = [config.packing_length_tokens] * len(self.rows)
            self.collate = pad_packed
        else:
            self.rows, self.lengths = examples, lengths_of(examples)
            self.collate = pad_examples
        torch.manual_seed(config.seed)
        self.accelerator = _accelerator(config, next(model.parameters()).device)
        self.model, *self.optimizers = self.accelerator.prepare(model, *make_optimizers(model))
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        self.peak_rates = [group["lr"] for group in self.groups]
        self.trainable = trainable
        self.history: dict[str, list[float]] = {"loss": [], "rate": [], "norm": []}
        self.tokens, self.seconds = 0, 0.0
        self.peak_bytes = 0

    def go(self, on_step: Callable[[int, nn.Module], None] | None) -> RunResult:
        """Run from the last checkpoint, or from the start, to the end."""
        from tqdm.auto import tqdm

        config = self.config
        first = self._resume()
        order = batch_order(self.lengths, config.batch_size, config.seed)
        self.model.train()
        bar = tqdm(total=config.max_steps, initial=first, leave=False, unit="step",
                   disable=not config.show_progress)  # fmt: skip
        try:
            with bar:
                for step in range(config.max_steps):
                    indices = next(order)
                    if step < first:
                        continue
                    start = time.perf_counter()
                    rows = [self.rows[i] for i in indices]
                    if step == min(first + 1, config.max_steps - 1):
                        self._measured_step(step, rows)
                    else:
                        self._step(step, rows)
                    self.seconds += time.perf_counter() - start
                    bar.update()
                    bar.set_postfix_str(f"loss {self.history['loss'][-1]:.3f}", refresh=False)
                    if on_step:
                        on_step(step + 1, self.accelerator.unwrap_model(self.model))
                        self.model.train()
                    self._save(step + 1)
        finally:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False).eval()
        return RunResult(
            losses=self.history["loss"], learning_rates=self.history["rate"],
            gradient_norms=self.history["norm"], tokens=self.tokens, seconds=self.seconds,
            tokens_per_second=self.tokens / max(self.seconds, 1e-9),
            peak_bytes=self.peak_bytes,
        )  # fmt: skip

    def _step(self, step: int, rows: list[Mapping]) -> None:
        """Take one optimizer step; micro-batches weigh as many targets as they hold."""
        config = self.config
        factor = cosine_factor(step, config)
        for group, peak in zip(self.groups, self.peak_rates, strict=True):
            group["lr"] = factor * peak
        size = max(1, math.ceil(len(rows) / config.accumulation_steps))
        micro = [self._batch(rows[i : i + size]) for i in range(0, len(rows), size)]
        targets = [count_targets(batch) for batch in micro]
        loss = 0.0
        for batch, count in zip(micro, targets, strict=True):
            part = self.loss_function(self.model, batch) * (count / sum(targets))
            self.accelerator.backward(part)
            loss += part.item()
        norm = float(self.accelerator.clip_grad_norm_(self.trainable, config.max_grad_norm))
        self.tokens += sum(len(row["input_ids"]) for row in rows)
        self._record(step, loss, factor * max(self.peak_rates), norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def _measured_step(self, step: int, rows: list[Mapping]) -> None:
        """Take a step and note its peak: the second one, since the first makes Adam's states."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        held = [leaf for leaf in tree_leaves(states) if isinstance(leaf, Tensor)]
        held += self.model.parameters()
        with PeakMemory(held, device=self.accelerator.device) as peak:
            self._step(step, rows)
        self.peak_bytes = peak.n_bytes

    def _batch(self, rows: Sequence[Mapping]) -> Batch:
        batch = self.collate(rows, self.pad_token_id)
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def _record(self, step: int, loss: float, rate: float, norm: float) -> None:
        values = {"loss": loss, "rate": rate, "norm": norm}
        for name, value in values.items():
            self.history[name].append(value)
        if self.config.metrics_file:
            line = {"step": step + 1, **values, "tokens": self.tokens}
            with self.config.metrics_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the loss is {loss} at step {step + 1} (learning rate {rate:.1e}): lower "
                f"learning_rate={self.config.learning_rate:g}, or look for examples without targets"
            )

    def _save(self, step: int) -> None:
        config = self.config
        if not config.checkpoint_dir or (step % config.checkpoint_every_steps and step != config.max_steps):
            return
        save_checkpoint(Path(config.checkpoint_dir), step, {
            "step": step, "weights": [p.detach() for p in self.trainable],
            "tokens": self.tokens, "seconds": self.seconds,
            "optimizers": [o.state_dict() for o in self.optimizers], "history": self.history,
            "rng": torch.get_rng_state(), "config": _identity(config),
        })  # fmt: skip

    def _resume(self) -> int:
        """Take up the newest whole checkpoint and return the number of steps done."""
        if not self.config.checkpoint_dir:
            return 0
        state = load_checkpoint(Path(self.config.checkpoint_dir))
        if state is None:
            return 0
        if state["config"] != _identity(self.config):
            raise ValueError(
                f"{self.config.checkpoint_dir} holds a run with another configuration: "
                "choose another checkpoint_dir or delete it"
            )
        with torch.no_grad():
            for parameter, saved in zip(self.trainable, state["weights"], strict=True):
                parameter.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        torch.set_rng_state(state["rng"])
        self.history, self.tokens, self.seconds = (
            state["history"], state["tokens"], state["seconds"],
        )  # fmt: skip
        return state["step"]


def _identity(config: TrainingConfig) -> str:
    """Return what must be equal for a run to be resumed."""
    places = ("checkpoint_dir", "checkpoint_every_steps", "metrics_file", "show_progress")
    return json.dumps({k: v for k, v in asdict(config).items() if k not in places}, sort_keys=True)


def _accelerator(config: TrainingConfig, device: torch.device) -> "Accelerator":
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Accelerate keeps the precision of its first use for the whole process; a notebook trains with
    # several, one run at a time, and each run asks anew.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=_PRECISIONS[config.precision], cpu=device.type == "cpu")
