"""Where a PPO run stands: optimizer, randomness, price of KL, metrics; on disk and back."""

from pathlib import Path

import torch

from course_utils.rlhf.actor import ActorCritic
from course_utils.rlhf.config import PPOConfig
from course_utils.training.checkpoints import resume_checkpoint, run_identity, save_checkpoint

_PLACES = ("checkpoint_dir", "checkpoint_every_updates", "show_progress")


class Progress:
    """All that changes in a run, but for the weights, which are the actor's.

    Args:
        actor: What is trained.
        config: Gives the start; with a checkpoint in its folder, the run goes on from there.

    Raises:
        ValueError: If the folder holds a run with another configuration.
        CheckpointError: If every checkpoint in the folder is damaged.
    """

    def __init__(self, actor: ActorCritic, config: PPOConfig) -> None:
        self.config = config
        self.trained = actor.trainable_parameters()
        self.optimizer = torch.optim.AdamW(
            self.trained, lr=config.learning_rate, weight_decay=0.0, fused=True
        )
        self.generator = torch.Generator(actor.device).manual_seed(config.seed)
        self.kl_coef = config.kl_coef
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        if config.checkpoint_dir:
            self._resume(Path(config.checkpoint_dir))

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
            CheckpointError: If it cannot be written.
        """
        config, done = self.config, self.updates_done
        is_due = done % config.checkpoint_every_updates == 0 or done == config.n_updates
        if not config.checkpoint_dir or not is_due:
            return
        save_checkpoint(
            Path(config.checkpoint_dir),
            done,
            {
                "config": run_identity(config, _PLACES),
                "weights": [p.detach() for p in self.trained],
                "optimizer": self.optimizer.state_dict(),
                "generator": self.generator.get_state(),
                "kl_coef": self.kl_coef,
                "history": self.history,
                "seconds": self.seconds,
            },
        )

    def _resume(self, folder: Path) -> None:
        state = resume_checkpoint(folder, run_identity(self.config, _PLACES), self.trained)
        if state is None:
            return
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.kl_coef, self.history = state["kl_coef"], state["history"]
        self.seconds = state["seconds"]
