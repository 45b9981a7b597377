"""How to train with PPO or with GRPO, and what a run did."""

from dataclasses import dataclass, field
from pathlib import Path

from course_utils.rlhf.variants import GRPO, Variant
from course_utils.validation import (
    check_count,
    check_flag,
    check_number,
    check_path,
    keep_plain,
    shown,
)

_COUNTS = (
    "n_updates",
    "batch_size",
    "minibatch_size",
    "n_epochs",
    "max_new_tokens",
    "checkpoint_every_updates",
)
_ABOVE_0 = ("learning_rate", "temperature", "clip_range", "value_clip_range", "max_grad_norm")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """How to train with PPO; names and defaults are TRL's where it has them.

    Args:
        n_updates: Rounds of answering and learning.
        learning_rate: AdamW's rate, the same in every update.
        batch_size: Answers an update.
        minibatch_size: Answers an optimizer step; divides ``batch_size``.
        n_epochs: How often an update goes through its answers.
        max_new_tokens: Tokens of an answer at the most.
        temperature: What logits are divided by, in sampling and in every log-probability.
        kl_coef: Price of a nat away from the reference, paid at every token.
        target_kl: KL of an answer, in nats, that the price is adapted to; None leaves it fixed.
        gamma: Discount of later rewards.
        lam: GAE's lambda.
        clip_range: How far the ratio of new to old probability may move from 1.
        value_clip_range: How far a value may move from what it was.
        vf_coef: Weight of the value loss.
        max_grad_norm: Gradients are scaled down to this norm; TRL's trainer does not clip them.
        whiten_rewards: Whether rewards are scaled to variance 1, their mean kept.
        missing_eos_penalty: Taken off the score of an answer without an end token; None for none.
        score_after_end: Whether the score is paid one position after the end token, to which the
            critic gives a value too, as in TRL; otherwise at the end token, the answer's last.
        seed: Seed of the prompts' order, the sampling and the minibatches.
        checkpoint_dir: Folder of checkpoints; an existing one is resumed from. None writes none.
        checkpoint_every_updates: Updates from one checkpoint to the next.
        show_progress: Whether to draw a progress bar.

    Raises:
        ValueError: If a value is out of range.
    """

    n_updates: int = 40
    learning_rate: float = 1e-3
    batch_size: int = 32
    minibatch_size: int = 16
    n_epochs: int = 2
    max_new_tokens: int = 32
    temperature: float = 1.0
    kl_coef: float = 0.05
    target_kl: float | None = None
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    vf_coef: float = 0.1
    max_grad_norm: float = 1.0
    whiten_rewards: bool = False
    missing_eos_penalty: float | None = None
    score_after_end: bool = False
    seed: int = 0
    checkpoint_dir: Path | None = None
    checkpoint_every_updates: int = 10
    show_progress: bool = True

    def __post_init__(self) -> None:
        keep_plain(self)
        for name in _COUNTS:
            check_count(name, getattr(self, name))
        for name in _ABOVE_0:
            check_number(name, getattr(self, name), above=0)
        for name in ("kl_coef", "vf_coef"):
            check_number(name, getattr(self, name), at_least=0)
        for name in ("gamma", "lam"):
            check_number(name, getattr(self, name), at_least=0, at_most=1)
        for name in ("whiten_rewards", "score_after_end", "show_progress"):
            check_flag(name, getattr(self, name))
        check_number("target_kl", self.target_kl, above=0, is_none_ok=True)
        check_number("missing_eos_penalty", self.missing_eos_penalty, at_least=0, is_none_ok=True)
        check_count("seed", self.seed, at_least=0)
        check_path("checkpoint_dir", self.checkpoint_dir)
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} must divide batch_size={self.batch_size}"
            )


@dataclass(frozen=True, kw_only=True)
class PPOResult:
    """What a run did.

    Args:
        history: Metrics of every update, by TRL's names.
        seconds: Time of all updates; a run that was resumed carries on counting.
        samples_per_second: Answers sampled, scored and learnt from, over seconds.
    """

    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    samples_per_second: float


@dataclass(frozen=True, kw_only=True)
class GRPOConfig:
    """How to train on groups of answers; what ``PPOConfig`` has, too, means the same.

    Args:
        variant: What is learnt from a group, and how: ``GRPO``, ``DR_GRPO``, ``DAPO``, ``RLOO``,
            ``REINFORCE``, or any other ``Variant``.
        group_size: Answers a prompt; at least 2 where the variant compares within a group.
        n_updates: Rounds of answering and learning.
        learning_rate: AdamW's rate, the same in every update.
        batch_size: Answers an update; a multiple of ``group_size``.
        minibatch_size: Answers an optimizer step; divides ``batch_size``.
        n_epochs: How often an update goes through its answers.
        max_new_tokens: Tokens of an answer at the most.
        max_rounds: How often an update samples at the most, where the variant passes groups over;
            what is still missing is filled up with those.
        temperature: What logits are divided by, in sampling and in every log-probability.
        kl_coef: Price of a nat away from the reference; 0 for none, which needs no reference. The
            variant says where it is paid, in the loss or in the reward.
        max_grad_norm: Gradients are scaled down to this norm.
        missing_eos_penalty: Taken off the score of an answer without an end token; None for none.
        seed: Seed of the prompts' order, the sampling and the minibatches.
        checkpoint_dir: Folder of checkpoints; an existing one is resumed from. None writes none.
        checkpoint_every_updates: Updates from one checkpoint to the next.
        show_progress: Whether to draw a progress bar.

    Raises:
        ValueError: If a value is out of range, or the variant pays no price for KL.
    """

    variant: Variant = GRPO
    group_size: int = 8
    n_updates: int = 40
    learning_rate: float = 1e-3
    batch_size: int = 64
    minibatch_size: int = 64
    n_epochs: int = 1
    max_new_tokens: int = 32
    max_rounds: int = 4
    temperature: float = 1.0
    kl_coef: float = 0.0
    max_grad_norm: float = 1.0
    missing_eos_penalty: float | None = None
    seed: int = 0
    checkpoint_dir: Path | None = None
    checkpoint_every_updates: int = 10
    show_progress: bool = True

    def __post_init__(self) -> None:
        keep_plain(self)
        if not isinstance(self.variant, Variant):
            raise ValueError(f"variant={shown(self.variant)} must be a Variant, such as GRPO")
        for name in (*_COUNTS, "max_rounds", "group_size"):
            check_count(name, getattr(self, name))
        if self.group_size < self.variant.smallest_group:
            raise ValueError(
                f"group_size={self.group_size} must be at least {self.variant.smallest_group} "
                f"for {self.variant.name}, which compares the answers to a prompt with one another"
            )
        for name in ("learning_rate", "temperature", "max_grad_norm"):
            check_number(name, getattr(self, name), above=0)
        check_number("kl_coef", self.kl_coef, at_least=0)
        if self.kl_coef and not self.variant.pays_for_kl:
            raise ValueError(
                f"kl_coef={self.kl_coef:g} must be 0 for {self.variant.name}, which pays no price "
                "for KL, in its loss or in its reward"
            )
        check_number("missing_eos_penalty", self.missing_eos_penalty, at_least=0, is_none_ok=True)
        check_flag("show_progress", self.show_progress)
        check_count("seed", self.seed, at_least=0)
        check_path("checkpoint_dir", self.checkpoint_dir)
        for name in ("group_size", "minibatch_size"):
            if self.batch_size % getattr(self, name):
                raise ValueError(
                    f"{name}={getattr(self, name)} must divide batch_size={self.batch_size}"
                )

    @property
    def is_on_policy(self) -> bool:
        """Whether each update is one step, by the policy that has sampled and by no later one."""
        return self.n_epochs == 1 and self.minibatch_size == self.batch_size

    @property
    def n_groups(self) -> int:
        """Prompts an update."""
        return self.batch_size // self.group_size


@dataclass(frozen=True, kw_only=True)
class GRPOResult:
    """What a run did.

    Args:
        history: Metrics of every update, by the names of TRL's trainers.
        seconds: Time of all updates; a run that was resumed carries on counting.
        n_sampled: Answers sampled, those that were passed over among them.
    """

    history: list[dict[str, float]] = field(repr=False)
    seconds: float
    n_sampled: int

    @property
    def samples_per_second(self) -> float:
        """Answers sampled and scored, and learnt from unless passed over, over seconds."""
        return self.n_sampled / max(self.seconds, 1e-9)
