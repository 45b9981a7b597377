import math
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.rlhf.actor import Actor, SeparateActor, SharedActor, SharedActorCritic
from course_utils.rlhf.checkable import CheckableReward, Problem, partial_credit
from course_utils.rlhf.config import GRPOConfig, GRPOResult
from course_utils.rlhf.grpo import minibatch_loss, reward_answers, train_grpo
from course_utils.rlhf.ppo import endless_batches
from course_utils.rlhf.rollout import Rollout, joined, roll_out, rows_of, sample_groups
from course_utils.rlhf.variants import DAPO, DR_GRPO, GRPO, REINFORCE, RLOO, Variant
from tests.rlhf.tiny_actors import (
    PROMPTS,
    count_words,
    disturb,
    tiny_policy,
    word_tokenizer,
)

VARIANTS = (GRPO, DR_GRPO, DAPO, RLOO, REINFORCE)
EVERY = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
METRICS = {
    "objective/scores",
    "objective/rlhf_reward",
    "objective/entropy",
    "reward_std",
    "frac_reward_zero_std",
    "completions/mean_length",
    "completions/clipped_ratio",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "policy/entropy_avg",
    "loss/policy_avg",
    "val/ratio",
    "sampling/rounds",
    "lr",
    "episode",
}


def alone() -> Actor:
    return Actor(shared().policy).eval()


def shared(seed: int = 0) -> SharedActor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SharedActor(apply(tiny_policy(), LoRAConfig(rank=4, alpha=8))).eval()


def separate() -> SeparateActor:
    return SeparateActor(tiny_policy(), tiny_policy()).eval()


FORMS = {"shared": shared, "separate": separate}


def quick(**changes: object) -> GRPOConfig:
    return GRPOConfig(
        **{
            "n_updates": 3,
            "batch_size": 8,
            "group_size": 4,
            "minibatch_size": 4,
            "max_new_tokens": 6,
            "show_progress": False,
        }
        | changes
    )


def train(actor: Actor, config: GRPOConfig | None = None, reward=count_words, **options):
    return train_grpo(actor, word_tokenizer(), PROMPTS, reward, config or quick(), **options)


def has_w7(prompts: list[str], answers: list[str]) -> list[float]:
    return [float("w7" in answer.split()) for answer in answers]


def weights(actor: Actor) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in actor.parameters()]


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# The loop


@EVERY
def test_a_run_reports_every_update_and_moves_what_trains_alone(variant: Variant):
    calls, actor = [], shared().train()
    trained = {id(p) for p in actor.trainable_parameters()}
    before = weights(actor)
    result = train(
        actor,
        quick(variant=variant, n_epochs=2, learning_rate=1e-2),
        on_update=lambda *arguments: calls.append(arguments),
    )
    assert [set(metrics) for metrics in result.history] == [METRICS | {"objective/kl"}] * 3
    assert all(math.isfinite(x) for metrics in result.history for x in metrics.values())
    assert [metrics["episode"] for metrics in result.history] == [8, 16, 24]
    assert [(number, metrics) for number, metrics, _ in calls] == list(enumerate(result.history, 1))
    rounds = sum(metrics["sampling/rounds"] for metrics in result.history)
    assert result.n_sampled == 8 * rounds >= 24
    assert result.samples_per_second == pytest.approx(result.n_sampled / result.seconds)
    assert not actor.training
    for parameter, old in zip(actor.parameters(), before, strict=True):
        assert torch.equal(parameter, old) == (id(parameter) not in trained)


def test_the_metrics_are_what_the_rollout_says():
    seen, config = [], quick(variant=RLOO, kl_coef=0.1, learning_rate=1e-2)
    result = train(shared(), config, on_update=lambda *arguments: seen.append(arguments[2]))
    for metrics, rollout in zip(result.history, seen, strict=True):
        kl = (rollout.logprobs - rollout.reference_logprobs).sum(1).mean().item()
        score = sum(count_words(rollout.texts, rollout.texts)) / 8
        assert metrics["objective/scores"] == pytest.approx(score)
        assert metrics["objective/kl"] == pytest.approx(kl, abs=1e-6)
        assert metrics["objective/rlhf_reward"] == pytest.approx(score - 0.1 * kl, abs=1e-5)
        lengths = rollout.response_mask.sum(dim=1)
        assert metrics["completions/mean_length"] == pytest.approx(lengths.float().mean().item())
        ends = ((rollout.responses == 2) & rollout.response_mask).any(dim=1)
        assert metrics["completions/clipped_ratio"] == pytest.approx(1 - ends.float().mean().item())
        groups = rollout.scores.view(2, 4)
        assert metrics["reward_std"] == pytest.approx(groups.std(dim=1).mean().item(), abs=1e-6)


def test_answers_to_a_prompt_stand_together_and_every_prompt_has_its_turn():
    asked = []

    def reward(prompts: list[str], answers: list[str]) -> list[float]:
        asked.extend(prompts)
        return count_words(prompts, answers)

    train(alone(), quick(n_updates=4), reward)
    groups = [set(asked[i : i + 4]) for i in range(0, 32, 4)]
    assert all(len(group) == 1 for group in groups)
    assert sorted(chain.from_iterable(groups)) == sorted(PROMPTS)


@EVERY
@pytest.mark.parametrize("form", FORMS)
def test_a_word_that_is_rewarded_is_said_more_often(variant: Variant, form: str):
    config = quick(
        variant=variant, n_updates=10, batch_size=32, minibatch_size=16, learning_rate=2e-2
    )
    history = train(FORMS[form](), config, has_w7).history
    assert history[0]["objective/scores"] < 0.5
    assert history[-1]["objective/scores"] > 0.85


def test_a_checkable_reward_is_learnt():
    problem = {"kind": "copy", "level": 1, "instruction": "Say it."}
    asked = [Problem(**problem, input="", output="w7 w9") for _ in PROMPTS]
    reward = CheckableReward(PROMPTS, asked, partial_credit)
    config = quick(n_updates=15, batch_size=64, minibatch_size=64, learning_rate=1e-2)
    scores = [metrics["objective/scores"] for metrics in train(alone(), config, reward).history]
    assert sum(scores[-3:]) > 2 * sum(scores[:3]) > 0


@EVERY
def test_answers_that_all_score_alike_move_nothing(variant: Variant):
    actor = shared()
    before = weights(actor)
    history = train(
        actor, quick(variant=variant, n_epochs=2), lambda prompts, answers: [0.0] * len(answers)
    ).history
    assert are_equal(weights(actor), before)
    assert [metrics["frac_reward_zero_std"] for metrics in history] == [1] * 3
    assert all(math.isfinite(x) for metrics in history for x in metrics.values())


def test_a_reference_is_read_only_where_there_is_one():
    history = train(alone()).history
    assert [set(metrics) for metrics in history] == [METRICS] * 3
    with pytest.raises(ValueError, match=r"kl_coef=0.1 must be 0 without a reference"):
        train(alone(), quick(kl_coef=0.1))
    with pytest.raises(ValueError, match="Actor has no reference"):
        alone().reference_logits(torch.ones(1, 2, dtype=torch.long), torch.ones(1, 2))


@pytest.mark.parametrize("variant", [GRPO, RLOO], ids=["in the loss", "in the reward"])
def test_a_high_price_keeps_the_policy_where_it_was(variant: Variant):
    def far(kl_coef: float) -> float:
        config = quick(
            variant=variant, n_updates=10, batch_size=32, learning_rate=1e-2, kl_coef=kl_coef
        )
        return abs(train(shared(), config).history[-1]["objective/kl"])

    assert far(0.0) > 2 * far(2.0)


def test_any_actor_of_ppo_serves_too():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actor = SharedActorCritic(apply(tiny_policy(), LoRAConfig(rank=4, alpha=8)))
    assert train(actor).history == train(shared()).history


@EVERY
def test_an_update_of_one_step_need_not_read_its_answers_twice(variant: Variant, monkeypatch):
    def run() -> tuple[list[dict], list[Tensor]]:
        actor, seen = alone(), []
        config = quick(variant=variant, minibatch_size=8, learning_rate=1e-2)
        result = train(actor, config, on_update=lambda *a: seen.append(a[2].logprobs is None))
        return result.history, weights(actor), seen

    once = run()
    monkeypatch.setattr(GRPOConfig, "is_on_policy", False)
    twice = run()
    assert (once[2], twice[2]) == ([True] * 3, [False] * 3)
    for one, two in zip(once[0], twice[0], strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)
    for one, two in zip(once[1], twice[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


# One minibatch


def sampled(actor: Actor, config: GRPOConfig, reward=count_words) -> Rollout:
    generator = torch.Generator().manual_seed(0)
    asked = [prompt for prompt in PROMPTS for _ in range(config.group_size)]
    return roll_out(actor, word_tokenizer(), asked, reward, config, generator)


@EVERY
def test_what_stands_after_the_end_never_reaches_a_gradient(variant: Variant):
    gradients, config = [], quick(variant=variant, kl_coef=0.1 if variant.pays_for_kl else 0.0)
    for garbage in (None, math.nan, 1e30):
        actor = shared()
        disturb(actor)
        rollout = sampled(actor, config)
        if garbage is not None:
            after = ~rollout.response_mask
            sequences = rollout.sequences.clone()
            sequences[:, -after.shape[1] :][after] = 7
            names = ("logprobs", "reference_logprobs")
            rollout = replace(
                rollout,
                sequences=sequences,
                **{n: getattr(rollout, n).masked_fill(after, garbage) for n in names},
            )
        advantages = variant.advantages(rollout.scores, 4, [])
        loss, _ = minibatch_loss(actor, rollout, advantages, torch.arange(8), config)
        loss.backward()
        gradients.append([p.grad for p in actor.trainable_parameters()])
    assert not rollout.response_mask.all()
    assert are_equal(gradients[0], gradients[1])
    assert are_equal(gradients[0], gradients[2])


@EVERY
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_before_the_first_step_the_ratio_is_one(variant: Variant, temperature: float):
    actor, config = shared(), quick(variant=variant, temperature=temperature)
    disturb(actor)
    rollout = sampled(actor, config)
    advantages = variant.advantages(reward_answers(rollout, config), 4, [])
    _, measured = minibatch_loss(actor, rollout, advantages, torch.arange(8), config)
    assert measured["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert measured["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)
    assert measured["policy/clipfrac_avg"] == 0


# Dynamic sampling


def some_groups(variant: Variant, reward, **changes: object) -> tuple[Rollout, int]:
    config, actor = quick(variant=variant, **changes), alone()
    batches = endless_batches(len(PROMPTS), config.n_groups, config.seed)
    generator = torch.Generator().manual_seed(0)
    return sample_groups(actor, word_tokenizer(), PROMPTS, batches, reward, config, generator)


def test_dapo_samples_until_every_group_is_mixed():
    rollout, rounds = some_groups(DAPO, has_w7, max_rounds=50, group_size=2)
    groups = rollout.scores.view(4, 2)
    assert (groups.amax(dim=1) > groups.amin(dim=1)).all()
    assert 1 < rounds < 50
    plain, once = some_groups(GRPO, has_w7, max_rounds=50, group_size=2)
    assert once == 1
    assert not (plain.scores.view(4, 2).std(dim=1) > 0).all()  # else the test shows nothing


def test_what_is_missing_is_filled_up_with_groups_that_were_passed_over():
    calls = []

    def reward(prompts: list[str], answers: list[str]) -> list[float]:
        calls.append(len(answers))
        # The first group of the second round alone is mixed.
        return [float(len(calls) == 2 and i == 1) for i in range(len(answers))]

    rollout, rounds = some_groups(DAPO, reward, max_rounds=3)
    assert (rounds, calls) == (3, [8, 8, 8])
    assert rollout.scores.tolist() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_batches_of_other_lengths_are_joined_as_they_were():
    config, actor = quick(group_size=1, variant=REINFORCE), shared()
    whole = [
        roll_out(actor, word_tokenizer(), asked, count_words, config, torch.Generator())
        for asked in (["w7"], ["w8 w9 w10 w11", "w4 w5"])
    ]
    both = joined(whole, pad_token_id=0)
    assert both.sequences.shape[1] == 5 + max(r.response_mask.shape[1] for r in whole)
    for row, (part, i) in enumerate([(whole[0], 0), (whole[1], 0), (whole[1], 1)]):
        for name in ("sequences", "attention_mask"):
            mask = both.attention_mask[row].bool(), part.attention_mask[i].bool()
            assert torch.equal(getattr(both, name)[row][mask[0]], getattr(part, name)[i][mask[1]])
        mask = both.response_mask[row], part.response_mask[i]
        for name in ("responses", "logprobs", "reference_logprobs"):
            assert torch.equal(getattr(both, name)[row][mask[0]], getattr(part, name)[i][mask[1]])
    assert both.texts == whole[0].texts + whole[1].texts
    turned = rows_of(both, torch.tensor([2, 0]))
    assert turned.texts == [both.texts[2], both.texts[0]]
    assert torch.equal(turned.sequences, both.sequences[[2, 0]])
    assert turned.values is None


# Killed and resumed


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("variant", [GRPO, DAPO, REINFORCE], ids=lambda variant: variant.name)
@pytest.mark.parametrize("killed_after", [1, 4, 5])
def test_a_killed_run_ends_as_one_that_was_not(variant: Variant, killed_after: int, tmp_path: Path):
    config = quick(
        variant=variant, n_updates=6, learning_rate=1e-2, checkpoint_every_updates=2, n_epochs=2
    )
    whole = shared()
    expected = train(whole, config, has_w7)

    def kill(number: int, *_: object) -> None:
        if number == killed_after:
            raise Killed

    config = replace(config, checkpoint_dir=tmp_path / "run")
    with pytest.raises(Killed):
        train(shared(), config, has_w7, on_update=kill)
    numbers, again = [], shared()
    result: GRPOResult = train(
        again, config, has_w7, on_update=lambda number, *_: numbers.append(number)
    )
    assert numbers[0] == killed_after - (killed_after - 1) % 2
    assert result.history == expected.history
    assert result.n_sampled == expected.n_sampled
    assert are_equal(weights(again), weights(whole))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": DR_GRPO}, "another variant"),
        ({"group_size": 2}, r"another configuration .*group_size=4 there, 2 here"),
        (
            {"variant": replace(GRPO, reduce=DAPO.reduce)},
            "reduce=mean_of_answers there, mean_over_tokens here",
        ),
    ],
)
def test_another_run_is_not_taken_up(changes: dict, message: str, tmp_path: Path):
    config = quick(checkpoint_dir=tmp_path)
    train(shared(), config)
    with pytest.raises(ValueError, match=f"holds a run with .*{message}"):
        train(shared(), replace(config, **changes))


# Configurations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 1}, "group_size=1 must be at least 2 for GRPO"),
        ({"group_size": 0}, "group_size=0 must be"),
        ({"group_size": 3}, "group_size=3 must divide batch_size=8"),
        ({"minibatch_size": 5}, "minibatch_size=5 must divide batch_size=8"),
        ({"max_rounds": 0}, "max_rounds=0 must be"),
        ({"kl_coef": -0.1}, "kl_coef=-0.1 must be"),
        ({"kl_coef": 0.1, "variant": DAPO}, r"kl_coef=0.1 must be 0 for DAPO, which pays no"),
        ({"variant": "GRPO"}, "variant='GRPO' must be a Variant"),
        ({"learning_rate": 0}, "learning_rate=0 must be"),
        ({"missing_eos_penalty": -1}, "missing_eos_penalty=-1 must be"),
        ({"seed": -1}, "seed=-1 must be"),
    ],
)
def test_a_configuration_out_of_range_is_refused(changes: dict, message: str):
    with pytest.raises(ValueError, match=message):
        quick(**changes)


def test_a_group_of_one_is_enough_for_a_running_baseline():
    assert quick(variant=REINFORCE, group_size=1).n_groups == 8
    history = train(alone(), quick(variant=REINFORCE, group_size=1, learning_rate=1e-2)).history
    assert all(math.isfinite(x) for metrics in history for x in metrics.values())
