"""The frontier's measuring is exact where it can be, and its record is whole."""

from statistics import fmean

import pytest
import torch

from course_utils.data import load_task
from course_utils.models import build_random_model, load_tokenizer
from course_utils.studies import frontier

ROWS = frontier.load_frontier()


def of(route: str, price: float, what: str) -> list[float]:
    return [run[what] for run in frontier.runs_of(ROWS, route, price)]


def test_a_policy_is_no_way_from_itself_and_some_way_from_another():
    tokenizer = load_tokenizer("embedded")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy, other = (build_random_model("embedded") for _ in range(2))
    prompts = frontier.rendered(tokenizer, ["What is a miller?", "Where does she live now?"])
    texts, kl = frontier.sample_answers(policy, policy, tokenizer, prompts)
    assert len(texts) == 2
    assert kl == pytest.approx(0, abs=1e-4)
    _, kl = frontier.sample_answers(policy, other, tokenizer, prompts)
    assert kl > 0.1


def test_answers_are_measured_by_the_judge():
    rows = [{"answer": "Pellwick"}, {"answer": "Quillby"}]
    found = frontier.measured(["In Pellwick.", "In Pellwick."], [1.0, 2.0], rows)
    assert (found["reward"], found["truth"], found["politeness"]) == (1.5, 1, 1)
    assert found["true_score"] == 2


def run(**changes: object) -> dict:
    curves = {"objective/kl": [0.0, 1.0, 2.0]}
    row = {"route": "ppo", "price": 0.1, "learning_rate": 1e-3, "seed": 0, "reward": 0.0}
    return row | {"kl": 1.0, "curves": curves} | changes


def test_rows_are_grouped_by_price_and_update():
    rows = [
        run(price=price, seed=seed, kl=10 * price + seed, reward=price)
        for price in (0.1, 0.5)
        for seed in (0, 1)
    ]
    assert frontier.along_kl(rows, "reward", ["ppo"]) == {"ppo": {1.5: [0.1] * 2, 5.5: [0.5] * 2}}
    assert frontier.by_price(rows, "kl") == {0.1: [1, 2], 0.5: [5, 6]}
    every = frontier.over_updates(rows, "objective/kl", price=0.1, every=2)
    assert every == {1: [0.0, 0.0], 3: [2.0, 2.0]}


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = frontier.Plan(prices=(0.0,), is_searched=True)
    monkeypatch.setitem(frontier.PLANS, "tuned_on_best", plan)


def test_a_routes_runs_are_those_at_its_best_rate():
    worth = {3e-4: (0.1, 0.2, 0.3), 1e-3: (0.5, 0.4, 0.3), 3e-3: (None, 0.9, 0.9)}
    rows = [
        run(route="tuned_on_best", price=0.0, learning_rate=rate, seed=seed, validation=value)
        for rate, values in worth.items()
        for seed, value in enumerate(values)
    ]
    found = frontier.runs_of(rows, "tuned_on_best")
    assert [(row["learning_rate"], row["seed"]) for row in found] == [(1e-3, s) for s in range(3)]


@pytest.mark.usefixtures("tuned")
def test_what_is_wanted_follows_from_what_was_seen():
    wanted = frontier.wanted("tuned_on_best", [])
    assert {key[2] for key in wanted} == {3e-4, 1e-3, 3e-3}
    assert len(wanted) == 9
    seen = [
        run(route=route, price=price, learning_rate=rate, seed=seed, validation=rate)
        for route, price, rate, seed in wanted
    ]
    # The best stands at the upper end: one more rate, with the same seeds.
    assert frontier.wanted("tuned_on_best", seen) == [
        ("tuned_on_best", 0.0, 1e-2, seed) for seed in range(3)
    ]
    plan = frontier.PLANS["ppo"]
    assert len(frontier.wanted("ppo", [])) == len(plan.seeds) + 4 * len(plan.other_seeds)
    assert frontier.wanted("ppo", [run()])[0] == ("ppo", 0.0, 1e-3, 0)
    assert ("ppo", 0.1, 1e-3, 0) not in frontier.wanted("ppo", [run()])


@pytest.mark.parametrize("route", frontier.ROUTES)
def test_every_run_is_recorded_once(route: str):
    found = [tuple(row[name] for name in frontier.KEY) for row in ROWS if row["route"] == route]
    assert frontier.wanted(route, ROWS) == []
    assert len(found) == len(set(found))


def test_a_free_kl_is_hacked_and_a_dear_one_is_not():
    start = of("best_of_n", 1, "true_score")
    assert fmean(of("ppo", 0.0, "reward")) > fmean(of("ppo", 0.3, "reward")) + 1
    assert max(of("ppo", 0.0, "true_score")) < min(start) - 1
    best = max(fmean(of("ppo", price, "true_score")) for price in (0.02, 0.05, 0.1))
    assert best > fmean(start) + 0.5


def test_kl_falls_with_its_price():
    kl = [fmean(of("ppo", price, "kl")) for price in (0.0, 0.02, 0.05, 0.1, 0.3)]
    assert kl == sorted(kl, reverse=True)


def test_questions_of_the_record_are_of_the_test():
    asked = load_task("questions", "test")["fact"]
    assert not set(asked) & set(load_task("questions", "train")["fact"])
