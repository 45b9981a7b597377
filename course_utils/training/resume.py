"""Where a run's checkpoints are: taken up by the same run only, and written by it."""

import os
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from course_utils.training.checkpoints import load_checkpoint, save_checkpoint
from course_utils.training.config import TrainingDivergedError
from course_utils.training.identity import (
    BASE,
    WEIGHTS,
    Facts,
    Identity,
    base_fingerprint,
    check_same_run,
    digest,
    identity_of,
    is_identity,
)
from course_utils.training.state import damage_of_keys, damage_of_weights

# Of a model in this process and a run's folder: the base that it started from, and what was left.
_starts: WeakKeyDictionary[nn.Module, dict[str, tuple[str, str]]] = WeakKeyDictionary()


class RunFolder:
    """The checkpoints of one run.

    Args:
        folder: Where they are; None writes none.
        model: Model, or actor, that is trained.
        config: Configuration of the run, a dataclass.
        besides: Its fields that may change from one part of the run to the next.
        facts: What else makes the run what it is, by its name in a refusal.
    """

    def __init__(
        self,
        folder: str | Path | None,
        model: nn.Module,
        config: object,
        besides: Collection[str],
        facts: Mapping[str, Facts],
    ) -> None:
        self.path = None if folder is None else Path(folder)
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._model = model
        self._told = config, besides, facts

    @cached_property
    def _identity(self) -> Identity:
        """What the run is, at its start: to be asked before anything changes."""
        config, besides, facts = self._told
        return {**identity_of(self._model, config, besides), **facts}

    @property
    def run(self) -> str:
        """The run's identity in a few characters."""
        return digest(self._identity)

    def resume(self, damage_of: Callable[[int, dict], str | None]) -> dict[str, Any] | None:
        """Put the newest whole checkpoint's weights back and return it, or None if there is none.

        Args:
            damage_of: ``(step, state) -> what is wrong with the rest of it, or None``.

        Raises:
            ValueError: If the folder holds another run; the model is then as it was.
            CheckpointError: If every checkpoint is damaged.
        """
        if self.path is None:
            return None
        base, now = self._identity[BASE], self._identity[BASE][WEIGHTS]
        base[WEIGHTS] = self._known_start(now)

        def damage(step: int, state: dict) -> str | None:
            identity = state.get("identity")
            if not is_identity(identity):
                return "it does not say which run it is of"
            check_same_run(self.path, identity, self._identity)
            found = damage_of_keys(state, {"step": int, "weights": list})
            if found is None and state["step"] != step:
                found = f"its step is {state['step']}"
            return (
                found or damage_of_weights(state["weights"], self.trained) or damage_of(step, state)
            )

        state = load_checkpoint(self.path, damage)
        if state is None:
            base[WEIGHTS] = now
            return None
        with torch.no_grad():
            for parameter, saved in zip(self.trained.values(), state["weights"], strict=True):
                parameter.copy_(saved)
        return state

    def check_finite(self, step: int) -> None:
        """Check what trains.

        Raises:
            TrainingDivergedError: If a weight is not finite.
        """
        for name, parameter in self.trained.items():
            if not parameter.isfinite().all():
                raise TrainingDivergedError(
                    f"{name} is not finite after step {step}: lower the learning rate"
                )

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint, if the run writes any.

        Raises:
            TrainingDivergedError: If a weight is not finite.
            CheckpointError: If it cannot be written.
        """
        if self.path is None:
            return
        self.check_finite(step)
        weights = [parameter.detach() for parameter in self.trained.values()]
        own = {"step": step, "identity": self._identity, "weights": weights}
        save_checkpoint(self.path, step, {**own, **state})

    def leave(self) -> None:
        """Note what the model is left as.

        Full fine-tuning moves the base. Interrupted and started again in one process, with the
        model as it was left, a run is still the one that it was.
        """
        if self.path is not None:
            starts = _starts.setdefault(self._model, {})
            start = self._identity[BASE][WEIGHTS]
            starts[os.path.realpath(self.path)] = (start, base_fingerprint(self._model))

    def _known_start(self, now: str) -> str:
        """Return what a model started from if this process left it as it is now."""
        starts = _starts.get(self._model, {})
        start, left = starts.get(os.path.realpath(self.path), (now, now))
        return start if left == now else now
