"""The loop itself: batches, one optimizer step after another, checkpoints, and a clean end."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from course_utils.data import (
    Batch,
    Example,
    batch_order,
    count_targets,
    lengths_of,
    pack_examples,
    pad_examples,
    pad_packed,
)
from course_utils.measure import PeakMemory
from course_utils.training.checkpoints import resume_checkpoint, run_identity, save_checkpoint
from course_utils.training.config import (
    PRECISIONS,
    RunResult,
    TrainingConfig,
    TrainingDivergedError,
)
from course_utils.training.schedule import cosine_factor, fused_adamw

if TYPE_CHECKING:
    from accelerate import Accelerator

_PLACES = ("checkpoint_dir", "checkpoint_every_steps", "metrics_file", "show_progress")
LossFunction = Callable[[nn.Module, Batch], Tensor]
OptimizerFactory = Callable[[nn.Module], Sequence[torch.optim.Optimizer]]


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
        TrainingDivergedError: If the loss is not finite; the model keeps its last weights.
        CheckpointError: If a checkpoint cannot be written or read.
    """
    make_optimizers = make_optimizers or (lambda model: [fused_adamw(model, config)])
    run = _Run(model, examples, config, loss_function or _model_loss, make_optimizers)
    return run.go(on_step)


def _model_loss(model: nn.Module, batch: Batch) -> Tensor:
    return model(**batch, use_cache=False).loss if "position_ids" in batch else model(**batch).loss


class _Run:
    """One training run: its model, optimizer and place in the data."""

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        config: TrainingConfig,
        loss_function: LossFunction,
        make_optimizers: OptimizerFactory,
    ) -> None:
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
        bar = tqdm(
            total=config.max_steps,
            initial=first,
            leave=False,
            unit="step",
            disable=not config.show_progress,
        )
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
            losses=self.history["loss"],
            learning_rates=self.history["rate"],
            gradient_norms=self.history["norm"],
            tokens=self.tokens,
            seconds=self.seconds,
            tokens_per_second=self.tokens / max(self.seconds, 1e-9),
            peak_bytes=self.peak_bytes,
        )

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
            with Path(self.config.metrics_file).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the loss is {loss} at step {step + 1} (learning rate {rate:.1e}): lower "
                f"learning_rate={self.config.learning_rate:g}, or look for examples without targets"
            )

    def _save(self, step: int) -> None:
        config = self.config
        if not config.checkpoint_dir or (
            step % config.checkpoint_every_steps and step != config.max_steps
        ):
            return
        save_checkpoint(
            Path(config.checkpoint_dir),
            step,
            {
                "step": step,
                "weights": [p.detach() for p in self.trainable],
                "tokens": self.tokens,
                "seconds": self.seconds,
                "optimizers": [o.state_dict() for o in self.optimizers],
                "history": self.history,
                "rng": torch.get_rng_state(),
                "config": run_identity(config, _PLACES),
            },
        )

    def _resume(self) -> int:
        """Take up the newest whole checkpoint and return the number of steps done."""
        state, folder = None, self.config.checkpoint_dir
        if folder:
            identity = run_identity(self.config, _PLACES)
            state = resume_checkpoint(Path(folder), identity, self.trainable)
        if self.config.metrics_file:
            _rewind(Path(self.config.metrics_file), state["step"] if state else 0)
        if state is None:
            return 0
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        torch.set_rng_state(state["rng"])
        self.history, self.tokens, self.seconds = (
            state["history"],
            state["tokens"],
            state["seconds"],
        )
        return state["step"]


def _rewind(metrics_file: Path, step: int) -> None:
    """Drop the metrics of steps that will be taken again."""
    if metrics_file.is_file():
        lines = metrics_file.read_text(encoding="utf-8").splitlines()[:step]
        metrics_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _accelerator(config: TrainingConfig, device: torch.device) -> "Accelerator":
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    # Accelerate keeps the precision of its first use for the whole process; a notebook trains with
    # several, one run at a time, and each run asks anew.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=PRECISIONS[config.precision], cpu=device.type == "cpu")
