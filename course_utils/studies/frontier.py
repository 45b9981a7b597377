"""The reward-KL frontier: what each route to more reward pays for it.

``python -m course_utils.studies.frontier`` runs what is missing of data/results/frontier.jsonl.
Every run starts from the shipped assistant and its reward model, and is measured alike: answers
sampled to questions of the test, how far the policy went from its start, what the reward model
says of them, and what the judge knows. Where a route's learning rate is searched for, as in
``tuning``, the best is the one whose reward, less the headline's price of its KL, is highest on
questions that are not reported.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import torch
import typer
from torch import nn

from course_utils.data import load_task
from course_utils.generation import generate_tokens, position_ids
from course_utils.rlhf.best_of_n import best_of_n, best_of_n_kl
from course_utils.rlhf.losses import selected_logprobs
from course_utils.rlhf.rollout import read_prompts, up_to_end
from course_utils.studies.records import Records, header
from course_utils.studies.routes import (
    CONFIG,
    MAX_NEW_TOKENS,
    TRAINERS,
    Start,
    fresh_start,
    rendered,
)
from course_utils.studies.runner import load_results, path_to_record
from course_utils.studies.tuning import TUNING_SEEDS, best_rate, untried, validation_of
from course_utils.training import TrainingDivergedError
from course_utils.world.judge import judge

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row = dict[str, object]
Key = tuple[str, float, float, int]
KEY = ("route", "price", "learning_rate", "seed")
COMMAND = "python -m course_utils.studies.frontier"
N_ASKED = 150
HEADLINE = 0.05
PRICES = (0.02, HEADLINE, 0.1, 0.3)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a route is run with.

    Args:
        prices: Prices of a nat of KL; for DPO its beta, for best of n the n.
        rate: The learning rate; with ``is_searched``, where the search for it begins.
        is_searched: Whether every price has the best of several rates.
        seeds: Seeds at the headline's price, and of a route that has one price.
        other_seeds: Seeds at the other prices.
    """

    prices: tuple[float, ...] = (HEADLINE,)
    rate: float = 1e-3
    is_searched: bool = False
    seeds: tuple[int, ...] = TUNING_SEEDS
    other_seeds: tuple[int, ...] = TUNING_SEEDS


# What is recorded; no route's rate has been searched for yet. `routes.TRAINERS` has more of them.
PLANS = {
    "ppo": Plan(prices=(0.0, *PRICES), seeds=(0, 1, 2, 3, 4)),
    "reinforce": Plan(prices=(HEADLINE, 0.1)),
    "trl_ppo": Plan(seeds=(0, 1)),
    "rloo": Plan(),
    "grpo": Plan(),
    "dpo": Plan(prices=(0.1,), rate=3e-4, seeds=(0, 1)),
    "ppo_on_judge": Plan(prices=(0.0, HEADLINE)),
    "ppo_like_trl": Plan(seeds=(0, 1)),
    "best_of_n": Plan(prices=(1, 2, 4, 8, 16), rate=0.0, other_seeds=(0, 1)),
}
ROUTES = tuple(PLANS)


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


def run_once(
    route: str, price: float, learning_rate: float, seed: int, *, device: str = "cpu"
) -> Row:
    """Train one policy, or sample best of n, and measure it on questions of the test.

    Returns:
        The row: what was run, ``validation`` (reward less the headline's price of the KL, on the
        other half of the questions) and what :func:`measured` says; of a run that diverged, when.
    """
    start, asked = fresh_start(seed, device), list(load_task("questions", "test"))
    rows, others = asked[:N_ASKED], asked[N_ASKED : 2 * N_ASKED]
    key = dict(zip(KEY, (route, price, learning_rate, seed), strict=True))
    began = time.perf_counter()
    if route == "best_of_n":
        texts, kl = _best_of(start, rows, int(price), seed), best_of_n_kl(int(price))
        return key | {"seconds": _since(began), **_measured(start, texts, kl, rows)}
    config = replace(CONFIG, kl_coef=price, learning_rate=learning_rate or CONFIG.learning_rate)
    try:
        policy, history = TRAINERS[route](start, replace(config, seed=seed))
    except TrainingDivergedError as error:
        return key | {"validation": None, "diverged": str(error)}
    seconds = _since(began)
    answer = partial(sample_answers, policy, start.reference, start.tokenizer, seed=seed)
    texts, kl = answer(_prompts(start, others))
    rewards = start.reward(_prompts(start, others), texts).tolist()
    names = ("objective/scores", "objective/kl", "objective/entropy", "policy/clipfrac_avg")
    return {
        **key,
        "seconds": seconds,
        "validation": fmean(rewards) - HEADLINE * kl,
        **_measured(start, *answer(_prompts(start, rows)), rows),
        "curves": {name: [round(line[name], 3) for line in history] for name in names},
    }


def _prompts(start: Start, rows: Sequence[Mapping]) -> list[str]:
    return rendered(start.tokenizer, [row["question"] for row in rows])


def _measured(start: Start, texts: list[str], kl: float, rows: Sequence[Mapping]) -> Row:
    scores = start.reward(_prompts(start, rows), texts).tolist()
    return {"kl": kl, **measured(texts, scores, rows)}


def _best_of(start: Start, rows: Sequence[Mapping], n: int, seed: int) -> list[str]:
    given = start.reference, start.tokenizer, _prompts(start, rows), start.reward, n
    return best_of_n(*given, max_new_tokens=MAX_NEW_TOKENS, seed=seed).texts


def _since(began: float) -> float:
    return round(time.perf_counter() - began, 1)


def wanted(route: str, rows: Sequence[Row]) -> list[Key]:
    """Return the runs of a route that are known to be needed and are not there yet.

    A search decides by what it has seen what comes next, so the list is asked for again when all
    of it is done; it is empty at the end.
    """
    plan, done = PLANS[route], _by_rate(rows, route)
    needed: list[Key] = []
    for price in plan.prices:
        rate: float | None = plan.rate
        if plan.is_searched:
            scores = {
                rate: fmean(by_seed[seed] for seed in TUNING_SEEDS)
                for rate, by_seed in done[price].items()
                if set(TUNING_SEEDS) <= set(by_seed)
            }
            rates = untried(plan.rate, scores)
            needed += [(route, price, rate, seed) for rate in rates for seed in TUNING_SEEDS]
            rate = None if rates else best_rate(scores)
        if rate is not None:
            is_headline = price == HEADLINE or len(plan.prices) == 1
            seeds = plan.seeds if is_headline else plan.other_seeds
            needed += [(route, price, rate, seed) for seed in seeds]
    return [key for key in needed if key[3] not in done[key[1]].get(key[2], {})]


def _by_rate(rows: Sequence[Row], route: str) -> defaultdict[float, dict[float, dict[int, float]]]:
    """Return the score on validation data by price, learning rate and seed."""
    found: defaultdict = defaultdict(dict)
    for row in rows:
        if row["route"] == route:
            score = validation_of(row) if "validation" in row else 0.0
            found[row["price"]].setdefault(row["learning_rate"], {})[row["seed"]] = score
    return found


def load_frontier() -> list[Row]:
    """Return the recorded runs.

    Raises:
        FileNotFoundError: If the frontier was not recorded.
    """
    return load_results("frontier", command=COMMAND, key=KEY)


def chosen_rate(rows: Sequence[Row], route: str, price: float) -> float:
    """Return the learning rate of a route at a price: the best of those that were tried."""
    tried = _by_rate(rows, route)[price]
    common = set.intersection(*(set(by_seed) for by_seed in tried.values()))
    return best_rate({rate: fmean(by_seed[s] for s in common) for rate, by_seed in tried.items()})


def runs_of(rows: Sequence[Row], route: str, price: float | None = None) -> list[Row]:
    """Return the runs of a route at its chosen rates, at one price or at all, by seed."""
    prices = sorted({row["price"] for row in rows if row["route"] == route})
    at = {(p, chosen_rate(rows, route, p)) for p in prices if price in (None, p)}
    found = [r for r in rows if r["route"] == route and (r["price"], r["learning_rate"]) in at]
    return sorted(found, key=lambda row: (row["price"], row["seed"]))


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
    rows: Sequence[Row], metric: str, route: str = "ppo", *, price: float = HEADLINE, every: int = 4
) -> dict[int, list[float]]:
    """Return a metric of the updates of a route's seeds, every so many of them."""
    curves = [run["curves"][metric] for run in runs_of(rows, route, price)]
    return {i + 1: [curve[i] for curve in curves] for i in range(0, len(curves[0]), every)}


def by_price(rows: Sequence[Row], what: str, route: str = "ppo") -> dict[float, list[float]]:
    """Return a quantity of a route's seeds at each of its prices."""
    prices = sorted({row["price"] for row in runs_of(rows, route)})
    return {price: [run[what] for run in runs_of(rows, route, price)] for price in prices}


def main(
    routes: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(ROUTES)}.")] = None,
    threads: Annotated[
        int, typer.Option(min=0, help="Processor threads; 0 leaves torch's choice.")
    ] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Run what is missing of the frontier, one line a run."""
    if unknown := set(routes or ()) - set(ROUTES):
        raise typer.BadParameter(f"{unknown} must be among {', '.join(ROUTES)}")
    if threads:
        torch.set_num_threads(threads)
    records = Records(path_to_record("frontier"), KEY)
    records.take_up(header("frontier", TUNING_SEEDS, command=COMMAND, device=device))
    for route in routes or ROUTES:
        while keys := wanted(route, records.rows):
            for key in keys:
                records.once(key, partial(run_once, *key, device=device), _report)


def _report(row: Row) -> None:
    what = f"{row['route']} at {row['price']}, rate {row['learning_rate']:g}, seed {row['seed']}: "
    if "kl" not in row:
        typer.echo(what + str(row["diverged"]))
        return
    typer.echo(
        f"{what}KL {row['kl']:.1f}, reward {row['reward']:.2f}, true score "
        f"{row['true_score']:.2f} ({row['seconds']} s)"
    )


if __name__ == "__main__":
    typer.run(main)
