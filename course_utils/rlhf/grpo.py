"""GRPO and its kin on answers: one loop that samples groups, compares within them, and learns.

Group relative policy optimisation (Shao et al., 2024, arXiv:2402.03300, section 4.1) has no critic:
what an answer is compared with are other answers to the same prompt. Each update goes through three
steps:

1. the policy answers a batch of prompts, each several times, and every answer gets one score;
2. every answer gets one advantage: how much better it was than what it is compared with;
3. the policy learns from them, in minibatches, once or a few times over.

What differs from one method to another are the functions of a ``Variant``, not this loop.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING

from torch import Tensor

from course_utils.generation import end_tokens, is_end
from course_utils.rlhf.actor import Actor
from course_utils.rlhf.config import GRPOConfig, GRPOResult
from course_utils.rlhf.losses import entropy, selected_logprobs
from course_utils.rlhf.masks import masked_mean
from course_utils.rlhf.ppo import endless_batches, facts_of_prompts, shuffled, take_step
from course_utils.rlhf.progress import Progress
from course_utils.rlhf.rollout import Reward, Rollout, read_prompts, sample_groups
from course_utils.rlhf.variants import policy_loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Metrics = dict[str, float]


def train_grpo(
    actor: Actor,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    reward: Reward,
    config: GRPOConfig,
    *,
    on_update: Callable[[int, Metrics, Rollout], None] | None = None,
) -> GRPOResult:
    """Train a policy to write answers that a reward likes, by groups of answers to a prompt.

    Args:
        actor: Policy, with a reference if ``kl_coef`` is above 0; left in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Rendered prompts, without the begin token.
        reward: ``(prompts, answers) -> scores``, one number an answer; called once a round.
        config: How to train, and by which variant.
        on_update: Called after every update with the number of updates done, its metrics, and the
            answers that it learnt from, a prompt's together.

    Returns:
        Metrics of every update, and the time.

    Raises:
        ValueError: If a prompt is empty or too long, a score is missing or not finite, there is no
            reference where KL has a price, or the folder holds another run.
        TrainingDivergedError: If loss or gradient is not finite; the last weights are kept.
        CheckpointError: If a checkpoint cannot be written or read.
        OSError: If the folder cannot be used; FileExistsError if another process trains in it.
    """
    from tqdm.auto import tqdm

    if config.kl_coef and not actor.has_reference:
        raise ValueError(
            f"kl_coef={config.kl_coef:g} must be 0 without a reference: use SharedActor or "
            "SeparateActor"
        )
    facts = facts_of_prompts(*read_prompts(actor.policy, tokenizer, prompts, config.max_new_tokens))
    # Dropout stays off: with it, the policy would not be the one that sampled, even unchanged.
    actor.eval()
    batches = endless_batches(len(prompts), config.n_groups, config.seed)
    show = {"leave": False, "unit": "update", "disable": not config.show_progress}
    with (
        Progress(actor, config, facts | {"variant": config.variant.facts()}) as run,
        tqdm(total=config.n_updates, initial=run.updates_done, **show) as bar,
    ):
        # An update may take several batches, so that the metrics say where the order goes on.
        batches = islice(batches, n_rounds(run.history), None)
        while run.updates_done < config.n_updates:
            start, earlier = time.perf_counter(), column(run.history, "objective/rlhf_reward")
            # 1. Groups of answers, and one score for each answer.
            rollout, rounds = sample_groups(
                actor, tokenizer, prompts, batches, reward, config, run.generator
            )
            # 2. One advantage an answer.
            rewards = reward_answers(rollout, config)
            advantages = config.variant.advantages(rewards, config.group_size, earlier)
            # 3. One pass over them or several, an optimizer step a minibatch.
            steps = []
            for _ in range(config.n_epochs):
                for rows in shuffled(len(rewards), run.generator).split(config.minibatch_size):
                    loss, measured = minibatch_loss(actor, rollout, advantages, rows, config)
                    take_step(loss, run.optimizer, config)
                    steps.append(measured)
            ends = end_tokens(actor.policy, tokenizer)
            metrics = summary(rollout, rewards, steps, rounds, ends, config)
            run.record(metrics, time.perf_counter() - start)
            bar.update()
            bar.set_postfix_str(f"score {metrics['objective/scores']:.2f}", refresh=False)
            if on_update:
                on_update(run.updates_done, metrics, rollout)
            run.save()
    n_sampled = n_rounds(run.history) * config.batch_size
    return GRPOResult(history=run.history, seconds=run.seconds, n_sampled=n_sampled)


def reward_answers(rollout: Rollout, config: GRPOConfig) -> Tensor:
    """Return what each answer is rewarded with, (batch,): its score, or its score less KL."""
    return config.variant.rewards(rollout.scores, rollout.kl_of_answers, config.kl_coef)


def minibatch_loss(
    actor: Actor, rollout: Rollout, advantages: Tensor, rows: Tensor, config: GRPOConfig
) -> tuple[Tensor, Metrics]:
    """Return the loss of some answers, with its gradient, and what is measured on the way."""
    responses, mask = rollout.responses[rows], rollout.response_mask[rows]
    old, reference = rollout.logprobs, rollout.reference_logprobs
    logits, _ = actor(
        rollout.sequences[rows, :-1], rollout.attention_mask[rows, :-1], last=responses.shape[1]
    )
    logprobs = selected_logprobs(logits, responses, config.temperature)
    policy = policy_loss(
        config.variant,
        logprobs,
        logprobs.detach() if old is None else old[rows],
        advantages[rows],
        mask,
        longest=config.max_new_tokens,
        reference=None if reference is None else reference[rows],
        kl_coef=config.kl_coef,
    )
    measured = {
        "policy/approxkl_avg": policy.approx_kl,
        "policy/clipfrac_avg": policy.clip_fraction,
        "loss/policy_avg": policy.loss,
        "policy/entropy_avg": masked_mean(entropy(logits.detach() / config.temperature), mask),
        "val/ratio": policy.ratio,
        "objective/entropy": -logprobs.detach().masked_fill(~mask, 0).sum(dim=1).mean(),
    }
    return policy.loss, {k: v.item() for k, v in measured.items()}


def summary(
    rollout: Rollout,
    rewards: Tensor,
    steps: Sequence[Metrics],
    rounds: int,
    eos_token_id: int | Sequence[int],
    config: GRPOConfig,
) -> Metrics:
    """Return the metrics of an update, by the names of TRL's trainers where they have them.

    Per answer: scores, rewards, KL in nats if there is a reference, and tokens.
    """
    groups = rollout.scores.view(-1, config.group_size)
    lengths = rollout.response_mask.sum(dim=1).float()
    has_end = (is_end(rollout.responses, eos_token_id) & rollout.response_mask).any(dim=1)
    measured = {
        "objective/scores": rollout.scores.mean(),
        "objective/rlhf_reward": rewards.mean(),
        "reward_std": groups.std(dim=1, correction=min(1, config.group_size - 1)).mean(),
        "frac_reward_zero_std": (groups.amax(dim=1) == groups.amin(dim=1)).float().mean(),
        "completions/mean_length": lengths.mean(),
        "completions/clipped_ratio": 1 - has_end.float().mean(),
    }
    if rollout.kl_of_answers is not None:
        measured["objective/kl"] = rollout.kl_of_answers.mean()
    averages = {name: fmean(column(steps, name)) for name in steps[0]}
    if rollout.logprobs is not None:
        averages["objective/entropy"] = -rollout.logprobs.sum(dim=1).mean().item()
    return {k: v.item() for k, v in measured.items()} | averages | {"sampling/rounds": rounds}


def n_rounds(history: Sequence[Metrics]) -> int:
    """Return how many batches of prompts a run has taken."""
    return sum(int(rounds) for rounds in column(history, "sampling/rounds"))


def column(rows: Sequence[Metrics], name: str) -> list[float]:
    """Return one metric of every row."""
    return [row[name] for row in rows]
