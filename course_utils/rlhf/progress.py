"""Where a run of PPO or GRPO stands: optimizer, randomness, metrics; on disk and back."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import torch

from course_utils.files import only_writer
from course_utils.rlhf.actor import Actor
from course_utils.rlhf.config import GRPOConfig, PPOConfig
from course_utils.training.identity import Facts
from course_utils.training.resume import RunFolder
from course_utils.training.state import (
    damage_of_generator,
    damage_of_keys,
    damage_of_optimizer,
    is_finite_number,
)

_PLACES = ("checkpoint_dir", "checkpoint_every_updates", "show_progress")


class Progress:
    """All that changes in a run, but for the weights, which are the actor's.

    To be used in a ``with`` block: with a checkpoint in its folder, the run goes on from there. The
    folder is this process's alone until the block ends, and the actor is left without gradients.

    Args:
        actor: What is trained.
        config: Gives the start.
        facts: What else the run is made of, by names, as its prompts.

    Raises:
        ValueError: If the folder holds another run.
        CheckpointError: If every checkpoint in the folder is damaged.
        OSError: If the folder cannot be used, or another process trains in it.
    """

    def __init__(
        self, actor: Actor, config: PPOConfig | GRPOConfig, facts: Mapping[str, Facts]
    ) -> None:
        self.config = config
        self.optimizer = torch.optim.AdamW(
            actor.trainable_parameters(), lr=config.learning_rate, weight_decay=0.0, fused=True
        )
        self.generator = torch.Generator(actor.device).manual_seed(config.seed)
        self.kl_coef = config.kl_coef
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self._folder = RunFolder(config.checkpoint_dir, actor, config, _PLACES, facts)
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        with self._closing:
            if self._folder.path is not None:
                self._closing.enter_context(only_writer(self._folder.path, "training"))
            self._resume()
            self._closing.callback(self._folder.leave)
            self._closing.callback(self.optimizer.zero_grad)
            self._closing = self._closing.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    @property
    def updates_done(self) -> int:
        """Updates that are behind the run."""
        return len(self.history)

    def record(self, metrics: dict[str, float], seconds: float) -> None:
        """Note what an update measured, and how long it took."""
        metrics["lr"] = self.config.learning_rate
        metrics["episode"] = (self.updates_done + 1) * self.config.batch_size
        self.history.append(metrics)
        self.seconds += seconds

    def save(self) -> None:
        """Write a checkpoint if one is due.

        Raises:
            TrainingDivergedError: If a weight is not finite.
            CheckpointError: If it cannot be written.
        """
        config, done = self.config, self.updates_done
        if done % config.checkpoint_every_updates and done != config.n_updates:
            return
        self._folder.save(
            done,
            {
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "kl_coef": self.kl_coef,
                "history": self.history,
                "seconds": self.seconds,
            },
        )

    def _resume(self) -> None:
        state = self._folder.resume(self._damage_of)
        if state is None:
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.kl_coef, self.history = state["kl_coef"], state["history"]
        self.seconds = state["seconds"]

    def _damage_of(self, step: int, state: Mapping[str, Any]) -> str | None:
        """Say what is wrong with a checkpoint's state, its weights apart, or return None."""
        kinds = {"kl_coef": (int, float), "seconds": float, "history": list}
        if found := damage_of_keys(state, kinds):
            return found
        history = state["history"]
        are_metrics = all(isinstance(m, dict) and _are_metrics(m) for m in history)
        if not 0 < step == len(history) <= self.config.n_updates or not are_metrics:
            return f"its history is not of {step} updates"
        if not is_finite_number(state["kl_coef"]) or not is_finite_number(state["seconds"]):
            return "a number is not finite"
        device = self.generator.device
        return damage_of_optimizer(state.get("optimizer"), self.optimizer) or damage_of_generator(
            state.get("generator"), device
        )


def _are_metrics(metrics: Mapping) -> bool:
    return all(isinstance(k, str) and isinstance(x, int | float) for k, x in metrics.items())
