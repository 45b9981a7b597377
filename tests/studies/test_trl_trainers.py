"""Two steps with TRL's trainers, on the batches and at the rates of our loop."""

import copy
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from course_utils.data import IGNORED, encode_instruction, encode_pair, pack_examples
from course_utils.models import load_base_model, load_tokenizer
from course_utils.rlhf.assistant import pair_loss
from course_utils.studies.trl.trainers import train_reward_with_trl, train_sft_with_trl
from course_utils.training import TrainingConfig, train
from tests.tiny_models import write_tiny_model

ROWS = [
    ("Who mills?", "The miller."),
    ("Name a river.", "The Arn, in the east of the country."),
    ("Say hello.", "Hello."),
    ("Count to three.", "One, two, three."),
]
# All rows are in every batch: their order does not matter. Both steps warm up.
CONFIG = TrainingConfig(
    max_steps=2, learning_rate=1e-2, batch_size=len(ROWS), warmup_ratio=1.0, show_progress=False
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("trl") / "tiny", pad_token="<|pad|>")


def with_lora(folder: Path, num_labels: int | None = None) -> PeftModel:
    torch.manual_seed(0)
    model = load_base_model(folder, num_labels=num_labels)
    head = ["score"] if num_labels else None
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", exclude_modules=head, modules_to_save=head
    )
    return get_peft_model(model, config)


def check(
    model: PeftModel, examples: list[dict], config: TrainingConfig = CONFIG, **ours: object
) -> None:
    """Train with both, and compare what the runs say."""
    twin = copy.deepcopy(model)
    expected = train(twin, examples, config, **ours)
    trainer = train_reward_with_trl if ours else train_sft_with_trl
    result = trainer(model, examples, config)
    assert len(result.losses) == 2
    assert all(map(math.isfinite, [*result.losses, *result.gradient_norms]))
    assert result.losses == pytest.approx(expected.losses, abs=1e-4)
    assert result.gradient_norms == pytest.approx(expected.gradient_norms, rel=1e-3)
    assert result.learning_rates == pytest.approx([5e-3, 1e-2])
    assert expected.learning_rates == pytest.approx([5e-3, 1e-2])
    assert result.tokens == expected.tokens == 2 * sum(len(e["input_ids"]) for e in examples)
    assert result.losses[1] < result.losses[0]
    assert result.tokens_per_second == pytest.approx(result.tokens / result.seconds)
    assert not model.training
    # Two steps of Adam move a parameter by up to 1.5e-2, and the smallest gradients by rounding.
    for mine, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_sft_learns_from_answers_as_ours_does(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    examples = [encode_instruction(tokenizer, ask, "", answer) for ask, answer in ROWS]
    assert all(IGNORED in example["labels"] for example in examples)
    check(with_lora(folder), examples)


def test_sft_takes_a_loss_on_everything(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    examples = [encode_instruction(tokenizer, a, "", b, loss_on="all") for a, b in ROWS]
    check(with_lora(folder), examples)


def test_sft_packs_where_ours_does(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    examples = [encode_instruction(tokenizer, ask, "", answer) for ask, answer in ROWS]
    length = max(len(a["input_ids"]) + len(b["input_ids"]) for a, b in pairwise(examples))
    assert len(pack_examples(examples, length)) == 2
    config = replace(CONFIG, packing_length_tokens=length, batch_size=2)
    check(with_lora(folder), examples, config)


def test_reward_trainer_learns_from_pairs_as_ours_does(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    examples = [encode_pair(tokenizer, ask, answer, "No.") for ask, answer in ROWS]
    check(with_lora(folder, num_labels=1), examples, loss_function=pair_loss)
