"""One whole update by GRPO and its kin against TRL 1.12's own trainers: same answers, same weights.

TRL samples; ours is given its answers. Everything is in float64, as for PPO: Adam would blow the
rounding of tiny gradients up. What differs, and what is compared then:

- TRL calls the mean over tokens ``dapo`` (over a whole generation) and ``bnpo`` (over a
  minibatch); with one minibatch an update they are one.
- TRL has no dynamic sampling: DAPO's other parts are compared.
- TRL multiplies the KL by the ratio unless told not to (DeepSeek-V3.2, arXiv:2512.02556).
- TRL's REINFORCE with a running baseline does not exist; its loss is RLOO's, with an advantage of
  its own.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# Read when TRL is imported: PPO is experimental there, and would say so.
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from trl import GRPOConfig as TheirGRPOConfig
from trl import GRPOTrainer, RLOOTrainer
from trl import RLOOConfig as TheirRLOOConfig

from course_utils.rlhf import grpo, rollout
from course_utils.rlhf.actor import SeparateActor
from course_utils.rlhf.config import GRPOConfig
from course_utils.rlhf.grpo import train_grpo
from course_utils.rlhf.variants import DAPO, DR_GRPO, GRPO, RLOO, Variant
from tests.rlhf.tiny_actors import PROMPTS, disturb, tiny_policy, word_tokenizer

GROUP, N_NEW, RATE, TEMPERATURE = 4, 7, 5e-3, 0.9
LOW, HIGH = 0.02, 0.03
BATCH = GROUP * len(PROMPTS)
# Ours, TRL's trainer with its configuration, its options, and the price of KL.
CASES = {
    "GRPO": (GRPO, GRPOTrainer, TheirGRPOConfig, {"loss_type": "grpo"}, 0.3),
    "GRPO without KL": (GRPO, GRPOTrainer, TheirGRPOConfig, {"loss_type": "grpo"}, 0.0),
    "Dr. GRPO": (
        DR_GRPO,
        GRPOTrainer,
        TheirGRPOConfig,
        {"loss_type": "dr_grpo", "scale_rewards": "none"},
        0.0,
    ),
    "DAPO": (DAPO, GRPOTrainer, TheirGRPOConfig, {"loss_type": "dapo"}, 0.0),
    "token mean with KL": (
        replace(GRPO, reduce=DAPO.reduce),
        GRPOTrainer,
        TheirGRPOConfig,
        {"loss_type": "bnpo"},
        0.3,
    ),
    "RLOO": (RLOO, RLOOTrainer, TheirRLOOConfig, {"normalize_advantages": False}, 0.3),
    "RLOO without KL": (RLOO, RLOOTrainer, TheirRLOOConfig, {"normalize_advantages": False}, 0.0),
}


def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    """Score answers by their tokens alone; some groups are all alike, most are not."""
    return [sum(ids) % 5 / 4 for ids in completion_ids]


def exact_norm(norm: nn.Module, states: Tensor) -> Tensor:
    """Compute what transformers rounds to float32 on its way, and our passes do not."""
    squares = states.square().mean(dim=-1, keepdim=True)
    return norm.weight * (states * torch.rsqrt(squares + norm.variance_epsilon))


class Update:
    """One round of answers, two optimizer steps on it, and each side's way through it."""

    def __init__(self, folder: Path) -> None:
        self.start = tiny_policy().double()
        self.folder = folder
        self.start.save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        self.policy = copy.deepcopy(self.start)
        disturb(self.policy)
        self.batches: list[dict[str, Tensor]] = []
        self.losses: list[float] = []

    def theirs(self, trainer_class: type, config_class: type, options: dict) -> nn.Module:
        update = self

        class Noting(trainer_class):
            def compute_loss(self, model, inputs, *args, **more):
                loss = super().compute_loss(model, inputs, *args, **more)
                update.batches.append(
                    {k: v.clone() for k, v in inputs.items() if torch.is_tensor(v)}
                )
                update.losses.append(loss.item())
                return loss

        config = config_class(
            output_dir=str(self.folder / "out"),
            model_init_kwargs={"dtype": "auto"},
            num_generations=GROUP,
            per_device_train_batch_size=BATCH,
            max_completion_length=N_NEW,
            num_iterations=2,
            max_steps=2,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=0.5,
            temperature=TEMPERATURE,
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=1,
            seed=0,
            **options,
        )
        prompts = Dataset.from_list([{"prompt": f"<s> {text}"} for text in PROMPTS])
        trainer = Noting(
            str(self.folder),
            reward,
            config,
            train_dataset=prompts,
            processing_class=word_tokenizer(),
        )
        trainer.model.load_state_dict(self.policy.state_dict())
        trainer.train()
        return trainer.model

    def in_groups(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return prompts, answers and TRL's advantages, a prompt's together: TRL shuffles them."""
        batch = self.batches[0]
        prompts = batch["prompt_ids"].tolist()
        order = sorted(range(BATCH), key=prompts.__getitem__)
        return (
            batch["prompt_ids"][order],
            batch["completion_ids"][order],
            batch["advantages"][order],
        )

    def ours(self, variant: Variant, kl_coef: float, monkeypatch: pytest.MonkeyPatch):
        prompt_ids, answers, _ = self.in_groups()
        prompts = word_tokenizer().batch_decode(prompt_ids[::GROUP], skip_special_tokens=True)

        def answered(model: nn.Module, ids: Tensor, mask: Tensor, **_: object) -> Tensor:
            assert torch.equal(ids, prompt_ids)
            return answers

        def in_order(n_prompts: int, size: int, seed: int) -> Iterator[list[int]]:
            yield list(range(n_prompts))

        def scored(prompts: list[str], texts: list[str]) -> list[float]:
            ends = rollout.up_to_end(answers, 2)
            return reward([ids[m].tolist() for ids, m in zip(answers, ends, strict=True)])

        monkeypatch.setattr(rollout, "generate_tokens", answered)
        monkeypatch.setattr(grpo, "endless_batches", in_order)
        noted, plain = [], grpo.minibatch_loss

        def noting(actor, seen, advantages, rows, config):
            noted.append((advantages, plain(actor, seen, advantages, rows, config)))
            return noted[-1][1]

        monkeypatch.setattr(grpo, "minibatch_loss", noting)
        config = GRPOConfig(
            variant=variant,
            group_size=GROUP,
            n_updates=1,
            n_epochs=2,
            batch_size=BATCH,
            minibatch_size=BATCH,
            max_new_tokens=N_NEW,
            max_rounds=1,
            learning_rate=RATE,
            max_grad_norm=0.5,
            temperature=TEMPERATURE,
            kl_coef=kl_coef,
            show_progress=False,
        )
        actor = SeparateActor(self.policy, self.start)
        result = train_grpo(actor, word_tokenizer(), prompts, scored, config)
        losses = [loss.item() for _, (loss, _) in noted]
        return noted[0][0], losses, result.history[0]


@pytest.mark.parametrize("case", CASES)
def test_one_update_compares_loses_and_learns_the_same(case: str, tmp_path: Path, monkeypatch):
    variant, trainer_class, config_class, options, kl_coef = CASES[case]
    options = options | {"beta": kl_coef, "epsilon": LOW, "epsilon_high": HIGH}
    if trainer_class is GRPOTrainer:
        options |= {"use_bias_correction_kl": False}
    monkeypatch.setattr(LlamaRMSNorm, "forward", exact_norm)
    update = Update(tmp_path)
    before = copy.deepcopy(update.policy)
    trained = update.theirs(trainer_class, config_class, options)
    variant = replace(variant, clip_low=LOW, clip_high=HIGH)
    advantages, losses, metrics = update.ours(variant, kl_coef, monkeypatch)

    _, _, theirs = update.in_groups()
    torch.testing.assert_close(advantages, theirs.double(), rtol=1e-5, atol=1e-5)
    assert losses == pytest.approx(update.losses, rel=1e-5, abs=1e-7)
    # The update itself agrees, and not only the weights. All of them together: TRL's advantages are
    # in float32, and where a gradient is next to nothing Adam makes steps of that rounding.
    old, one, two = (
        nn.utils.parameters_to_vector(m.parameters()) for m in (before, update.policy, trained)
    )
    assert (one - two).norm() <= 1e-5 * (two - old).norm()

    # Else a clip, a mask, a group or a price could be wrong and nobody would see.
    assert metrics["policy/clipfrac_avg"] > 0
    assert abs(metrics["objective/kl"]) > 1e-3
    assert metrics["completions/mean_length"] < N_NEW
    assert metrics["reward_std"] > 0
