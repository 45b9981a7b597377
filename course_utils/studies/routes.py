"""The routes to more reward: each trains the shipped assistant on the same budget.

Every route that samples writes 1,280 answers and takes 160 optimizer steps; those that learn from
given pairs or answers take 160 steps of eight. LoRA is the same for all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.data import chat_prompt, encode_answer, load_task
from course_utils.generation import end_tokens, generate_tokens, padding_of
from course_utils.methods import apply
from course_utils.models import load_tokenizer
from course_utils.rlhf.actor import SeparateActorCritic, SharedActorCritic
from course_utils.rlhf.assistant import (
    classifier_on,
    load_assistant,
    load_reward_model,
    train_reward_model,
)
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.ppo import train_ppo
from course_utils.rlhf.reward_model import RewardModel
from course_utils.rlhf.rollout import Reward, read_prompts, score_answers
from course_utils.studies.place import embedded_on
from course_utils.studies.trl.alignment import (
    POLICY,
    train_dpo_with_trl,
    train_online_with_trl,
    train_ppo_with_trl,
)
from course_utils.training import TrainingConfig, train
from course_utils.world.judge import judge

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MAX_NEW_TOKENS = 40
CONFIG = PPOConfig(
    n_updates=40, max_new_tokens=MAX_NEW_TOKENS, missing_eos_penalty=1.0, show_progress=False
)
# The same answers and steps, eight answers a step: each is learnt from once, and no step is off
# the policy that wrote them. No critic (its head starts at zero and stays there).
ONCE = {"n_updates": 160, "batch_size": 8, "minibatch_size": 8, "n_epochs": 1, "lam": 1.0}
STEPS, BATCH_SIZE, GROUP_SIZE, N_ASKED = 160, 8, 4, 320
N_MEMBERS = 3

# A trained policy, and the metrics of each update where the route has them.
Trained = tuple[nn.Module, list[dict]]


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


def fresh_start(seed: int, device: str = "cpu") -> Start:
    """Load assistant, reference and reward model; the seed is that of new adapters."""
    source = embedded_on(device)
    reference = load_assistant(source)
    start = Start(
        policy=load_assistant(source),
        reference=reference,
        reward=load_reward_model(reference, source),
        tokenizer=load_tokenizer(source),
    )
    torch.manual_seed(seed)
    return start


def rendered(tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str]) -> list[str]:
    """Return questions as chats that wait for the answer."""
    return [chat_prompt(tokenizer, question) for question in questions]


def run_ppo(
    start: Start,
    config: PPOConfig,
    *,
    make_reward: Callable[[Start], Reward] | None = None,
    is_separate: bool = False,
    **changes: object,
) -> Trained:
    """Train with our PPO.

    Args:
        start: Where from.
        config: How.
        make_reward: Makes another reward than the start's.
        is_separate: Whether the critic is a model of its own; otherwise one row on the policy.
        changes: Fields of the configuration that differ.
    """
    policy, tokenizer = apply(start.policy, POLICY), start.tokenizer
    actor = SharedActorCritic(policy)
    if is_separate:
        critic = apply(classifier_on(start.reference, embedded_on(policy.device.type)), POLICY)
        actor = SeparateActorCritic(policy, start.reference, critic)
    prompts = rendered(tokenizer, load_task("questions", "train")["question"])
    reward = make_reward(start) if make_reward else start.reward
    result = train_ppo(actor, tokenizer, prompts, reward, replace(config, **changes))
    return policy, result.history


def run_trl_ppo(start: Start, config: PPOConfig) -> Trained:
    """Train with TRL's PPOTrainer."""
    prompts = rendered(start.tokenizer, load_task("questions", "train")["question"])
    return train_ppo_with_trl(start.policy, start.tokenizer, prompts, start.reward, config)


def run_online(method: str, start: Start, config: PPOConfig) -> Trained:
    """Train with TRL's RLOOTrainer or GRPOTrainer."""
    questions = load_task("questions", "train")["question"]
    given = start.policy, start.tokenizer, questions, start.reward, config
    return train_online_with_trl(method, *given), []


def run_dpo(start: Start, config: PPOConfig, *, is_on_policy: bool = False) -> Trained:
    """Train with TRL's DPOTrainer, on the preference pairs or on the policy's own answers."""
    pairs = list(load_task("preferences", "train"))
    if is_on_policy:
        groups = sampled_groups(start, config.seed)
        pairs = [
            {
                "prompt": group.question,
                "chosen": group.texts[group.places[0]],
                "rejected": group.texts[group.places[-1]],
            }
            for group in groups
        ]
    config = replace(config, n_updates=STEPS, batch_size=BATCH_SIZE, minibatch_size=BATCH_SIZE)
    return train_dpo_with_trl(start.policy, start.tokenizer, pairs, config), []


def run_rejection(start: Start, config: PPOConfig, *, is_random: bool = False) -> Trained:
    """Tune on one of four own answers to each question: the best, or any (the control)."""
    examples = [
        encode_answer(
            start.tokenizer,
            chat_prompt(start.tokenizer, group.question),
            group.texts[0 if is_random else group.places[0]],
        )
        for group in sampled_groups(start, config.seed)
    ]
    policy = apply(start.policy, POLICY)
    how = TrainingConfig(
        max_steps=STEPS,
        batch_size=BATCH_SIZE,
        learning_rate=config.learning_rate,
        seed=config.seed,
        show_progress=False,
    )
    train(policy, examples, how)
    return policy, []


@dataclass(frozen=True, kw_only=True)
class Group:
    """Answers to one question, and their places from the best to the worst by the reward."""

    question: str
    texts: list[str]
    places: list[int]


@torch.no_grad()
def sampled_groups(start: Start, seed: int) -> list[Group]:
    """Let the assistant answer each of 320 questions four times: 1,280 answers, scored."""
    policy, tokenizer = start.policy.eval(), start.tokenizer
    questions = load_task("questions", "train").shuffle(seed=seed)["question"][:N_ASKED]
    generator = torch.Generator(policy.device).manual_seed(seed)
    groups = []
    for first in range(0, N_ASKED, 16):
        some = [q for q in questions[first : first + 16] for _ in range(GROUP_SIZE)]
        prompts = rendered(tokenizer, some)
        answers = generate_tokens(
            policy,
            *read_prompts(policy, tokenizer, prompts, MAX_NEW_TOKENS),
            max_new_tokens=MAX_NEW_TOKENS,
            eos_token_id=end_tokens(policy, tokenizer),
            pad_token_id=padding_of(tokenizer),
            temperature=1.0,
            generator=generator,
        )
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        scores = score_answers(start.reward, prompts, texts).tolist()
        for place in range(0, len(some), GROUP_SIZE):
            mine = scores[place : place + GROUP_SIZE]
            order = sorted(range(GROUP_SIZE), key=mine.__getitem__, reverse=True)
            texts_of_one = texts[place : place + GROUP_SIZE]
            groups.append(Group(question=some[place], texts=texts_of_one, places=order))
    return groups


def judge_as_reward(start: Start) -> Reward:
    """Return the judge's true score as a reward, standardised on the reward model's own pairs."""
    rows: Sequence[Mapping] = load_task("questions", "train")
    prompts = rendered(start.tokenizer, rows["question"])
    right = dict(zip(prompts, rows["answer"], strict=True))
    pairs = load_task("preferences", "validation").select(range(100))
    known = [*pairs["chosen_score"], *pairs["rejected_score"]]
    mean, std = fmean(known), stdev(known)

    def score(prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
        grades = [judge(a, right[p]).score for p, a in zip(prompts, answers, strict=True)]
        return [(grade - mean) / std for grade in grades]

    return score


def ensemble_as_reward(start: Start) -> Reward:
    """Return the mean of three reward models less their standard deviation.

    The shipped one, and two more that differ in their seed (Coste et al., 2023, arXiv:2310.02743,
    section 3: uncertainty-weighted optimisation).
    """
    source = embedded_on(start.reference.device.type)
    pairs = load_task("preferences", "validation").select(range(100))
    prompts = rendered(start.tokenizer, pairs["prompt"]) * 2
    answers = [*pairs["chosen"], *pairs["rejected"]]
    members: list[RewardModel] = [start.reward]
    with torch.random.fork_rng():
        for seed in range(1, N_MEMBERS):
            model = classifier_on(start.reference, source)
            torch.manual_seed(seed)
            train_reward_model(model, start.tokenizer, seed=seed, show_progress=False)
            one = RewardModel(model, start.tokenizer)
            members.append(one.standardized_on(prompts, answers))

    def score(prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        scores = torch.stack([member(prompts, answers) for member in members])
        return scores.mean(0) - scores.std(0)

    return score


# What TRL's loop does otherwise than ours: the score's place, a critic of its own, no clipping of
# gradients.
LIKE_TRL = {"score_after_end": True, "is_separate": True, "max_grad_norm": 1e6}

TRAINERS: dict[str, Callable[[Start, PPOConfig], Trained]] = {
    "ppo": run_ppo,
    "reinforce": partial(run_ppo, vf_coef=0.0, **ONCE),
    "trl_ppo": run_trl_ppo,
    "rloo": partial(run_online, "rloo"),
    "grpo": partial(run_online, "grpo"),
    "dpo": run_dpo,
    "dpo_own_pairs": partial(run_dpo, is_on_policy=True),
    "tuned_on_best": run_rejection,
    "tuned_on_any": partial(run_rejection, is_random=True),
    "ppo_on_judge": partial(run_ppo, make_reward=judge_as_reward),
    "ppo_on_ensemble": partial(run_ppo, make_reward=ensemble_as_reward),
    "ppo_like_trl": partial(run_ppo, **LIKE_TRL),
}
