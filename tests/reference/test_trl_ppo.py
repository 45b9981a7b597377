"""One whole PPO update against TRL 1.12's own trainer: same models, same answers, same numbers.

Only the sampling is replaced, in both, so that both learn from the same answers. Everything is in
float64: Adam divides each gradient by its size, and would blow the rounding of tiny ones up.

Where the two differ, and what is compared then:

- TRL pays the score one place after the end token and has the critic learn a value there. That is
  ``score_after_end``; by default the score is ours at the end token, the last that was chosen. If
  no answer ends early there is no such place, and the two are one.
- TRL's approx_kl, ratio and entropy are means over padding too, ours over real tokens. They are
  compared where there is no padding. The loss and all other metrics are compared everywhere.
- With ``gradient_accumulation_steps`` TRL averages its metrics over places it leaves empty; here it
  is 1, and each minibatch one optimizer step.
- TRL divides logits by the temperature plus 1e-7, which is what ours is given.
- TRL does not clip gradients: ours gets a norm that none exceeds.
"""

import copy
import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

# Read when TRL is imported: PPO is experimental there, and would say so.
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from trl.experimental.ppo import PPOConfig as TheirConfig
from trl.experimental.ppo import PPOTrainer, ppo_trainer
from trl.experimental.utils import get_reward

from course_utils.rlhf import ppo, rollout
from course_utils.rlhf.actor import SeparateActorCritic
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.ppo import train_ppo
from tests.rlhf.tiny_actors import END, PAD, disturb, tiny_critic, tiny_policy, word_tokenizer

BATCH, N_NEW = 16, 7
SETTINGS = {
    "n_epochs": 2,
    "temperature": 0.8,
    "kl_coef": 0.3,
    "gamma": 0.97,
    "lam": 0.9,
    "clip_range": 0.1,
    "value_clip_range": 0.15,
    "vf_coef": 0.4,
    "learning_rate": 3e-3,
    "whiten_rewards": False,
    "missing_eos_penalty": None,
}
THEIR_NAMES = {
    "n_epochs": "num_ppo_epochs",
    "clip_range": "cliprange",
    "value_clip_range": "cliprange_value",
}
EVERYWHERE = (
    "objective/kl",
    "objective/entropy",
    "objective/non_score_reward",
    "objective/rlhf_reward",
    "objective/scores",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/clipfrac_avg",
    "val/num_eos_tokens",
    "lr",
    "episode",
)
WITHOUT_PADDING = ("policy/approxkl_avg", "policy/entropy_avg", "val/ratio", "val/ratio_var")


def shuffles() -> Callable[[int], np.ndarray]:
    """Return a function that shuffles 0..n-1: a new order at each call, the same from each start.

    TRL shuffles its minibatches by ``np.random.permutation``.
    """
    return np.random.default_rng(0).permutation


class Update:
    """The models and answers of one update, and each side's way through it."""

    def __init__(self, *, ends_early: bool, n_minibatches: int, **settings: object) -> None:
        self.n_minibatches, self.settings = n_minibatches, SETTINGS | settings
        self.policy, self.reference = tiny_policy().double(), tiny_policy().double()
        self.critic, self.reward_model = tiny_critic(1).double(), tiny_critic(2).double()
        disturb(self.policy)
        generator = torch.Generator().manual_seed(0)
        words = torch.randint(4, 12, (2, BATCH, N_NEW), generator=generator)
        lengths = torch.arange(BATCH) % 4 + 1
        self.prompts = [row[:n].tolist() for row, n in zip(words[0], lengths, strict=True)]
        self.responses, place = words[1], torch.arange(N_NEW)
        if ends_early:
            # Ends at the third to the last place, and every fifth answer never.
            ends = torch.randint(2, N_NEW, (BATCH, 1), generator=generator)
            ends[::5] = N_NEW
            self.responses = self.responses.masked_fill(place == ends, END)
            self.responses = self.responses.masked_fill(place > ends, PAD)

    def theirs(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, nn.Module]:
        """Let TRL's trainer take the update; what it has read and scored is kept for ours."""
        settings = {THEIR_NAMES.get(name, name): value for name, value in self.settings.items()}
        config = TheirConfig(
            output_dir=str(folder),
            per_device_train_batch_size=BATCH,
            num_mini_batches=self.n_minibatches,
            total_episodes=BATCH,
            response_length=N_NEW,
            stop_token="eos",
            seed=0,
            num_sample_generations=0,
            weight_decay=0.0,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=1,
            **settings,
        )

        def answered(model: nn.Module, queries: Tensor, size: int, pad: int, _: object):
            self.queries = queries
            whole = torch.cat([queries, self.responses], dim=1)
            logits = ppo_trainer.forward(model, whole, pad).logits[:, queries.shape[1] - 1 : -1]
            _, self.scores, _ = get_reward(self.reward_model, whole, pad, queries.shape[1])
            return whole, logits.detach() / (config.temperature + 1e-7)

        monkeypatch.setattr(ppo_trainer, "batch_generation", answered)
        trainer = PPOTrainer(
            args=config,
            processing_class=word_tokenizer(),
            model=copy.deepcopy(self.policy),
            ref_model=copy.deepcopy(self.reference),
            reward_model=self.reward_model,
            value_model=copy.deepcopy(self.critic),
            train_dataset=Dataset.from_dict({"input_ids": [[1, *ids] for ids in self.prompts]}),
        )
        monkeypatch.setattr(np.random, "permutation", shuffles())
        trainer.train()
        return trainer.state.log_history[-1], trainer.model

    def ours(self, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, SeparateActorCritic]:
        """Let ours take it, with the prompts and the minibatches in the order that TRL drew."""
        tokenizer = word_tokenizer()
        prompts = tokenizer.batch_decode(self.queries, skip_special_tokens=True)

        def answered(model: nn.Module, ids: Tensor, mask: Tensor, **_: object) -> Tensor:
            assert torch.equal(ids, self.queries)
            return self.responses

        def in_order(n_prompts: int, config: PPOConfig) -> Iterator[list[int]]:
            yield list(range(n_prompts))

        monkeypatch.setattr(rollout, "generate_tokens", answered)
        monkeypatch.setattr(ppo, "prompt_batches", in_order)
        order = shuffles()
        monkeypatch.setattr(ppo, "shuffled", lambda n, _: torch.from_numpy(order(n)))
        config = PPOConfig(
            n_updates=1,
            batch_size=BATCH,
            minibatch_size=BATCH // self.n_minibatches,
            max_new_tokens=N_NEW,
            max_grad_norm=1e30,
            score_after_end=True,
            show_progress=False,
            **self.settings | {"temperature": self.settings["temperature"] + 1e-7},
        )
        actor = SeparateActorCritic(self.policy, self.reference, self.critic)
        result = train_ppo(actor, tokenizer, prompts, lambda *_: self.scores, config)
        return result.history[-1], actor


@pytest.mark.parametrize("ends_early", [False, True])
@pytest.mark.parametrize(
    ("n_minibatches", "settings"),
    [
        (2, {"n_epochs": 1}),
        (4, {}),
        (2, {"whiten_rewards": True, "missing_eos_penalty": 1.5, "temperature": 1.0}),
    ],
    ids=["two steps", "eight steps", "whitened rewards and a penalty"],
)
def test_one_update_measures_and_learns_the_same(
    ends_early: bool, n_minibatches: int, settings: dict, tmp_path: Path, monkeypatch
):
    update = Update(ends_early=ends_early, n_minibatches=n_minibatches, **settings)
    start = copy.deepcopy(update.policy), copy.deepcopy(update.critic)
    theirs, wrapper = update.theirs(tmp_path, monkeypatch)
    ours, actor = update.ours(monkeypatch)

    names = EVERYWHERE if ends_early else EVERYWHERE + WITHOUT_PADDING
    assert {name: ours[name] for name in names} == pytest.approx(
        {name: theirs[name] for name in names}, rel=1e-5, abs=1e-6
    )
    assert 0 < ours["policy/clipfrac_avg"] < 1  # else neither clip could be wrong
    assert 0 < ours["val/clipfrac_avg"] < 1

    models = ((actor.policy, wrapper.policy), (actor.value_model, wrapper.value_model))
    for before, (mine, other) in zip(start, models, strict=True):
        named = zip(before.named_parameters(), mine.parameters(), other.parameters(), strict=True)
        for (name, old), one, two in named:
            # The update itself agrees, and not only the weights, most of which have hardly moved.
            assert (one - two).norm() <= 1e-5 * (two - old).norm(), name


def test_what_this_course_uses_of_trl_is_still_there():
    """If this fails, TRL has moved what the messages name: see its changelog."""
    their_fields = {field.name for field in fields(TheirConfig)}
    used = {THEIR_NAMES.get(name, name) for name in SETTINGS} | {
        "response_length",
        "num_mini_batches",
        "total_episodes",
        "stop_token",
        "kl_estimator",
        "num_sample_generations",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
    }
    assert used - their_fields == set(), "options that trl's PPOConfig no longer has"
    assert TheirConfig.kl_estimator == "k1", "trl's default KL estimator is another one"

    arguments = set(inspect.signature(PPOTrainer.__init__).parameters)
    wanted = {
        "args",
        "processing_class",
        "model",
        "ref_model",
        "reward_model",
        "value_model",
        "train_dataset",
        "peft_config",
    }
    assert wanted - arguments == set(), "arguments that trl's PPOTrainer no longer takes"

    functions = ("batch_generation", "forward", "masked_whiten", "INVALID_LOGPROB")
    gone = {name for name in functions if not hasattr(ppo_trainer, name)}
    assert gone == set(), "names that trl.experimental.ppo.ppo_trainer no longer has"

    source = inspect.getsource(PPOTrainer.train)
    gone = {name for name in (*EVERYWHERE, *WITHOUT_PADDING) if f'"{name}"' not in source}
    assert gone == set(), "metrics that trl's PPOTrainer no longer logs"
