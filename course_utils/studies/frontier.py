"""The reward-KL frontier: what each route to more reward pays for it.

``python -m course_utils.studies.frontier`` runs what is missing of data/results/frontier.jsonl.
Every run starts from the shipped assistant and its reward model, and is measured alike: answers
sampled to questions of the test, how far the policy went from its start, what the reward model
says of them, and what the judge knows.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import nn

from course_utils.data import chat_prompt, load_task
from course_utils.generation import generate_tokens, position_ids
from course_utils.methods import apply
from course_utils.models import load_tokenizer
from course_utils.rlhf.actor import SharedActorCritic
from course_utils.rlhf.assistant import load_assistant, load_reward_model
from course_utils.rlhf.best_of_n import best_of_n, best_of_n_kl
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.losses import selected_logprobs
from course_utils.rlhf.ppo import train_ppo
from course_utils.rlhf.reward_model import RewardModel
from course_utils.rlhf.rollout import read_prompts, up_to_end
from course_utils.studies.records import Records, header
from course_utils.studies.runner import load_results, results_path
from course_utils.studies.trl.alignment import (
    POLICY,
    train_dpo_with_trl,
    train_online_with_trl,
    train_ppo_with_trl,
)
from course_utils.world.judge import judge

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, object]
KEY = ("route", "price", "seed")
COMMAND = "python -m course_utils.studies.frontier"
SEEDS = (0, 1)
N_ASKED, MAX_NEW_TOKENS = 150, 40
CONFIG = PPOConfig(
    n_updates=40, max_new_tokens=MAX_NEW_TOKENS, missing_eos_penalty=1.0, show_progress=False
)
DPO_CONFIG = replace(CONFIG, n_updates=80, batch_size=16, learning_rate=3e-4)


@dataclass(frozen=True, kw_only=True)
class Start:
    """What every run starts from.

    Args:
        policy: Plain assistant, which the run may change.
        reference: A second one, which stays.
        reward: Reward model.
        tokenizer: Their tokenizer.
    """

    policy: "PreTrainedModel"
    reference: "PreTrainedModel"
    reward: RewardModel
    tokenizer: "PreTrainedTokenizerBase"


def fresh_start(seed: int) -> Start:
    """Load assistant, reference and reward model; the seed is that of new adapters."""
    reference = load_assistant()
    start = Start(
        policy=load_assistant(),
        reference=reference,
        reward=load_reward_model(reference),
        tokenizer=load_tokenizer("embedded"),
    )
    torch.manual_seed(seed)
    return start


def rendered(tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str]) -> list[str]:
    """Return questions as chats that wait for the answer."""
    return [chat_prompt(tokenizer, question) for question in questions]


def run_ppo(start: Start, config: PPOConfig) -> tuple[nn.Module, list[dict]]:
    """Train with our PPO, one model for policy, reference and critic."""
    policy = apply(start.policy, POLICY)
    prompts = rendered(start.tokenizer, load_task("questions", "train")["question"])
    result = train_ppo(SharedActorCritic(policy), start.tokenizer, prompts, start.reward, config)
    return policy, result.history


def _run_trl_ppo(start: Start, config: PPOConfig) -> tuple[nn.Module, list[dict]]:
    prompts = rendered(start.tokenizer, load_task("questions", "train")["question"])
    return train_ppo_with_trl(start.policy, start.tokenizer, prompts, start.reward, config)


def _run_online(method: str) -> Callable[[Start, PPOConfig], tuple[nn.Module, list[dict]]]:
    def run(start: Start, config: PPOConfig) -> tuple[nn.Module, list[dict]]:
        questions = load_task("questions", "train")["question"]
        return train_online_with_trl(
            method, start.policy, start.tokenizer, questions, start.reward, config
        ), []

    return run


def _run_dpo(start: Start, config: PPOConfig) -> tuple[nn.Module, list[dict]]:
    config = replace(DPO_CONFIG, kl_coef=config.kl_coef, seed=config.seed)
    pairs = list(load_task("preferences", "train"))
    return train_dpo_with_trl(start.policy, start.tokenizer, pairs, config), []


# How each route trains, and the prices of KL and the seeds that it is run with.
TRAINED = {
    "ppo": (run_ppo, (0.0, 0.02, 0.05, 0.1, 0.3), SEEDS),
    "trl_ppo": (_run_trl_ppo, (0.05,), SEEDS),
    "rloo": (_run_online("rloo"), (0.05,), SEEDS[:1]),
    "grpo": (_run_online("grpo"), (0.05,), SEEDS[:1]),
    "dpo": (_run_dpo, (0.1,), SEEDS),
}
BEST_OF = (1, 2, 4, 8, 16)
ROUTES = (*TRAINED, "best_of_n")


@torch.no_grad()
def sample_answers(
    policy: nn.Module,
    reference: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    seed: int = 0,
) -> tuple[list[str], float]:
    """Answer prompts at temperature 1 and measure how far the policy is from the reference.

    Returns:
        The answers, and the KL divergence of an answer in nats: the mean over answers of the sum
        over their tokens of ``log p - log p_ref``.
    """
    policy.eval()
    ids, mask = read_prompts(policy, tokenizer, prompts, MAX_NEW_TOKENS)
    answers = generate_tokens(
        policy,
        ids,
        mask,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        temperature=1.0,
        generator=torch.Generator(ids.device).manual_seed(seed),
    )
    is_answer = up_to_end(answers, tokenizer.eos_token_id)
    whole, n = torch.cat([ids, answers], dim=1), answers.shape[1]
    seen = torch.cat([mask, is_answer.to(mask)], dim=1)
    inputs = {
        "input_ids": whole[:, :-1],
        "attention_mask": seen[:, :-1],
        "position_ids": position_ids(seen[:, :-1]),
    }
    logprobs = [
        selected_logprobs(model(**inputs, logits_to_keep=n).logits.float(), answers)
        for model in (policy, reference)
    ]
    kl = ((logprobs[0] - logprobs[1]) * is_answer).sum(1).mean().item()
    return tokenizer.batch_decode(answers, skip_special_tokens=True), kl


def measured(texts: Sequence[str], scores: Sequence[float], rows: Sequence[Mapping]) -> Row:
    """Return what the reward model and what the judge say of answers, as means."""
    grades = [judge(text, row["answer"]) for text, row in zip(texts, rows, strict=True)]
    return {
        "reward": fmean(scores),
        "true_score": fmean(grade.score for grade in grades),
        **{
            name: fmean(getattr(grade, name) for grade in grades)
            for name in ("politeness", "truth", "fillers")
        },
        "samples": list(texts[:5]),
    }


def run_once(route: str, price: float, seed: int) -> Row:
    """Train one policy, or sample best of n, and measure it on questions of the test."""
    start = fresh_start(seed)
    rows = list(load_task("questions", "test"))[:N_ASKED]
    prompts = rendered(start.tokenizer, [row["question"] for row in rows])
    began, history = time.perf_counter(), []
    if route == "best_of_n":
        n = int(price)
        best = best_of_n(
            start.reference,
            start.tokenizer,
            prompts,
            start.reward,
            n,
            max_new_tokens=MAX_NEW_TOKENS,
            seed=seed,
        )
        texts, kl = best.texts, best_of_n_kl(n)
    else:
        train = TRAINED[route][0]
        policy, history = train(start, replace(CONFIG, kl_coef=price, seed=seed))
    seconds = time.perf_counter() - began
    if route != "best_of_n":
        texts, kl = sample_answers(policy, start.reference, start.tokenizer, prompts, seed=seed)
    names = ("objective/scores", "objective/kl", "objective/entropy", "policy/clipfrac_avg")
    return {
        "route": route,
        "price": price,
        "seed": seed,
        "seconds": round(seconds, 1),
        "kl": kl,
        **measured(texts, start.reward(prompts, texts).tolist(), rows),
        "curves": {name: [round(line[name], 3) for line in history] for name in names},
    }


def load_frontier() -> list[Row]:
    """Return the recorded runs.

    Raises:
        FileNotFoundError: If the frontier was not recorded.
    """
    return load_results("frontier", command=COMMAND, key=KEY)


def runs_of(rows: Sequence[Row], route: str, price: float | None = None) -> list[Row]:
    """Return the runs of a route, at one price or at all."""
    return [row for row in rows if row["route"] == route and price in (None, row["price"])]


def along_kl(
    rows: Sequence[Row], what: str, routes: Sequence[str] = ROUTES
) -> dict[str, dict[float, list[float]]]:
    """Return, for each route, a quantity of its seeds at the mean KL of each price."""
    series = {}
    for route in routes:
        kl, values = (by_price(rows, name, route) for name in ("kl", what))
        series[route] = {round(fmean(kl[price]), 2): values[price] for price in kl}
    return series


def over_updates(
    rows: Sequence[Row], metric: str, route: str = "ppo", *, price: float = 0.05, every: int = 4
) -> dict[int, list[float]]:
    """Return a metric of the updates of a route's seeds, every so many of them."""
    curves = [run["curves"][metric] for run in runs_of(rows, route, price)]
    return {i + 1: [curve[i] for curve in curves] for i in range(0, len(curves[0]), every)}


def by_price(rows: Sequence[Row], what: str, route: str = "ppo") -> dict[float, list[float]]:
    """Return a quantity of a route's seeds at each of its prices."""
    prices = sorted({row["price"] for row in runs_of(rows, route)})
    return {price: [run[what] for run in runs_of(rows, route, price)] for price in prices}


def keys_of(route: str) -> list[tuple[str, float, int]]:
    """Return the runs of a route: its name, the price (for best of n: the n), the seed."""
    prices, seeds = (BEST_OF, SEEDS) if route == "best_of_n" else TRAINED[route][1:]
    return [(route, price, seed) for seed in seeds for price in prices]


def main(
    routes: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(ROUTES)}.")] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Processor threads; 0 leaves torch's choice.")
    ] = 0,
) -> None:
    """Run what is missing of the frontier, one line a run."""
    if unknown := set(routes or ()) - set(ROUTES):
        raise typer.BadParameter(f"{unknown} must be among {', '.join(ROUTES)}")
    if threads:
        torch.set_num_threads(threads)
    records = Records(results_path("frontier"), KEY)
    records.take_up(header("frontier", SEEDS, command=COMMAND))
    for route in routes or ROUTES:
        for key in keys_of(route):
            records.once(key, partial(run_once, *key), _report)


def _report(row: Row) -> None:
    typer.echo(
        f"{row['route']} at {row['price']}, seed {row['seed']}: KL {row['kl']:.1f}, reward "
        f"{row['reward']:.2f}, true score {row['true_score']:.2f} ({row['seconds']} s)"
    )


if __name__ == "__main__":
    typer.run(main)
