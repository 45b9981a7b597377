"""The loop itself: batches, one optimizer step after another, checkpoints, and a clean end."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from course_utils.files import only_writer
from course_utils.measure import PeakMemory
from course_utils.models.lean import lean
from course_utils.models.structure import check_packing
from course_utils.training.config import (
    PRECISIONS,
    RunResult,
    TrainingConfig,
    TrainingDivergedError,
)
from course_utils.training.examples import ExamplesCheck, ModelLimits
from course_utils.training.identity import facts_of_optimizers
from course_utils.training.metrics import MetricsFile
from course_utils.training.model_loss import model_loss
from course_utils.training.resume import RunFolder
from course_utils.training.schedule import cosine_factor, fused_adamw
from course_utils.training.state import (
    damage_of_generator,
    damage_of_keys,
    damage_of_numbers,
    damage_of_optimizer,
    damage_of_scaler,
    is_finite_number,
)

if TYPE_CHECKING:
    from accelerate import Accelerator

_MEASURED = ("loss", "rate", "norm", "tokens")
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
            given. It is left in evaluation mode, without gradients.
        examples: Encoded examples (``course_utils.data.encode_*``).
        config: How to train.
        loss_function: ``(model, batch) -> loss``, a mean over the batch's targets.
        make_optimizers: ``model -> optimizers`` of the trained parameters, each group at its peak
            rate; one fused AdamW at ``config.learning_rate`` by default.
        on_step: Called after every optimizer step with the number of steps done and the model.

    Returns:
        Losses, time, tokens and peak memory.

    Raises:
        ValueError: If there is nothing to train, the model cannot learn from an example, the
            processor does not compute in that precision, or the folder or the metrics file holds
            another run.
        TrainingDivergedError: If loss or gradient is not finite, and the model keeps its last
            weights, or if these are not.
        CheckpointError: If a checkpoint cannot be written or read.
        OSError: If a folder or the metrics file cannot be used; FileExistsError if another process
            trains in the folder.
    """
    make_optimizers = make_optimizers or (lambda model: [fused_adamw(model, config)])
    run = _Run(model, examples, config, loss_function, make_optimizers)
    folder = config.checkpoint_dir
    with only_writer(Path(folder), "training") if folder else nullcontext():
        return run.go(on_step)


class _Run:
    """One training run: its model, optimizer and place in the data."""

    def __init__(
        self,
        model: nn.Module,
        examples: Sequence[Example],
        config: TrainingConfig,
        loss_function: LossFunction | None,
        make_optimizers: OptimizerFactory,
    ) -> None:
        self.config, self.examples = config, examples
        self.loss_function = loss_function or model_loss
        self.trained = [p for p in model.parameters() if p.requires_grad]
        if not self.trained:
            raise ValueError("no parameter requires a gradient: apply a method before training")
        self.limits = ModelLimits.of(model, has_own_loss=loss_function is None)
        self.check = ExamplesCheck(
            limits=self.limits, is_packed=config.packing_length_tokens is not None
        )
        facts = self.check.facts_of(examples)
        self._lay_out(model)
        torch.manual_seed(config.seed)
        self.accelerator = _accelerator(config, next(model.parameters()).device)
        self.optimizers = make_optimizers(model)
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        self.peak_rates = [group["lr"] for group in self.groups]
        name = getattr(self.loss_function, "__qualname__", type(self.loss_function).__name__)
        self.folder = RunFolder(
            config.checkpoint_dir,
            model,
            config,
            _PLACES,
            {
                "examples": facts,
                "loss function": {"name": name},
                "optimizer": facts_of_optimizers(self.optimizers),
            },
        )
        self.bare = self.model = model
        self.history: dict[str, list[float]] = {name: [] for name in _MEASURED}
        self.seconds, self.peak_bytes = 0.0, 0
        self.metrics: MetricsFile | None = None

    def _lay_out(self, model: nn.Module) -> None:
        """Choose how examples become rows, and rows a batch."""
        length, limit = self.config.packing_length_tokens, self.limits.context_tokens
        if length is None:
            self.rows: Sequence = self.examples
            self.lengths, self.collate = lengths_of(self.examples), pad_examples
            return
        if limit is not None and length > limit:
            raise ValueError(
                f"packing_length_tokens={length} must be at most {limit}, the model's context"
            )
        check_packing(model)
        self.rows = pack_examples(self.examples, length)
        self.lengths, self.collate = [length] * len(self.rows), pad_packed

    def go(self, on_step: Callable[[int, nn.Module], None] | None) -> RunResult:
        """Run from the last checkpoint, or from the start, to the end."""
        first = None
        try:
            self.model = self.accelerator.prepare(self.bare)
            first = self._resume()
            self.model.train()
            self.model.zero_grad(set_to_none=True)
            with lean(self.bare):
                self._take_steps(first, on_step)
            self.folder.check_finite(self.config.max_steps)
        finally:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False).eval()
            self.bare.zero_grad(set_to_none=True)
            if first is not None:
                self.folder.leave()
        tokens = self.history["tokens"][-1]
        return RunResult(
            losses=self.history["loss"],
            learning_rates=self.history["rate"],
            gradient_norms=self.history["norm"],
            tokens=tokens,
            seconds=self.seconds,
            tokens_per_second=tokens / max(self.seconds, 1e-9),
            peak_bytes=self.peak_bytes,
        )

    def _take_steps(self, first: int, on_step: Callable[[int, nn.Module], None] | None) -> None:
        from tqdm.auto import tqdm

        config = self.config
        order = batch_order(self.lengths, config.batch_size, config.seed)
        bar = tqdm(
            total=config.max_steps,
            initial=first,
            leave=False,
            unit="step",
            disable=not config.show_progress,
        )
        with bar:
            for step in range(config.max_steps):
                indices = next(order)
                if step < first:
                    continue
                start = time.perf_counter()
                if step == min(first + 1, config.max_steps - 1):
                    self._measured_step(step, indices)
                else:
                    self._step(step, indices)
                self.seconds += time.perf_counter() - start
                bar.update()
                bar.set_postfix_str(f"loss {self.history['loss'][-1]:.3f}", refresh=False)
                if on_step:
                    on_step(step + 1, self.accelerator.unwrap_model(self.model))
                    self.model.train()
                    self.model.zero_grad(set_to_none=True)
                self._save(step + 1)

    def _step(self, step: int, indices: Sequence[int]) -> None:
        """Take one optimizer step; micro-batches weigh as many targets as they hold."""
        config, rows = self.config, self._rows(indices)
        factor = cosine_factor(step, config)
        for group, peak in zip(self.groups, self.peak_rates, strict=True):
            group["lr"] = factor * peak
        size = max(1, math.ceil(len(rows) / config.accumulation_steps))
        micro = [self._batch(rows[i : i + size]) for i in range(0, len(rows), size)]
        targets = [count_targets(batch, is_shifted=self.limits.is_shifted) for batch in micro]
        if not sum(targets):
            numbers = ", ".join(map(str, indices[:5]))
            raise ValueError(
                f"no token of step {step + 1}'s batch (examples {numbers}{' ...' * (size > 5)}) "
                "is a target: leave out examples whose labels are all -100"
            )
        loss = 0.0
        for batch, count in zip(micro, targets, strict=True):
            if count:
                part = self._loss(batch) * (count / sum(targets))
                self.accelerator.backward(part)
                loss += part.item()
        norm = self._clipped_norm()
        tokens = sum(len(row["input_ids"]) for row in rows)
        self._record(step, loss, factor * max(self.peak_rates), norm, tokens)
        self._advance()

    def _loss(self, batch: Batch) -> Tensor:
        if self.loss_function is not model_loss:
            return self.loss_function(self.model, batch)
        with self.accelerator.autocast():  # the loss calls parts of the model, one after another
            return model_loss(self.model, batch)

    def _measured_step(self, step: int, indices: Sequence[int]) -> None:
        """Take a step and note its peak: the second one, since the first makes Adam's states."""
        states = [optimizer.state_dict() for optimizer in self.optimizers]
        held = [leaf for leaf in tree_leaves(states) if isinstance(leaf, Tensor)]
        held += self.model.parameters()
        with PeakMemory(held, device=self.accelerator.device) as peak:
            self._step(step, indices)
        self.peak_bytes = peak.n_bytes

    def _rows(self, indices: Sequence[int]) -> list[Mapping]:
        """Return the rows of a batch, those of a large store after a look at them."""
        if not self.check.has_seen_all:
            groups = getattr(self.rows, "groups", None)
            for i in indices if groups is None else chain(*(groups[k] for k in indices)):
                self.check.look_at(i, self.examples[i])
        return [self.rows[i] for i in indices]

    def _batch(self, rows: Sequence[Mapping]) -> Batch:
        batch = self.collate(rows, self.limits.pad_token_id or 0)
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def _clipped_norm(self) -> float:
        """Return the gradient's norm, and cut it to the longest allowed."""
        if self.accelerator.scaler is not None:
            for optimizer in self.optimizers:
                self.accelerator.scaler.unscale_(optimizer)
        return float(nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm))

    def _record(self, step: int, loss: float, rate: float, norm: float, n_tokens: int) -> None:
        """Note what a step measured, before any weight changes.

        Raises:
            TrainingDivergedError: If loss or gradient is not finite.
        """
        before = self.history["tokens"][-1] if step else 0
        values = {"loss": loss, "rate": rate, "norm": norm, "tokens": before + n_tokens}
        for name, value in values.items():
            self.history[name].append(value)
        if self.metrics is not None:
            self.metrics.append(step + 1, values)
        scaler = self.accelerator.scaler
        # In 16 bits the loss is scaled up, at first too far: such a step is left out.
        is_too_far = scaler is not None and scaler.get_scale() > 1
        if not math.isfinite(loss) or not (math.isfinite(norm) or is_too_far):
            what = f"gradient's norm is {norm}" if math.isfinite(loss) else f"loss is {loss}"
            raise TrainingDivergedError(
                f"the {what} at step {step + 1} (learning rate {rate:.1e}): lower "
                f"learning_rate={self.config.learning_rate:g}, or look for examples without targets"
            )

    def _advance(self) -> None:
        """Let the optimizers follow the gradient."""
        scaler = self.accelerator.scaler
        for optimizer in self.optimizers:
            optimizer.step() if scaler is None else scaler.step(optimizer)
        if scaler is not None:
            scaler.update()
        self.model.zero_grad(set_to_none=True)

    def _save(self, step: int) -> None:
        config, scaler = self.config, self.accelerator.scaler
        if step % config.checkpoint_every_steps and step != config.max_steps:
            return
        device = self.accelerator.device
        is_cuda = device.type == "cuda"
        self.folder.save(
            step,
            {
                "seconds": self.seconds,
                "optimizers": [o.state_dict() for o in self.optimizers],
                "scaler": None if scaler is None else scaler.state_dict(),
                "history": self.history,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state(device) if is_cuda else None,
            },
        )

    def _resume(self) -> int:
        """Take up the newest whole checkpoint and return the number of steps done."""
        state = self.folder.resume(self._damage_of)
        if state is not None:
            self._put_back(state)
        if self.config.metrics_file is not None:
            self.metrics = MetricsFile(Path(self.config.metrics_file), self.folder.run)
            self.metrics.start(self.history)
        return 0 if state is None else state["step"]

    def _put_back(self, state: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.groups = [group for o in self.optimizers for group in o.param_groups]
        self.history, self.seconds = state["history"], state["seconds"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        device = self.accelerator.device
        if device.type == "cuda" and state.get("cuda_rng") is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], device)

    def _damage_of(self, step: int, state: Mapping[str, Any]) -> str | None:
        """Say what is wrong with a checkpoint's state, its weights apart, or return None."""
        scaler = self.accelerator.scaler
        kinds = {"seconds": float, "optimizers": list, "history": dict}
        kinds["scaler"] = type(None) if scaler is None else dict
        found = damage_of_keys(state, kinds)
        if found is None and step > self.config.max_steps:
            found = f"there is no step {step}"
        if found is None and len(state["optimizers"]) != len(self.optimizers):
            found = "there are other optimizers"
        if found is not None:
            return found
        checks = list(map(damage_of_optimizer, state["optimizers"], self.optimizers))
        checks += [
            damage_of_numbers(state["history"].get(name), step, is_finite=name != "norm")
            for name in _MEASURED
        ]
        checks.append(damage_of_generator(state.get("rng")))
        device, cuda_rng = self.accelerator.device, state.get("cuda_rng")
        if device.type == "cuda" and cuda_rng is not None:
            checks.append(damage_of_generator(cuda_rng, device))
        if not is_finite_number(state["seconds"]):
            checks.append("its time is not finite")
        if scaler is not None:
            checks.append(damage_of_scaler(state["scaler"], scaler))
        return next((damage for damage in checks if damage), None)


def _accelerator(config: TrainingConfig, device: torch.device) -> "Accelerator":
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if config.precision == "float16" and device.type == "cpu":
        raise ValueError(
            "precision='float16' must be 'float32' or 'bfloat16' on a processor, which does not "
            "train in float16"
        )
    # Accelerate keeps the precision of its first use for the whole process; a notebook trains with
    # several, one run at a time, and each run asks anew.
    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=PRECISIONS[config.precision], cpu=device.type == "cpu")
