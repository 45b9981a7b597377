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


def test_rows_are_grouped_by_price_and_update():
    curves = {"objective/kl": [0.0, 1.0, 2.0]}
    rows = [
        {
            "route": "ppo",
            "price": price,
            "seed": seed,
            "kl": 10 * price + seed,
            "reward": price,
            "curves": curves,
        }
        for price in (0.1, 0.5)
        for seed in (0, 1)
    ]
    assert frontier.along_kl(rows, "reward", ["ppo"]) == {"ppo": {1.5: [0.1] * 2, 5.5: [0.5] * 2}}
    assert frontier.by_price(rows, "kl") == {0.1: [1, 2], 0.5: [5, 6]}
    every = frontier.over_updates(rows, "objective/kl", price=0.1, every=2)
    assert every == {1: [0.0, 0.0], 3: [2.0, 2.0]}


@pytest.mark.parametrize("route", frontier.ROUTES)
def test_every_run_is_recorded_once(route: str):
    found = [(row["route"], row["price"], row["seed"]) for row in ROWS if row["route"] == route]
    assert sorted(found) == sorted(frontier.keys_of(route))


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
