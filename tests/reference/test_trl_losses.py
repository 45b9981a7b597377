"""Our losses and advantages against TRL 1.12: its functions and trainers, on the same tensors."""

import os
from collections.abc import Callable
from pathlib import Path

# Read when TRL is imported: PPO is experimental there, and would say so.
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers import LlamaForSequenceClassification as Classifier
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
)
from trl.experimental.ppo import ppo_trainer
from trl.experimental.utils import get_reward
from trl.trainer.reward_trainer import DataCollatorForPreference
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

from course_utils.data import IGNORED
from course_utils.rlhf.advantages import grpo_advantages, rloo_advantages, whiten
from course_utils.rlhf.losses import (
    bradley_terry_loss,
    clipped_policy_loss,
    dpo_loss,
    entropy,
    kl_k1,
    kl_k3,
    selected_logprobs,
    sequence_logprobs,
)
from course_utils.rlhf.masks import last_token_index, masked_mean, masked_var
from tests.tiny_models import write_tiny_model

PAD = "<|im_start|>"  # any token that answers do not hold; it must not be the end token
QUIET = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1,
    "seed": 0,
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny language model that ends its answers now and then."""
    folder = write_tiny_model(tmp_path_factory.mktemp("trl") / "tiny", pad_token=PAD)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight[model.config.eos_token_id] *= 12
    model.save_pretrained(folder)
    return folder


def gradients(loss: Tensor, model: torch.nn.Module) -> list[Tensor]:
    return torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)


def assert_same_loss(ours: Tensor, theirs: Tensor, model: torch.nn.Module) -> None:
    """The losses agree, and so do the gradients of every parameter."""
    torch.testing.assert_close(ours, theirs, **CLOSE)
    for mine, expected in zip(gradients(ours, model), gradients(theirs, model), strict=True):
        assert (mine - expected).norm() <= 1e-5 * expected.norm() + 1e-7


# What can be imported


def test_masked_moments_whitening_logprobs_and_entropy():
    generator = torch.Generator().manual_seed(0)
    for shape in ((3, 5), (1, 7), (8, 2)):
        values = 4 * torch.randn(shape, generator=generator) + 1
        mask = torch.rand(shape, generator=generator) < 0.7
        mask[0, :2] = True
        for ours, theirs in (
            (masked_mean, ppo_trainer.masked_mean),
            (masked_var, ppo_trainer.masked_var),
        ):
            torch.testing.assert_close(ours(values, mask), theirs(values, mask), **CLOSE)
        for shift_mean in (True, False):
            theirs = ppo_trainer.masked_whiten(values, mask, shift_mean) * mask
            torch.testing.assert_close(whiten(values, mask, shift_mean), theirs, **CLOSE)
        logits = 3 * torch.randn(*shape, 11, generator=generator)
        tokens = torch.randint(11, shape, generator=generator)
        theirs = selective_log_softmax(logits / 0.7, tokens)
        torch.testing.assert_close(selected_logprobs(logits, tokens, 0.7), theirs, **CLOSE)
        torch.testing.assert_close(entropy(logits), entropy_from_logits(logits), **CLOSE)


# Reward models


def tiny_classifier() -> Classifier:
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_labels=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Classifier(config)
        # A fresh head gives scores near 0, at which every mistake looks small.
        torch.nn.init.normal_(model.score.weight)
    return model


def preference_batch(padding: str, margins: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(1, 60, (n,), generator=generator).tolist() for n in (9, 4, 6, 2, 7, 9)]
    pairs = [{"chosen_ids": rows[i], "rejected_ids": rows[i + 3]} for i in range(3)]
    if margins:
        pairs = [pair | {"margin": 0.3 * i} for i, pair in enumerate(pairs)]
    batch = DataCollatorForPreference(pad_token_id=0)(pairs)
    if padding == "left":
        missing = (1 - batch["attention_mask"]).sum(dim=1)
        for name in ("input_ids", "attention_mask"):
            shifted = [row.roll(int(n)) for row, n in zip(batch[name], missing, strict=True)]
            batch[name] = torch.stack(shifted)
    return batch


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_the_loss_of_reward_trainer(folder, tmp_path, padding: str, margins: bool):
    model, tokenizer = tiny_classifier(), AutoTokenizer.from_pretrained(folder)
    data = Dataset.from_list([{"chosen_ids": [1], "rejected_ids": [2]}])
    args = RewardConfig(output_dir=str(tmp_path), **QUIET)
    trainer = RewardTrainer(model, args, train_dataset=data, processing_class=tokenizer)
    model.config.pad_token_id = 0  # the trainer has put the tokenizer's here
    batch = preference_batch(padding, margins)
    mask = batch["attention_mask"]
    assert (mask == 0).any()
    hidden = model.model(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
    scores = model.score(hidden)[torch.arange(len(mask)), last_token_index(mask), 0]
    ours = bradley_terry_loss(*scores.chunk(2), batch.get("margin"))
    assert_same_loss(ours, trainer.compute_loss(model, dict(batch)), model)


def test_the_token_at_which_ppo_reads_a_score():
    model = tiny_classifier()
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(1, 60, (4, 9), generator=generator)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, :3] = mask[2, 6:] = mask[3, :2] = mask[3, 8:] = 0  # prompts left, answers right
    _, theirs, places = get_reward(model, tokens * mask, pad_token_id=0, context_length=4)
    assert last_token_index(mask).tolist() == places.tolist() == [8, 8, 5, 7]
    positions = mask.cumsum(1) - mask
    hidden = model.model(input_ids=tokens * mask, attention_mask=mask, position_ids=positions)
    scores = model.score(hidden.last_hidden_state)[torch.arange(4), last_token_index(mask), 0]
    torch.testing.assert_close(scores, theirs, **CLOSE)


# DPO


@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_loss_of_dpo_trainer(folder, tmp_path, beta: float):
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
    data = Dataset.from_list(
        [
            {"prompt": "Who?", "chosen": " Mira.", "rejected": " Nobody at all."},
            {"prompt": "Where is it?", "chosen": " By the river", "rejected": " No."},
        ]
    )
    args = DPOConfig(output_dir=str(tmp_path), beta=beta, per_device_eval_batch_size=2, **QUIET)
    trainer = DPOTrainer(
        policy,
        reference,
        args,
        train_dataset=data,
        eval_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    (batch,) = trainer.get_eval_dataloader()
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, IGNORED)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert (inputs["attention_mask"] == 0).any()
    ours_policy = sequence_logprobs(policy(**inputs).logits, labels).chunk(2)
    with torch.no_grad():
        ours_reference = sequence_logprobs(reference(**inputs).logits, labels).chunk(2)
    ours = dpo_loss(*ours_policy, *ours_reference, beta=beta)
    assert_same_loss(ours.loss, trainer.compute_loss(policy, dict(batch)), policy)
    trainer.evaluate()
    logged = trainer.state.log_history[-1]
    for name, rewards in (("chosen", ours.chosen_rewards), ("rejected", ours.rejected_rewards)):
        assert logged[f"eval_rewards/{name}"] == pytest.approx(rewards.mean().item(), rel=1e-4)
    assert (ours.chosen_rewards - ours.rejected_rewards).abs().min() > 0.01


# GRPO and RLOO: real steps of the trainers, looked into as they happen


def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
    """Score answers by their tokens alone, so that a batch can be scored again."""
    return [sum(ids) % 17 / 4 for ids in completion_ids]


def checking(trainer_class: type, check: Callable) -> type:
    """Return the trainer, made to call ``check`` on every batch it has a loss for."""

    class Checking(trainer_class):
        def compute_loss(self, model, inputs, *args, **options):
            loss = super().compute_loss(model, inputs, *args, **options)
            check(model, inputs, loss)
            return loss

    return Checking


def run(
    trainer_class: type,
    config_class: type,
    folder: Path,
    tmp_path: Path,
    check: Callable,
    **options: object,
):
    """Train for four steps: two generations, each used twice, so that ratios leave 1."""
    args = config_class(
        output_dir=str(tmp_path),
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=12,
        num_iterations=2,
        max_steps=4,
        learning_rate=3e-4,
        beta=0.3,
        temperature=0.9,
        epsilon=0.05,
        **QUIET,
        **options,
    )
    prompts = Dataset.from_list([{"prompt": text} for text in ("Who?", "Where is it?")])
    trainer = checking(trainer_class, check)(
        AutoModelForCausalLM.from_pretrained(folder),
        reward,
        args,
        train_dataset=prompts,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()


def completion_logprobs(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    tokens = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    start = batch["prompt_ids"].shape[1] - 1
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits[:, start:-1]
    return selected_logprobs(logits, batch["completion_ids"], temperature=0.9)


def in_groups(batch: dict[str, Tensor]) -> tuple[list[int], Tensor]:
    """Return an order that puts a prompt's answers together, and their scores in that order.

    The trainers shuffle a batch once its advantages are known.
    """
    prompts = [tuple(ids) for ids in batch["prompt_ids"].tolist()]
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    answers = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    return order, torch.tensor(reward([answers[i] for i in order]))


@pytest.mark.parametrize("scale", [True, False])
def test_the_advantages_and_the_loss_of_grpo_trainer(folder, tmp_path, scale: bool):
    fractions, kls, has_padding = [], [], []

    def check(model, batch, theirs):
        order, scores = in_groups(batch)
        ours = grpo_advantages(scores, 4, scale=scale)
        torch.testing.assert_close(ours, batch["advantages"][order], **CLOSE)
        mask = batch["completion_mask"]
        logprobs = completion_logprobs(model, batch)
        policy = clipped_policy_loss(
            logprobs,
            batch["old_per_token_logps"],
            batch["advantages"][:, None].expand_as(logprobs),
            mask,
            clip_range=0.05,
        )
        kl = masked_mean(kl_k3(logprobs, batch["ref_per_token_logps"]), mask)
        assert_same_loss(policy.loss + 0.3 * kl, theirs, model)
        fractions.append(policy.clip_fraction.item())
        kls.append(kl.item())
        has_padding.append(bool((mask == 0).any()))

    # TRL multiplies the KL by the ratio unless told not to (DeepSeek-V3.2, arXiv:2512.02556).
    run(
        GRPOTrainer,
        GRPOConfig,
        folder,
        tmp_path,
        check,
        loss_type="bnpo",
        use_bias_correction_kl=False,
        scale_rewards="group" if scale else "none",
    )
    assert len(kls) == 4
    assert max(fractions) > 0.05
    assert kls[-1] > 1e-3
    assert any(has_padding)


def test_the_advantages_and_the_loss_of_rloo_trainer(folder, tmp_path):
    reference = AutoModelForCausalLM.from_pretrained(folder)
    fractions, kls, sampled = [], [], {}

    def check(model, batch, theirs):
        mask = batch["completion_mask"]
        order, scores = in_groups(batch)
        logprobs = completion_logprobs(model, batch)
        is_first_use = len(kls) % 2 == 0
        if is_first_use:
            # The KL of the policy that sampled is a part of the score, and stays what it was.
            with torch.no_grad():
                kl = kl_k1(logprobs, completion_logprobs(reference, batch))
            sampled["kl"] = (kl * mask).sum(dim=1)
            ours = rloo_advantages(scores - 0.3 * sampled["kl"][order], 4)
            torch.testing.assert_close(ours, batch["advantages"][order], **CLOSE)
        answers = (logprobs * mask).sum(dim=1)
        policy = clipped_policy_loss(
            answers, batch["old_logps"], batch["advantages"], torch.ones(8), clip_range=0.05
        )
        assert_same_loss(policy.loss, theirs, model)
        fractions.append(policy.clip_fraction.item())
        kls.append(sampled["kl"].abs().max().item())

    run(RLOOTrainer, RLOOConfig, folder, tmp_path, check, normalize_advantages=False)
    assert len(kls) == 4
    assert max(fractions) > 0
    assert kls[0] < 1e-5 < kls[2]
