"""Instructions and preferences as chapters 07 and 08 train on them: longer, in chats, and spoiled.

Each task differs from ``following`` or ``rewards`` in one thing: what carries loss, which rows are
trained on, how many labels are wrong, or whose trainer runs.
"""

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from course_utils.data import chat_prompt, encode_pair, load_task
from course_utils.evaluation import recall_by
from course_utils.rlhf.assistant import pair_loss
from course_utils.studies.tasks import Row, Task, encode_row, pair_accuracy, score_exact
from course_utils.studies.trl.trainers import train_reward_with_trl, train_sft_with_trl

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SET = "instructions"
SFT_STEPS, REWARD_STEPS = 240, 80
NOISE_LEVELS = (0.2, 0.4)


def matches_by_type(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> dict[str, float]:
    """Return the share of instructions answered exactly, by type."""
    probes = [
        {
            "prompt": chat_prompt(tokenizer, row["instruction"], row["input"]),
            "answer": row["output"],
            "type": row["type"],
        }
        for row in rows
    ]
    return recall_by(model, tokenizer, probes, "type", with_end=True)


def _details(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> Row:
    return {
        f"{split}_by_type": matches_by_type(model, tokenizer, list(load_task(_SET, split)))
        for split in ("test", "test_unseen")
    }


def encode_chat_pair(tokenizer: "PreTrainedTokenizerBase", row: Row, *, noise: float = 0.0) -> dict:
    """Encode a preference pair as a chat, the answers swapped with probability ``noise``.

    Which rows are swapped is a function of the row, so that all runs see the same wrong labels.
    """
    chosen, rejected = row["chosen"], row["rejected"]
    if Random(f"{row['prompt']} {chosen} {rejected}").random() < noise:
        chosen, rejected = rejected, chosen
    return encode_pair(tokenizer, row["prompt"], chosen, rejected)


_FOLLOWING = {
    "metric": "exact match",
    "score": score_exact,
    "steps": SFT_STEPS,
    "details": _details,
    "test_splits": ("test", "test_unseen"),
    "task_set": _SET,
}
_REWARDS = {
    "metric": "pair accuracy",
    "score": partial(pair_accuracy, encode=encode_chat_pair),
    "test_splits": ("test", "test_unseen", "test_longer_is_worse"),
    "steps": REWARD_STEPS,
    "num_labels": 1,
    "loss_function": pair_loss,
    "task_set": "preferences",
}

ALIGNMENT_TASKS = {
    task.name: task
    for task in (
        Task(name="following", encode=encode_row, **_FOLLOWING),
        Task(name="following_all", encode=partial(encode_row, loss_on="all"), **_FOLLOWING),
        Task(name="following_noisy", encode=encode_row, train_split="train_noisy", **_FOLLOWING),
        Task(name="following_trl", encode=encode_row, trainer=train_sft_with_trl, **_FOLLOWING),
        Task(name="rewards", encode=encode_chat_pair, **_REWARDS),
        *(
            Task(
                name=f"rewards_noise{round(100 * noise)}",
                encode=partial(encode_chat_pair, noise=noise),
                **_REWARDS,
            )
            for noise in NOISE_LEVELS
        ),
        Task(
            name="rewards_trl", encode=encode_chat_pair, trainer=train_reward_with_trl, **_REWARDS
        ),
    )
}
