"""One round of answers: sampled, read again by policy, reference and critic, and scored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.generation import (
    check_prompts,
    encode_prompts,
    end_tokens,
    generate_tokens,
    is_end,
    padding_of,
)
from course_utils.rlhf.actor import Actor
from course_utils.rlhf.config import GRPOConfig, PPOConfig
from course_utils.rlhf.losses import kl_k1, selected_logprobs
from course_utils.rlhf.reward_model import check_scores
from course_utils.validation import check_dimensions, check_shapes, check_texts, shown

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# (prompts, answers) -> one score an answer.
Reward = Callable[[Sequence[str], Sequence[str]], Tensor | Sequence[float]]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A batch of answers, and what policy, reference, critic and reward said of them.

    Without a reference, or a critic, what it would have said is None; so is what the policy says
    where nobody has asked it yet.

    Args:
        sequences: Prompts, padded on the left, and answers, padded on the right,
            (batch, prompt + new).
        attention_mask: 1 on real tokens of both, (batch, prompt + new).
        response_mask: True on an answer up to and including its end token, (batch, new).
        logprobs: Log-probability of each token of the answer when it was drawn, in nats; 0 on
            padding, (batch, new).
        reference_logprobs: The same under the reference, (batch, new).
        values: Value that the critic expected before each token, (batch, new).
        scores: Score of each answer, less the penalty for a missing end token, (batch,).
        texts: The answers, without special tokens.
    """

    sequences: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    logprobs: Tensor | None
    reference_logprobs: Tensor | None
    values: Tensor | None
    scores: Tensor
    texts: list[str]

    @property
    def responses(self) -> Tensor:
        """Tokens of the answers, (batch, new)."""
        return self.sequences[:, -self.response_mask.shape[1] :]

    @property
    def kl_of_answers(self) -> Tensor | None:
        """Log-ratio of each answer to the reference, in nats, (batch,); None without one."""
        if self.reference_logprobs is None:
            return None
        return kl_k1(self.logprobs, self.reference_logprobs).sum(dim=1)


@torch.no_grad()
def roll_out(
    actor: Actor,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    reward: Reward,
    config: PPOConfig | GRPOConfig,
    generator: torch.Generator | None = None,
    *,
    is_read: bool = True,
) -> Rollout:
    """Let the policy answer each prompt, and collect all that PPO or GRPO learns from.

    Args:
        actor: Policy, and reference and critic where there are some, in evaluation mode.
        tokenizer: Their tokenizer.
        prompts: Rendered prompts, without the begin token, which is added here.
        reward: Called once, with the prompts and the answers as text; one number an answer.
        config: Length, temperature and the penalty for a missing end token.
        generator: Source of the draws, on the actor's device.
        is_read: Whether the answers are read again. A policy that learns from them in one step
            reads them then.

    Returns:
        The batch; everything in it is without a gradient.

    Raises:
        ValueError: If a prompt is empty or too long, or a score is missing or not finite.
    """
    prompt_ids, prompt_mask = read_prompts(actor.policy, tokenizer, prompts, config.max_new_tokens)
    ends = end_tokens(actor.policy, tokenizer)
    responses = generate_tokens(
        actor.policy,
        prompt_ids,
        prompt_mask,
        max_new_tokens=config.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=padding_of(tokenizer),
        temperature=config.temperature,
        generator=generator,
    )
    response_mask = up_to_end(responses, ends)
    sequences = torch.cat([prompt_ids, responses], dim=1)
    attention_mask = torch.cat([prompt_mask, response_mask.to(prompt_mask)], dim=1)

    # The whole text is known now: one pass predicts every token of the answers from those before
    # it. The last token predicts nothing.
    inputs, n_new = (sequences[:, :-1], attention_mask[:, :-1]), responses.shape[1]
    logits, values = actor(*inputs, last=n_new) if is_read else (None, None)
    has_reference = is_read and actor.has_reference
    reference_logits = actor.reference_logits(*inputs, last=n_new) if has_reference else None
    logprobs, reference_logprobs = (
        _logprobs(some, responses, response_mask, config.temperature)
        for some in (logits, reference_logits)
    )

    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    dtype = torch.promote_types(actor.policy.dtype, torch.float32)
    scores = score_answers(reward, prompts, texts).to(responses.device, dtype)
    if config.missing_eos_penalty is not None:
        has_no_end = ~is_end(responses, ends).any(dim=1)
        scores = scores - config.missing_eos_penalty * has_no_end
    return Rollout(
        sequences=sequences,
        attention_mask=attention_mask,
        response_mask=response_mask,
        logprobs=logprobs,
        reference_logprobs=reference_logprobs,
        values=values,
        scores=scores,
        texts=texts,
    )


def _logprobs(
    logits: Tensor | None, responses: Tensor, mask: Tensor, temperature: float
) -> Tensor | None:
    """Return the log-probability of each token, 0 on padding, (batch, new); None without logits."""
    if logits is None:
        return None
    return selected_logprobs(logits, responses, temperature).masked_fill(~mask, 0)


def sample_groups(
    actor: Actor,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    batches: Iterator[list[int]],
    reward: Reward,
    config: GRPOConfig,
    generator: torch.Generator,
) -> tuple[Rollout, int]:
    """Return a batch of groups, a prompt's answers together, and in how many rounds it came.

    Rounds go on until there are enough groups that the variant keeps, or there were
    ``max_rounds``; then those that it passes over fill the batch up.
    """
    rollouts, pad = [], padding_of(tokenizer)
    # Without a reference, an update of one step compares the policy with itself alone.
    is_read = actor.has_reference or not config.is_on_policy
    for _ in range(config.max_rounds):
        asked = [prompts[i] for i in next(batches) for _ in range(config.group_size)]
        rollouts.append(
            roll_out(actor, tokenizer, asked, reward, config, generator, is_read=is_read)
        )
        scores = torch.cat([rollout.scores for rollout in rollouts])
        is_kept = config.variant.keep(scores, config.group_size)
        if is_kept.sum() >= config.n_groups:
            break
    groups = is_kept.long().argsort(descending=True, stable=True)[: config.n_groups]
    places = torch.arange(config.group_size, device=groups.device)
    rows = (groups[:, None] * config.group_size + places).flatten()
    return rows_of(joined(rollouts, pad), rows), len(rollouts)


def joined(rollouts: Sequence[Rollout], pad_token_id: int) -> Rollout:
    """Return several batches as one, padded to the longest prompt and the longest answer.

    Args:
        rollouts: Batches from one actor, at least one.
        pad_token_id: Token to pad with.
    """
    if len(rollouts) == 1:
        return rollouts[0]
    n_new = max(rollout.response_mask.shape[1] for rollout in rollouts)
    n_prompt = max(r.sequences.shape[1] - r.response_mask.shape[1] for r in rollouts)

    def stacked(name: str, fill: float = 0, *, has_prompt: bool = False) -> Tensor | None:
        tensors = [getattr(rollout, name) for rollout in rollouts]
        if tensors[0] is None:
            return None
        width = n_new + has_prompt * n_prompt
        rows = []
        for tensor, rollout in zip(tensors, rollouts, strict=True):
            right = n_new - rollout.response_mask.shape[1]
            left = width - tensor.shape[1] - right
            rows.append(torch.nn.functional.pad(tensor, (left, right), value=fill))
        return torch.cat(rows)

    return Rollout(
        sequences=stacked("sequences", pad_token_id, has_prompt=True),
        attention_mask=stacked("attention_mask", has_prompt=True),
        scores=torch.cat([rollout.scores for rollout in rollouts]),
        texts=[text for rollout in rollouts for text in rollout.texts],
        **{
            name: stacked(name)
            for name in ("response_mask", "logprobs", "reference_logprobs", "values")
        },
    )


def rows_of(rollout: Rollout, rows: Tensor) -> Rollout:
    """Return some answers of a batch, in the order of ``rows``, (n,)."""
    tensors = {
        name: None if value is None else value[rows]
        for name, value in vars(rollout).items()
        if name != "texts"
    }
    return Rollout(**tensors, texts=[rollout.texts[i] for i in rows.tolist()])


def read_prompts(
    policy: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    max_new_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Encode prompts for the policy, after a check that it can answer them.

    Returns:
        ``input_ids`` and ``attention_mask``, padded on the left, both (batch, seq).

    Raises:
        ValueError: If there is no prompt, or one is empty, or too long for an answer to follow.
    """
    check_texts(prompts=prompts)
    for i, prompt in enumerate(prompts):
        if not prompt.strip():
            raise ValueError(f"prompt {i} is empty ({prompt!r}): it must say something to answer")
    device = next(policy.parameters()).device
    input_ids, attention_mask = (t.to(device) for t in encode_prompts(tokenizer, prompts))
    check_prompts(policy, input_ids, attention_mask, max_new_tokens)
    return input_ids, attention_mask


def up_to_end(responses: Tensor, eos_token_id: int | Sequence[int] | None) -> Tensor:
    """Return True on every token up to and including the first end token, (batch, new).

    Raises:
        ValueError: If an end token is no whole number.
    """
    check_shapes(responses=responses)
    check_dimensions("responses", responses, "(batch, new)")
    ends = is_end(responses, eos_token_id)
    return ends.cumsum(dim=1) - ends.long() == 0


def score_answers(reward: Reward, prompts: Sequence[str], texts: Sequence[str]) -> Tensor:
    """Call a reward and check what it returns, (batch,).

    Raises:
        ValueError: If there is not one score an answer, or one is not finite.
    """
    if not callable(reward):
        raise ValueError(f"reward={shown(reward)} must be a function of prompts and answers")
    returned = reward(prompts, texts)
    try:
        scores = torch.as_tensor(returned, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"the reward returned {shown(returned)}: there must be one number for each of "
            f"{len(texts)} answers"
        ) from error
    if scores.shape != (len(texts),):
        raise ValueError(
            f"the reward returned scores of shape {tuple(scores.shape)}: "
            f"there must be one for each of {len(texts)} answers"
        )
    check_scores(scores, texts)
    return scores
