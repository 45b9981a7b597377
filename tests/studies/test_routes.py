"""The routes' own parts: who is sampled and ranked, what rewards say, where runs happen."""

from dataclasses import replace

import pytest
import torch

from course_utils.data import load_task
from course_utils.studies import routes
from course_utils.studies.place import embedded_on

SMALL = replace(
    routes.CONFIG, n_updates=1, batch_size=4, minibatch_size=4, n_epochs=1, max_new_tokens=6
)


@pytest.fixture(autouse=True)
def few_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "N_ASKED", 4)
    monkeypatch.setattr(routes, "MAX_NEW_TOKENS", 6)
    monkeypatch.setattr(routes, "STEPS", 1)


@pytest.fixture(scope="module")
def start() -> routes.Start:
    return routes.fresh_start(0)


def test_answers_to_a_question_are_ranked_by_the_reward(start: routes.Start):
    groups = routes.sampled_groups(start, seed=0)
    assert len(groups) == 4
    for group in groups:
        assert len(group.texts) == routes.GROUP_SIZE
        assert sorted(group.places) == list(range(routes.GROUP_SIZE))
        prompts = routes.rendered(start.tokenizer, [group.question] * routes.GROUP_SIZE)
        scores = start.reward(prompts, group.texts)[group.places].tolist()
        assert scores == sorted(scores, reverse=True)
    again = routes.sampled_groups(start, seed=0)
    assert again == groups
    assert routes.sampled_groups(start, seed=1) != groups


def test_the_judge_as_a_reward_knows_the_answer(start: routes.Start):
    row = load_task("questions", "train")[0]
    (prompt,) = routes.rendered(start.tokenizer, [row["question"]])
    right, wrong = routes.judge_as_reward(start)([prompt] * 2, [row["answer"], "A wrong thing."])
    pairs = load_task("preferences", "validation").select(range(100))
    std = torch.tensor([*pairs["chosen_score"], *pairs["rejected_score"]]).std().item()
    assert right - wrong == pytest.approx(2 / std)


@pytest.mark.parametrize("route", ["tuned_on_best", "tuned_on_any", "ppo_like_trl"])
def test_a_route_moves_the_policy_alone(route: str):
    start = routes.fresh_start(0)
    kept = {name: p.clone() for name, p in start.reference.named_parameters()}
    policy, history = routes.TRAINERS[route](start, SMALL)
    trained = {n: p for n, p in policy.named_parameters() if p.requires_grad}
    assert any(p.abs().sum() > 0 for n, p in trained.items() if n.endswith(".B"))
    assert len(history) == (route == "ppo_like_trl")
    for name, parameter in start.reference.named_parameters():
        torch.testing.assert_close(parameter, kept[name], rtol=0, atol=0)


def test_tuning_on_the_best_and_on_any_differ_in_the_answers_alone(
    monkeypatch: pytest.MonkeyPatch, start: routes.Start
):
    seen = []
    monkeypatch.setattr(routes, "train", lambda _, examples, how: seen.append((examples, how)))
    for route in ("tuned_on_best", "tuned_on_any"):
        routes.TRAINERS[route](routes.fresh_start(0), SMALL)
    (best, how), (any_, same) = seen
    assert how == same
    assert how.learning_rate == SMALL.learning_rate
    groups = routes.sampled_groups(start, SMALL.seed)
    chosen = [group.texts[group.places[0]] for group in groups]
    for example, text in zip(best, chosen, strict=True):
        assert text.strip() in start.tokenizer.decode(example["input_ids"])
    assert len(any_) == len(best)
    assert any_ != best


def test_a_place_is_a_processor_or_a_card():
    assert embedded_on("cpu").device == "cpu"
    card = embedded_on("cuda")
    assert (card.device, card.model, card.dtype) == ("cuda", "embedded", "float32")
    with pytest.raises(ValueError, match="device='tpu'"):
        embedded_on("tpu")
