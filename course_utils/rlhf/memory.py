"""How much memory PPO takes: four models, or one that plays all four parts.

PPO on language models has a policy that trains, the reference it must stay near, a critic that
trains, and a reward model (Ouyang et al., 2022, arXiv:2203.02155, section 3.5). In the separate
form these are four models: of 7 billion parameters in 16 bits, 4 x 2 x 7 = 56 GB of weights, and
gradients and optimizer states of two. In the shared form an adapter on one trunk is the policy, the
trunk without it the reference, one row on its last hidden state the critic, and another adapter
with a row of its own the reward model: 14 GB and some megabytes.

An update goes through three phases. Weights and optimizer states are held in all of them; gradients
go with the step that they were computed for. With ``e`` bytes an element, ``V`` the vocabulary, and
answers of ``R`` tokens in a batch of ``B`` and minibatches of ``m``, they add

- rollout: keys and values of all tokens but the last one's. No gradient, nothing else is kept.
- scoring: one pass of each model over whole texts. Logits of policy and reference are held at the
  same time, and with two more tensors of their size, of which a log-probability in float32 is one,
  make ``(3 e + 4) B R V`` bytes.
- training: what policy and critic keep for the backward pass, ``m`` texts at a time, and
  ``(2 e + 16) m R V``: logits, their log-probabilities, and the four tensors of the entropy.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from course_utils.memory.architecture import Architecture, architecture_of
from course_utils.memory.parts import dtype_bytes, format_bytes
from course_utils.memory.trained import Footprint, footprint_of
from course_utils.rlhf.memory_phases import (
    Learner,
    Update,
    adapter_bytes,
    experience_bytes,
    learner,
    rollout_bytes,
    scoring_bytes,
    training_bytes,
    value_head,
)
from course_utils.validation import check_choice

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class PPOEstimate:
    """What :func:`estimate_ppo` returns.

    Args:
        policy_bytes: The policy's weights, without an adapter.
        reference_bytes: The reference's own weights: none in the shared form.
        critic_bytes: The critic's own weights: in the shared form the value head.
        reward_model_bytes: The reward model's own weights: in the shared form its head.
        adapters_bytes: What the method adds to policy, critic and reward model, in float32.
        gradients_bytes: One gradient a trained parameter of policy and critic.
        optimizer_bytes: What the optimizer keeps for these.
        activations_bytes: What a minibatch's forward pass keeps, in policy and critic.
        logits_bytes: A minibatch's logits and all that is computed from them at the same time.
        kv_cache_bytes: Keys and values of the batch at the end of its answers.
        experience_bytes: What is noted of the batch: tokens, masks, log-probabilities of policy and
            reference, their difference, values, advantages and returns.
        phases: The most that is held in each phase of an update, as (name, bytes).
    """

    policy_bytes: int
    reference_bytes: int
    critic_bytes: int
    reward_model_bytes: int
    adapters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    kv_cache_bytes: int
    experience_bytes: int
    phases: tuple[tuple[str, int], ...]

    @property
    def weights_bytes(self) -> int:
        """Weights of all models, adapters included; what is shared counts once."""
        return (
            self.policy_bytes
            + self.reference_bytes
            + self.critic_bytes
            + self.reward_model_bytes
            + self.adapters_bytes
        )

    @property
    def total_bytes(self) -> int:
        """The sum of the parts, which are never all there at once."""
        return sum(self.parts().values())

    @property
    def peak_bytes(self) -> int:
        """The most that is held at any one moment of an update."""
        return max(size for _, size in self.phases)

    @property
    def peak_phase(self) -> str:
        """The phase in which most is held: ``rollout``, ``scoring`` or ``training``."""
        return max(self.phases, key=lambda phase: phase[1])[0]

    def parts(self) -> dict[str, int]:
        """Return the bytes of each part, by name."""
        return {
            "policy": self.policy_bytes,
            "reference": self.reference_bytes,
            "critic": self.critic_bytes,
            "reward model": self.reward_model_bytes,
            "adapters": self.adapters_bytes,
            "gradients": self.gradients_bytes,
            "optimizer": self.optimizer_bytes,
            "activations": self.activations_bytes,
            "logits": self.logits_bytes,
            "KV cache": self.kv_cache_bytes,
            "experience": self.experience_bytes,
        }

    def rows(self) -> list[tuple[str, int]]:
        """Return the parts as (name, bytes), then the phases and the peak, for a table."""
        return [*self.parts().items(), *self.phases, ("peak", self.peak_bytes)]

    def __str__(self) -> str:
        return "\n".join(f"{name:<13}{format_bytes(size):>9}" for name, size in self.rows())


def estimate_ppo(
    model: "nn.Module | PreTrainedConfig | Architecture | str",
    method: Footprint,
    *,
    form: Literal["shared", "separate"],
    batch_size: int,
    minibatch_size: int,
    prompt_tokens: int,
    response_tokens: int,
    reward_method: Footprint | None = None,
    dtype: str = "float32",
    optimizer: str = "adamw",
    mixed_precision: bool = False,
) -> PPOEstimate:
    """Estimate the memory of an update of PPO, as ``course_utils.rlhf`` computes it.

    Attention is ``sdpa``, and batches are padded, since answers end where they end. What an adapter
    adds is held and trained in float32, whatever the type of the base. Not counted is what
    :func:`~course_utils.memory.budget.estimate` does not count either.

    Args:
        model: Language model, its configuration, an architecture, or a well-known name; critic and
            reward model are the same with one output in the vocabulary's place.
        method: What trains in policy and critic, whose head always does.
        form: ``separate``: four models. ``shared``: one, with two adapters and two heads.
        batch_size: Answers an update.
        minibatch_size: Answers an optimizer step; divides ``batch_size``.
        prompt_tokens: Tokens of a prompt, padding included.
        response_tokens: Tokens of an answer, padding included.
        reward_method: What the reward model was trained with; ``method`` by default.
        dtype: Type of weights and activations: ``float32``, ``float16`` or ``bfloat16``.
        optimizer: As in :func:`~course_utils.memory.budget.estimate`.
        mixed_precision: Whether the optimizer keeps a float32 copy of trained weights of the base.

    Raises:
        ValueError: If an argument is out of range, or ``method`` trains weights of a shared trunk.
    """
    update = Update(
        shape=replace(architecture_of(model), n_labels=None),
        batch_size=batch_size,
        minibatch_size=minibatch_size,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        element_bytes=dtype_bytes(dtype),
    )
    check_choice("form", form, _FORMS)
    reward_method = method if reward_method is None else reward_method
    options = {"dtype": dtype, "optimizer": optimizer, "mixed_precision": mixed_precision}
    models = _FORMS[form](update, method, reward_method, options)
    actor, critic = models.actor, models.critic
    parts = {
        "policy_bytes": actor.base_bytes,
        "reference_bytes": models.reference_bytes,
        "critic_bytes": critic.base_bytes,
        "reward_model_bytes": models.reward_model_bytes,
        "adapters_bytes": actor.adapter_bytes + critic.adapter_bytes + models.reward_adapter_bytes,
        "gradients_bytes": actor.gradients_bytes + critic.gradients_bytes,
        "optimizer_bytes": actor.optimizer_bytes + critic.optimizer_bytes,
        "activations_bytes": actor.kept_bytes + critic.kept_bytes,
        "logits_bytes": update.logits_bytes(2, 4, minibatch_size),
        "kv_cache_bytes": update.cache_bytes(update.seq_len),
        "experience_bytes": experience_bytes(update),
    }
    held = sum(parts[f"{name}_bytes"] for name in _HELD)
    phases = {
        "rollout": held + rollout_bytes(update),
        "scoring": held + scoring_bytes(update),
        "training": held + training_bytes(update, actor, critic),
    }
    return PPOEstimate(**parts, phases=tuple(phases.items()))


# Held from one end of an update to the other.
_HELD = ("policy", "reference", "critic", "reward_model", "adapters", "optimizer")


@dataclass(frozen=True, kw_only=True)
class _Models:
    """Who takes part: what trains, and the bytes of what does not."""

    actor: Learner
    critic: Learner
    reference_bytes: int
    reward_model_bytes: int
    reward_adapter_bytes: int


def _shared(
    update: Update, method: Footprint, reward_method: Footprint, options: dict[str, Any]
) -> _Models:
    """Return one trunk: two adapters, a value head, and the reward's."""
    shape = update.shape
    policy, reward = footprint_of(method, shape), footprint_of(reward_method, shape)
    for trained in (policy, reward):
        trains_outside = trained.embedding or trained.final_norm or trained.head
        trains_inside = any(block.base for block in trained.blocks)
        if trains_outside or trains_inside or not trained.n_added():
            raise ValueError(
                "form='shared' needs methods that only add to the trunk, which without them is the "
                "reference: use form='separate'"
            )
    return _Models(
        actor=learner(shape, policy, update, options),
        critic=value_head(update, options["optimizer"]),
        reference_bytes=0,
        reward_model_bytes=update.element_bytes * shape.d_model,
        reward_adapter_bytes=adapter_bytes(reward),
    )


def _separate(
    update: Update, method: Footprint, reward_method: Footprint, options: dict[str, Any]
) -> _Models:
    """Return four models; a critic's head is new, and trains with any method."""
    shape, classifier = update.shape, replace(update.shape, n_labels=1)
    critic, reward = footprint_of(method, classifier), footprint_of(reward_method, classifier)
    return _Models(
        actor=learner(shape, method.footprint(shape), update, options),
        critic=learner(classifier, replace(critic, head=True), update, options),
        reference_bytes=update.element_bytes * shape.n_parameters,
        reward_model_bytes=update.element_bytes * classifier.n_parameters,
        reward_adapter_bytes=adapter_bytes(reward),
    )


_FORMS = {"shared": _shared, "separate": _separate}
