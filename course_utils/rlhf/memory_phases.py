"""What is held in each phase of an update of PPO, beside weights and optimizer states.

The rollout keeps keys and values, scoring keeps nothing but logits, training keeps what the
backward pass of policy and critic needs: see :mod:`course_utils.rlhf.memory`.
"""

from dataclasses import dataclass
from typing import Any

from course_utils.memory.activations import INT64_BYTES
from course_utils.memory.architecture import Architecture
from course_utils.memory.budget import estimate
from course_utils.memory.optimizers import state_bytes
from course_utils.memory.parts import FLOAT32_BYTES
from course_utils.memory.trained import Trained
from course_utils.validation import check_count, keep_plain


@dataclass(frozen=True, kw_only=True)
class Update:
    """An update: the policy's shape and its batch.

    Args:
        shape: Shape of the policy.
        batch_size: Answers.
        minibatch_size: Answers an optimizer step; divides ``batch_size``.
        prompt_tokens: Tokens of a prompt, padding included.
        response_tokens: Tokens of an answer, padding included.
        element_bytes: Bytes an element of weights and activations.

    Raises:
        ValueError: If a number is out of range.
    """

    shape: Architecture
    batch_size: int
    minibatch_size: int
    prompt_tokens: int
    response_tokens: int
    element_bytes: int

    def __post_init__(self) -> None:
        keep_plain(self)
        for name in ("batch_size", "minibatch_size", "prompt_tokens", "response_tokens"):
            check_count(name, getattr(self, name))
        if self.batch_size % self.minibatch_size:
            raise ValueError(
                f"minibatch_size={self.minibatch_size} must divide batch_size={self.batch_size}"
            )

    @property
    def seq_len(self) -> int:
        """Tokens of a text that go through a model: the last one predicts nothing."""
        return self.prompt_tokens + self.response_tokens - 1

    def logits_bytes(self, n_computed: int, n_float32: int, n_texts: int) -> int:
        """Return the bytes of tensors with a number for every token and word of the vocabulary.

        Args:
            n_computed: So many in the compute type.
            n_float32: And so many in float32.
            n_texts: Answers.
        """
        element_bytes = n_computed * self.element_bytes + n_float32 * FLOAT32_BYTES
        return n_texts * self.response_tokens * self.shape.vocab_size * element_bytes

    def cache_bytes(self, n_tokens: int) -> int:
        """Return the bytes of keys and values of so many tokens of every text."""
        return self.batch_size * n_tokens * self.shape.cache_width * self.element_bytes

    def passing_bytes(self, n_tokens: int) -> int:
        """Return the most that a pass over the batch takes when nothing is kept: inside one block.

        For a token there are the embedding, the residual stream twice and its norm (``4 d``), the
        MLP's product and its factors (``3 f``); sine and cosine of its rotation; and its row of
        the mask, a byte a token.
        """
        shape = self.shape
        widths = 4 * shape.d_model + 3 * shape.d_ff + 2 * shape.head_dim
        return self.batch_size * n_tokens * (widths * self.element_bytes + n_tokens)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Policy or critic.

    Args:
        base_bytes: Weights, without an adapter.
        adapter_bytes: What the method adds.
        gradients_bytes: One gradient a trained parameter.
        optimizer_bytes: What the optimizer keeps.
        kept_bytes: What a minibatch's forward pass keeps, the logits aside.
        backward_bytes: The most of this and of gradients that is held while going back.
    """

    base_bytes: int
    adapter_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    kept_bytes: int
    backward_bytes: int


@dataclass(frozen=True)
class _Fixed:
    """A footprint that is known already."""

    trained: Trained

    def footprint(self, architecture: Architecture) -> Trained:
        """Return it."""
        return self.trained


def learner(
    shape: Architecture, trained: Trained, update: Update, options: dict[str, Any]
) -> Learner:
    """Return a model that trains, from an estimate of its training step on a minibatch."""
    step = estimate(
        shape,
        _Fixed(trained),
        batch_size=update.minibatch_size,
        seq_len=update.seq_len,
        is_padded=True,
        **options,
    )
    moments = dict(step.moments)
    backward = max(moments["blocks"], moments["embedding"]) - moments["optimizer"]
    return Learner(
        base_bytes=update.element_bytes * step.architecture.n_parameters,
        adapter_bytes=adapter_bytes(trained),
        gradients_bytes=step.gradients_bytes,
        optimizer_bytes=step.optimizer_bytes,
        kept_bytes=step.activations_bytes,
        backward_bytes=backward + step.gradients_bytes,
    )


def value_head(update: Update, optimizer: str) -> Learner:
    """Return the critic of the shared form: a row and a bias in float32, which keep their input."""
    sizes = [update.shape.d_model, 1]
    n_bytes = FLOAT32_BYTES * sum(sizes)
    return Learner(
        base_bytes=n_bytes,
        adapter_bytes=0,
        gradients_bytes=n_bytes,
        optimizer_bytes=state_bytes(sizes, optimizer, FLOAT32_BYTES),
        kept_bytes=FLOAT32_BYTES * update.minibatch_size * update.seq_len * update.shape.d_model,
        backward_bytes=n_bytes,
    )


def adapter_bytes(trained: Trained) -> int:
    """Return what a method adds to a model, in float32."""
    return FLOAT32_BYTES * (trained.n_added() + trained.n_buffers())


def experience_bytes(update: Update) -> int:
    """Return what is noted of a batch.

    A text's tokens and mask are 64-bit integers; an answer's mask is a byte a token, and its six
    quantities (see ``PPOEstimate``) are in float32.
    """
    per_text = 2 * INT64_BYTES * (update.prompt_tokens + update.response_tokens)
    return update.batch_size * (per_text + update.response_tokens * (1 + 6 * FLOAT32_BYTES))


def rollout_bytes(update: Update) -> int:
    """Return the most that answering takes: while prompts are read, or when a token is drawn.

    Keys and values have their place for the whole answer from the start. A token is drawn from
    logits, their probabilities, and the sums of these, which are in float64.
    """
    n_prompt = update.prompt_tokens
    reading = update.passing_bytes(n_prompt)
    writing = update.batch_size * 4 * FLOAT32_BYTES * update.shape.vocab_size
    return update.cache_bytes(n_prompt + update.response_tokens) + max(reading, writing)


def scoring_bytes(update: Update) -> int:
    """Return the most that one pass of every model takes, with what is noted of the answers."""
    passing = update.passing_bytes(update.seq_len)
    return experience_bytes(update) + max(
        # The reward model, while the logits of policy and reference are held.
        update.logits_bytes(2, 0, update.batch_size) + passing,
        update.logits_bytes(3, 1, update.batch_size),
    )


def training_bytes(update: Update, actor: Learner, critic: Learner) -> int:
    """Return the most that a minibatch takes, with what was noted of the batch.

    The way back begins in the critic, whose forward pass came last; until it comes to the policy,
    the gradient of the logits waits.
    """
    waiting = actor.kept_bytes + update.logits_bytes(1, 0, update.minibatch_size)
    return experience_bytes(update) + max(
        actor.kept_bytes + critic.kept_bytes + update.logits_bytes(2, 4, update.minibatch_size),
        waiting + critic.backward_bytes,
        critic.gradients_bytes + actor.backward_bytes,
    )
