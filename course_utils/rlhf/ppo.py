"""PPO on answers: one loop that samples, weighs every token, and learns.

Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347) with a price on leaving the
reference (Ziegler et al., 2019, arXiv:1909.08593). Each update goes through four steps:

1. the policy answers a batch of prompts, and every answer gets one score;
2. every token gets a reward: a fine for leaving the reference, and at the last one the score;
3. rewards and values become advantages: how much better than expected each token was;
4. policy and critic learn from them, in minibatches, a few times over.
"""

import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.files import sha256_of
from course_utils.generation import end_tokens, is_end
from course_utils.rlhf.actor import ActorCritic
from course_utils.rlhf.config import GRPOConfig, PPOConfig, PPOResult
from course_utils.rlhf.experience import Experience, next_kl_coef, weigh
from course_utils.rlhf.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    entropy,
    selected_logprobs,
)
from course_utils.rlhf.masks import masked_mean
from course_utils.rlhf.progress import Progress
from course_utils.rlhf.rollout import Reward, Rollout, read_prompts, roll_out
from course_utils.training import TrainingDivergedError
from course_utils.training.identity import Facts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Metrics = dict[str, float]


def train_ppo(
    actor: ActorCritic,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    reward: Reward,
    config: PPOConfig,
    *,
    on_update: Callable[[int, Metrics, Rollout], None] | None = None,
) -> PPOResult:
    """Train a policy, and its critic, to write answers that a reward likes.

    Args:
        actor: Policy, reference and critic; left in evaluation mode.
        tokenizer: Their tokenizer.
        prompts: Rendered prompts, without the begin token.
        reward: ``(prompts, answers) -> scores``, one number an answer; called once an update.
        config: How to train.
        on_update: Called after every update with the number of updates done, its metrics, and the
            answers that it learnt from.

    Returns:
        Metrics of every update, and the time.

    Raises:
        ValueError: If a prompt is empty or too long, a score is missing or not finite, or the
            folder holds another run.
        TrainingDivergedError: If loss or gradient is not finite; the last weights are kept.
        CheckpointError: If a checkpoint cannot be written or read.
        OSError: If the folder cannot be used; FileExistsError if another process trains in it.
    """
    from tqdm.auto import tqdm

    encoded = read_prompts(actor.policy, tokenizer, prompts, config.max_new_tokens)
    # Dropout stays off: with it, the policy would not be the one that sampled, even unchanged.
    actor.eval()
    batches = prompt_batches(len(prompts), config)
    show = {"leave": False, "unit": "update", "disable": not config.show_progress}
    with (
        Progress(actor, config, facts_of_prompts(*encoded)) as run,
        tqdm(total=config.n_updates, initial=run.updates_done, **show) as bar,
    ):
        for indices in itertools.islice(batches, run.updates_done, config.n_updates):
            start, kl_coef, asked = time.perf_counter(), run.kl_coef, [prompts[i] for i in indices]
            # 1. Answers, and one score for each.
            rollout = roll_out(actor, tokenizer, asked, reward, config, run.generator)
            # 2. and 3. Rewards and advantages, for each token.
            experience = weigh(rollout, kl_coef, config)
            # 4. Several passes over them, an optimizer step a minibatch.
            steps = []
            for _ in range(config.n_epochs):
                for rows in shuffled(len(asked), run.generator).split(config.minibatch_size):
                    loss, measured = minibatch_loss(actor, rollout, experience, rows, config)
                    take_step(loss, run.optimizer, config)
                    steps.append(measured)
            ends = end_tokens(actor.policy, tokenizer)
            metrics = summary(rollout, experience, steps, kl_coef, ends)
            run.kl_coef = next_kl_coef(kl_coef, metrics["objective/kl"], config.target_kl)
            run.record(metrics, time.perf_counter() - start)
            bar.update()
            bar.set_postfix_str(f"score {metrics['objective/scores']:.2f}", refresh=False)
            if on_update:
                on_update(run.updates_done, metrics, rollout)
            run.save()
    samples = config.n_updates * config.batch_size
    return PPOResult(
        history=run.history,
        seconds=run.seconds,
        samples_per_second=samples / max(run.seconds, 1e-9),
    )


def minibatch_loss(
    actor: ActorCritic, rollout: Rollout, experience: Experience, rows: Tensor, config: PPOConfig
) -> tuple[Tensor, Metrics]:
    """Return the loss of some answers, with its gradient, and what is measured on the way."""
    responses, mask = rollout.responses[rows], rollout.response_mask[rows]
    logits, values = actor(
        rollout.sequences[rows, :-1], rollout.attention_mask[rows, :-1], last=responses.shape[1]
    )
    policy = clipped_policy_loss(
        selected_logprobs(logits, responses, config.temperature),
        rollout.logprobs[rows],
        experience.advantages[rows],
        mask,
        config.clip_range,
    )
    value = clipped_value_loss(
        values,
        rollout.values[rows],
        experience.returns[rows],
        experience.value_mask[rows],
        config.value_clip_range,
    )
    measured = {
        "policy/approxkl_avg": policy.approx_kl,
        "policy/clipfrac_avg": policy.clip_fraction,
        "loss/policy_avg": policy.loss,
        "loss/value_avg": value.loss,
        "val/clipfrac_avg": value.clip_fraction,
        "policy/entropy_avg": masked_mean(entropy(logits.detach() / config.temperature), mask),
        "val/ratio": policy.ratio,
    }
    return policy.loss + config.vf_coef * value.loss, {k: v.item() for k, v in measured.items()}


def take_step(
    loss: Tensor, optimizer: torch.optim.Optimizer, config: PPOConfig | GRPOConfig
) -> None:
    """Follow the gradient of a loss, cut to the longest norm allowed.

    Raises:
        TrainingDivergedError: If loss or gradient is not finite; no weight has changed then.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
    if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
        optimizer.zero_grad()
        raise TrainingDivergedError(
            f"the loss is {loss.item()} and its gradient's norm {norm.item()}: lower "
            f"learning_rate={config.learning_rate:g}, or raise kl_coef={config.kl_coef:g}"
        )
    optimizer.step()
    optimizer.zero_grad()


def summary(
    rollout: Rollout,
    experience: Experience,
    steps: Sequence[Metrics],
    kl_coef: float,
    eos_token_id: int | Sequence[int],
) -> Metrics:
    """Return the metrics of an update by TRL's names; ``objective`` is per answer, in nats."""
    kl = experience.kl.sum(dim=1).mean().item()
    scores = rollout.scores.mean().item()
    averages = {name: fmean(step[name] for step in steps) for name in steps[0]}
    ratios = torch.tensor([step["val/ratio"] for step in steps])
    return {
        "objective/kl": kl,
        "objective/entropy": -rollout.logprobs.sum(dim=1).mean().item(),
        "objective/non_score_reward": -kl_coef * kl,
        "objective/rlhf_reward": scores - kl_coef * kl,
        "objective/scores": scores,
        "objective/kl_coef": kl_coef,
        **averages,
        "val/ratio_var": ratios.var().item() if len(ratios) > 1 else 0.0,
        "val/num_eos_tokens": (is_end(rollout.responses, eos_token_id) & rollout.response_mask)
        .sum()
        .item(),
    }


def facts_of_prompts(input_ids: Tensor, attention_mask: Tensor) -> dict[str, Facts]:
    """Return what tells the prompts of a run from others."""
    rows = [ids[m.bool()].tolist() for ids, m in zip(input_ids, attention_mask, strict=True)]
    return {"prompts": {"number": str(len(rows)), "contents": sha256_of(repr(rows))[:16]}}


def prompt_batches(n_prompts: int, config: PPOConfig) -> Iterator[list[int]]:
    """Return the prompts of each update without end: each epoch all of them, in a new order.

    The order is a function of the seed alone, which is what lets a killed run resume exactly.
    """
    return endless_batches(n_prompts, config.batch_size, config.seed)


def endless_batches(n_prompts: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield so many prompts at a time, as ``prompt_batches`` does."""
    epochs = (
        random.Random(f"{seed}-{epoch}").sample(range(n_prompts), n_prompts)
        for epoch in itertools.count()
    )
    endless = itertools.chain.from_iterable(epochs)
    while True:
        yield list(itertools.islice(endless, size))


def shuffled(n: int, generator: torch.Generator) -> Tensor:
    """Return 0..n-1 in a random order, (n,)."""
    return torch.randperm(n, generator=generator, device=generator.device)
