import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, islice, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from course_utils.files import only_writer
from course_utils.methods import apply
from course_utils.methods.lora import LoRAConfig
from course_utils.rlhf import ppo
from course_utils.rlhf.actor import SeparateActorCritic, SharedActorCritic
from course_utils.rlhf.config import PPOConfig, PPOResult
from course_utils.rlhf.experience import next_kl_coef, weigh
from course_utils.rlhf.ppo import minibatch_loss, prompt_batches, take_step, train_ppo
from course_utils.rlhf.rollout import Rollout, roll_out
from course_utils.training import TrainingDivergedError
from course_utils.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from tests.rlhf.tiny_actors import (
    ACTORS,
    PROMPTS,
    count_words,
    disturb,
    quick,
    shared_actor,
    tiny_critic,
    tiny_policy,
    word_tokenizer,
)

# TRL 1.12's names, but for `eps`, which is a speed, and with the coefficient that may change.
METRICS = {
    "objective/kl",
    "objective/entropy",
    "objective/non_score_reward",
    "objective/rlhf_reward",
    "objective/scores",
    "objective/kl_coef",
    "policy/approxkl_avg",
    "policy/clipfrac_avg",
    "policy/entropy_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/ratio",
    "val/ratio_var",
    "val/num_eos_tokens",
    "lr",
    "episode",
}


def train(actor, config: PPOConfig | None = None, reward=count_words, **options) -> PPOResult:
    return train_ppo(actor, word_tokenizer(), PROMPTS, reward, config or quick(), **options)


def weights(actor: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in actor.parameters()]


def are_equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# Two answers by hand: one of three tokens, one of two and a place of padding


def by_hand(**changes: object) -> Rollout:
    """Log-ratios to the reference 1, -1, 2 and 3, 0; scores 10 and 20; values 1, 2, 3 and 4, 5."""
    return Rollout(
        **{
            "sequences": torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0]]),
            "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
            "response_mask": torch.tensor([[True, True, True], [True, True, False]]),
            "logprobs": torch.tensor([[-1.0, -2.0, -1.0], [-1.0, -4.0, 0.0]]),
            "reference_logprobs": torch.tensor([[-2.0, -1.0, -3.0], [-4.0, -4.0, 0.0]]),
            "values": torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
            "scores": torch.tensor([10.0, 20.0]),
            "texts": ["a", "b"],
        }
        | changes
    )


def weighed(kl_coef: float = 0.5, rollout: Rollout | None = None, **options: object):
    return weigh(rollout or by_hand(), kl_coef, quick(**options))


def test_the_score_is_added_at_the_last_token_only():
    # With gamma = 0 nothing that follows counts, and the returns are the rewards themselves:
    # half the log-ratio as a fine, and 10 and 20 where an answer ends.
    experience = weighed(gamma=0.0)
    assert experience.returns.tolist() == [[-0.5, 0.5, -1.0 + 10], [-1.5, 0.0 + 20, 0.0]]
    assert experience.kl.tolist() == [[1.0, -1.0, 2.0], [3.0, 0.0, 0.0]]
    assert experience.value_mask.tolist() == [[True, True, True], [True, True, False]]


def test_advantages_and_returns_by_hand():
    # gamma = 1, lam = 1/2. First answer: delta = -0.5 + 2 - 1, 0.5 + 3 - 2, 9 - 3 = 0.5, 1.5, 6;
    # A = 0.5 + 4.5/2, 1.5 + 6/2, 6. Second: delta = -1.5 + 5 - 4, 20 - 5 = -0.5, 15;
    # A = -0.5 + 15/2, 15.
    experience = weighed(gamma=1.0, lam=0.5)
    raw = torch.tensor([2.75, 4.5, 6.0, 7.0, 15.0])
    assert experience.returns.tolist() == [[3.75, 6.5, 9.0], [11.0, 20.0, 0.0]]
    white = (raw - raw.mean()) / raw.std()
    assert torch.allclose(experience.advantages[experience.value_mask], white, atol=1e-6)
    assert experience.advantages[1, 2] == 0


def test_without_kl_every_token_returns_the_score():
    experience = weighed(kl_coef=0.0, gamma=1.0, lam=1.0)
    assert experience.returns.tolist() == [[10.0, 10.0, 10.0], [20.0, 20.0, 0.0]]


def test_the_score_may_be_paid_after_the_end_as_in_trl():
    # The first answer has no place after its end: there it stays at the last token.
    experience = weighed(gamma=0.0, score_after_end=True)
    assert experience.returns.tolist() == [[-0.5, 0.5, -1.0 + 10], [-1.5, 0.0, 20.0]]
    assert experience.value_mask.all()
    assert experience.advantages[1, 2] == 0


def test_whitened_rewards_keep_their_mean():
    plain, white = weighed(gamma=0.0), weighed(gamma=0.0, whiten_rewards=True)
    mask = plain.value_mask
    before, after = plain.returns[mask], white.returns[mask]
    assert torch.allclose(after, (before - before.mean()) / before.std() + before.mean(), atol=1e-5)


# The loss


def sampled(actor, **changes: object) -> Rollout:
    generator = torch.Generator().manual_seed(0)
    return roll_out(actor, word_tokenizer(), PROMPTS, count_words, quick(**changes), generator)


@pytest.mark.parametrize("form", ACTORS)
def test_what_stands_after_the_end_never_reaches_a_gradient(form: str):
    gradients = []
    for garbage in (None, math.nan, 1e30):
        actor = ACTORS[form]()
        disturb(actor)
        rollout = sampled(actor)
        if garbage is not None:
            after = ~rollout.response_mask
            sequences = rollout.sequences.clone()
            sequences[:, -after.shape[1] :][after] = 7
            names = ("logprobs", "reference_logprobs", "values")
            rollout = replace(
                rollout,
                sequences=sequences,
                **{n: getattr(rollout, n).masked_fill(after, garbage) for n in names},
            )
        experience = weigh(rollout, 0.1, quick())
        loss, _ = minibatch_loss(actor, rollout, experience, torch.arange(8), quick())
        loss.backward()
        gradients.append([p.grad for p in actor.trainable_parameters()])
    assert not rollout.response_mask.all()
    assert are_equal(gradients[0], gradients[1])
    assert are_equal(gradients[0], gradients[2])


@pytest.mark.parametrize("form", ACTORS)
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_before_the_first_step_the_ratio_is_one(form: str, temperature: float):
    actor, config = ACTORS[form](), quick(temperature=temperature)
    disturb(actor)
    rollout = sampled(actor, temperature=temperature)
    experience = weigh(rollout, 0.1, config)
    _, measured = minibatch_loss(actor, rollout, experience, torch.arange(4), config)
    assert measured["val/ratio"] == pytest.approx(1, abs=1e-5)
    assert measured["policy/approxkl_avg"] == pytest.approx(0, abs=1e-9)
    assert measured["policy/clipfrac_avg"] == measured["val/clipfrac_avg"] == 0
    # Then the policy's loss is minus the mean advantage, and the critic's half its squared error.
    mask = rollout.response_mask[:4]
    advantage = experience.advantages[:4][mask].mean().item()
    error = (rollout.values - experience.returns)[:4][mask].square().mean().item() / 2
    assert measured["loss/policy_avg"] == pytest.approx(-advantage, abs=1e-5)
    assert measured["loss/value_avg"] == pytest.approx(error, rel=1e-4)


def test_the_critic_s_loss_has_its_weight():
    actor = shared_actor()
    rollout = sampled(actor)
    experience = weigh(rollout, 0.1, quick())
    parts = [
        minibatch_loss(actor, rollout, experience, torch.arange(8), quick(vf_coef=c))[0].item()
        for c in (0.0, 0.5, 1.0)
    ]
    assert parts[2] - parts[0] == pytest.approx(2 * (parts[1] - parts[0]), rel=1e-4)
    assert parts[2] > parts[0]


@pytest.mark.parametrize(("length", "norm"), [(3.0, 1.0), (0.5, 0.5), (3.0, 1e9)])
def test_a_step_is_no_longer_than_the_norm(length: float, norm: float):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    loss = weight @ torch.tensor([0.6 * length, 0.8 * length])
    take_step(loss, optimizer, quick(max_grad_norm=norm))
    assert weight.norm().item() == pytest.approx(min(length, norm), rel=1e-5)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_no_number_moves_nothing(factor: float):
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(TrainingDivergedError, match=r"lower learning_rate=0.001, or raise kl_coef"):
        take_step(weight.sum() * factor, optimizer, quick())
    assert weight.tolist() == [1, 1]
    assert weight.grad is None


# The loop


@pytest.mark.parametrize("form", ACTORS)
def test_a_run_reports_every_update_by_trl_s_names(form: str):
    calls = []
    actor = ACTORS[form]().train()
    result = train(actor, on_update=lambda *arguments: calls.append(arguments))
    assert [set(metrics) for metrics in result.history] == [METRICS] * 3
    assert all(math.isfinite(x) for metrics in result.history for x in metrics.values())
    assert [metrics["episode"] for metrics in result.history] == [8, 16, 24]
    assert [number for number, *_ in calls] == [1, 2, 3]
    assert [metrics for _, metrics, _ in calls] == result.history
    assert all(len(rollout.texts) == 8 for *_, rollout in calls)
    assert result.samples_per_second == pytest.approx(24 / result.seconds)
    assert not actor.training


def test_the_objective_is_what_the_rollout_says():
    seen = []
    result = train(shared_actor(), on_update=lambda *arguments: seen.append(arguments[2]))
    for metrics, rollout in zip(result.history, seen, strict=True):
        kl = (rollout.logprobs - rollout.reference_logprobs).sum(1).mean().item()
        score = sum(count_words(rollout.texts, rollout.texts)) / 8
        assert metrics["objective/kl"] == pytest.approx(kl, abs=1e-6)
        assert metrics["objective/scores"] == pytest.approx(score)
        assert metrics["objective/non_score_reward"] == pytest.approx(-0.05 * kl, abs=1e-6)
        assert metrics["objective/rlhf_reward"] == pytest.approx(score - 0.05 * kl, abs=1e-5)
        entropy = -rollout.logprobs.sum(1).mean().item()
        assert metrics["objective/entropy"] == pytest.approx(entropy, rel=1e-5)
        ends = (rollout.responses == 2).logical_and(rollout.response_mask).sum()
        assert metrics["val/num_eos_tokens"] == ends


@pytest.mark.parametrize("form", ACTORS)
def test_at_the_first_update_the_policy_is_the_reference_and_then_not(form: str):
    history = train(ACTORS[form](), quick(learning_rate=1e-2)).history
    assert history[0]["objective/kl"] == 0
    assert all(abs(metrics["objective/kl"]) > 1e-3 for metrics in history[1:])


@pytest.mark.parametrize("form", ACTORS)
def test_only_policy_and_critic_change(form: str):
    actor = ACTORS[form]()
    trained = {id(p) for p in actor.trainable_parameters()}
    before = weights(actor)
    train(actor, quick(learning_rate=1e-2))
    for parameter, old in zip(actor.parameters(), before, strict=True):
        assert torch.equal(parameter, old) == (id(parameter) not in trained)


@pytest.mark.parametrize("form", ACTORS)
def test_a_word_that_is_rewarded_is_said_more_often(form: str):
    def has_w7(prompts: list[str], answers: list[str]) -> list[float]:
        return [float("w7" in answer.split()) for answer in answers]

    config = quick(n_updates=12, batch_size=32, minibatch_size=16, learning_rate=2e-2, kl_coef=0.0)
    history = train(ACTORS[form](), config, has_w7).history
    assert history[0]["objective/scores"] < 0.5
    assert history[-1]["objective/scores"] > 0.9


def test_a_high_price_keeps_the_policy_where_it_was():
    def far(kl_coef: float) -> float:
        config = quick(n_updates=8, batch_size=16, learning_rate=1e-2, kl_coef=kl_coef)
        return abs(train(shared_actor(), config).history[-1]["objective/kl"])

    assert far(0.0) > 2 * far(5.0)


def test_the_price_of_kl_is_adapted_by_hand():
    assert next_kl_coef(0.1, 6.0, None) == 0.1
    assert next_kl_coef(0.1, 6.0, 6.0) == 0.1
    assert next_kl_coef(0.1, 6.6, 6.0) == pytest.approx(0.1 * 1.01)
    assert next_kl_coef(0.1, 60.0, 6.0) == pytest.approx(0.1 * 1.02)
    assert next_kl_coef(0.1, -60.0, 6.0) == pytest.approx(0.1 * 0.98)


def test_the_price_of_kl_is_used_as_adapted():
    history = train(shared_actor(), quick(target_kl=3.0, n_updates=4)).history
    assert history[0]["objective/kl_coef"] == 0.05
    for metrics, following in pairwise(history):
        adapted = next_kl_coef(metrics["objective/kl_coef"], metrics["objective/kl"], 3.0)
        assert following["objective/kl_coef"] == adapted < metrics["objective/kl_coef"]
        fine = -following["objective/kl_coef"] * following["objective/kl"]
        assert following["objective/non_score_reward"] == pytest.approx(fine, abs=1e-7)
    fixed = train(shared_actor(), quick(kl_coef=0.2)).history
    assert [metrics["objective/kl_coef"] for metrics in fixed] == [0.2] * 3


@pytest.mark.parametrize("batch_size", [4, 8, 12])
def test_every_prompt_has_its_turn_in_an_order_of_the_seed(batch_size: int):
    def order(seed: int) -> list[int]:
        config = quick(batch_size=batch_size, seed=seed)
        batches = islice(prompt_batches(8, config), 24 // batch_size)
        return list(chain.from_iterable(batches))

    for epoch in range(3):
        assert sorted(order(0)[8 * epoch : 8 * epoch + 8]) == list(range(8))
    assert order(0)[:8] != order(0)[8:16]
    assert order(0) == order(0) != order(1)


def test_minibatches_go_through_every_answer_once_an_epoch(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def noted(actor, rollout, experience, rows: Tensor, config: PPOConfig):
        seen.append(rows.tolist())
        return minibatch_loss(actor, rollout, experience, rows, config)

    monkeypatch.setattr(ppo, "minibatch_loss", noted)
    train(shared_actor(), quick(n_updates=1, n_epochs=2, minibatch_size=2))
    assert [len(rows) for rows in seen] == [2] * 8
    epochs = [list(chain.from_iterable(part)) for part in (seen[:4], seen[4:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(8))] * 2
    assert epochs[0] != epochs[1]


def test_a_run_is_a_function_of_its_seed():
    def run(seed: int) -> tuple[list, list]:
        actor = shared_actor()
        return train(actor, quick(seed=seed)).history, weights(actor)

    first, again, other = run(0), run(0), run(1)
    assert first[0] == again[0] != other[0]
    assert are_equal(first[1], again[1])


# Killed and resumed


class Killed(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("form", ACTORS)
@pytest.mark.parametrize("killed_after", [1, 4, 5])
def test_a_killed_run_ends_as_one_that_was_not(form: str, killed_after: int, tmp_path: Path):
    config = quick(n_updates=6, target_kl=1.0, learning_rate=1e-2, checkpoint_every_updates=2)
    whole = ACTORS[form]()
    expected = train(whole, config)

    def kill(number: int, *_: object) -> None:
        if number == killed_after:
            raise Killed

    config = replace(config, checkpoint_dir=tmp_path / "run")
    with pytest.raises(Killed):
        train(ACTORS[form](), config, on_update=kill)
    numbers, again = [], ACTORS[form]()
    result = train(again, config, on_update=lambda number, *_: numbers.append(number))
    assert numbers[0] == killed_after - (killed_after - 1) % 2
    assert result.history == expected.history
    assert are_equal(weights(again), weights(whole))


def test_a_finished_run_is_read_back(tmp_path: Path):
    config = quick(checkpoint_dir=tmp_path)
    first, again = shared_actor(), shared_actor()
    done = train(first, config)
    read = train(again, config, reward=None)
    assert (read.history, read.seconds) == (done.history, done.seconds)
    assert are_equal(weights(again), weights(first))


def with_rank(rank: int, seed: int = 0) -> SharedActorCritic:
    policy = apply(tiny_policy(seed), LoRAConfig(rank=rank, alpha=8))
    return SharedActorCritic(policy).eval()


def with_critic(seed: int) -> SeparateActorCritic:
    return SeparateActorCritic(tiny_policy(), tiny_policy(), tiny_critic(seed)).eval()


@pytest.mark.parametrize(
    ("begun", "taken_up", "message"),
    [
        ((with_rank, 1), (with_rank, 4), r"another method and other trained.*policy.rank=1 there"),
        ((with_rank, 4), (with_rank, 4, 7), "another base model"),
        ((with_critic, 1), (with_critic, 2), "another base model"),
    ],
    ids=["rank", "base", "critic"],
)
@pytest.mark.parametrize("stop_after", [2, None], ids=["half-way", "finished"])
def test_another_actor_does_not_take_up_the_run(
    begun: tuple, taken_up: tuple, message: str, stop_after: int | None, tmp_path: Path
):
    def stop(number: int, *_: object) -> None:
        if number == stop_after:
            raise Killed

    config = quick(checkpoint_dir=tmp_path, checkpoint_every_updates=1)
    with pytest.raises(Killed) if stop_after else nullcontext():
        train(begun[0](*begun[1:]), config, on_update=stop)
    actor = taken_up[0](*taken_up[1:])
    before = weights(actor)
    with pytest.raises(ValueError, match=f"holds a run with {message}"):
        train(actor, config)
    assert are_equal(weights(actor), before)


def test_another_run_is_refused_by_name(tmp_path: Path):
    config = quick(checkpoint_dir=tmp_path)
    train(shared_actor(), config)
    with pytest.raises(ValueError, match=r"configuration \(kl_coef=0.05 there, 0.3 here\): choose"):
        train(shared_actor(), quick(checkpoint_dir=tmp_path, kl_coef=0.3))
    prompts = ["w11 w5", *PROMPTS[1:]]
    with pytest.raises(ValueError, match="holds a run with other prompts"):
        train_ppo(shared_actor(), word_tokenizer(), prompts, count_words, config)
    taken = pytest.raises(FileExistsError, match="another process is at training in")
    with only_writer(tmp_path, "training"), taken:
        train(shared_actor(), config)


PPO_CHANGES = {
    "no weights": lambda state: state.pop("weights"),
    "weights of NaN": lambda state: state["weights"][0].fill_(math.nan),
    "no optimizer": lambda state: state.pop("optimizer"),
    "a moment of NaN": lambda state: state["optimizer"]["state"][0]["exp_avg"].fill_(math.nan),
    "no generator": lambda state: state.pop("generator"),
    "bad generator": lambda state: state["generator"].fill_(255),
    "a price of NaN": lambda state: state.update(kl_coef=math.nan),
    "a history of text": lambda state: state.update(history=["a", "b"]),
    "metrics of text": lambda state: state["history"][0].update(lr="a"),
    "a short history": lambda state: state["history"].pop(),
    "no time": lambda state: state.pop("seconds"),
}


@pytest.mark.parametrize("what", PPO_CHANGES)
def test_contents_are_looked_at_before_they_are_used(what: str, tmp_path: Path):
    config = quick(n_updates=2, checkpoint_dir=tmp_path)
    train(shared_actor(), config)
    state = load_checkpoint(tmp_path)
    PPO_CHANGES[what](state)
    save_checkpoint(tmp_path, 2, state)
    actor = shared_actor()
    before = weights(actor)
    with pytest.raises(CheckpointError, match=r"is damaged \(step-00000002: "):
        train(actor, config)
    assert are_equal(weights(actor), before)


def test_an_actor_is_left_without_gradients_and_can_go_on(tmp_path: Path):
    """Interrupted, and started again on the same actor, whose critic has moved since."""
    config = quick(checkpoint_dir=tmp_path, checkpoint_every_updates=1, learning_rate=1e-2)

    def stop(number: int, *_: object) -> None:
        if number == 2:
            raise Killed

    actor, whole = shared_actor(), shared_actor()
    with pytest.raises(Killed):
        train(actor, config, on_update=stop)
    assert all(p.grad is None for p in actor.parameters())
    result = train(actor, config)
    assert result.history == train(whole, replace(config, checkpoint_dir=None)).history
    assert are_equal(weights(actor), weights(whole))
    assert all(p.grad is None for p in actor.parameters())


# Bad input


def test_a_reward_that_is_no_number_leaves_the_weights():
    actor = shared_actor()
    before = weights(actor)
    with pytest.raises(ValueError, match=r"the score of answer 0 .* is nan: a reward must be"):
        train(actor, reward=lambda prompts, answers: [math.nan] * len(answers))
    assert are_equal(weights(actor), before)


def test_a_run_that_diverges_says_so_and_keeps_the_last_weights():
    actor = shared_actor()
    with pytest.raises(TrainingDivergedError, match="lower learning_rate=1e"):
        train(actor, quick(learning_rate=1e25))
    assert all(weight.isfinite().all() for weight in weights(actor))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "there are no prompts"),
        (["w5"] * 20 + [""], "prompt 20 is empty"),
        (["w5"] * 20 + ["w6 " * 58], "prompt 20 of 59 tokens and max_new_tokens=6 must fit"),
    ],
)
def test_prompts_are_checked_before_anything_is_trained(prompts: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        train_ppo(shared_actor(), word_tokenizer(), prompts, None, quick())


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("n_updates", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("minibatch_size", 0, "at least 1"),
        ("n_epochs", 0, "at least 1"),
        ("max_new_tokens", 0, "at least 1"),
        ("checkpoint_every_updates", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("temperature", 0.0, "above 0"),
        ("target_kl", 0.0, "above 0"),
        ("clip_range", 0.0, "above 0"),
        ("value_clip_range", -1.0, "above 0"),
        ("max_grad_norm", math.nan, "a finite number, above 0"),
        ("kl_coef", -1, "at least 0"),
        ("vf_coef", -0.1, "at least 0"),
        ("missing_eos_penalty", -1.0, "at least 0"),
        ("gamma", 1.1, "in 0..1"),
        ("lam", -0.1, "in 0..1"),
    ],
)
def test_a_value_out_of_range_is_told(name: str, value: float, rule: str):
    with pytest.raises(ValueError, match=f"^{name}={value} must be {rule}$"):
        PPOConfig(**{name: value})


def test_minibatches_divide_the_batch():
    with pytest.raises(ValueError, match="minibatch_size=12 must divide batch_size=32"):
        PPOConfig(minibatch_size=12)
