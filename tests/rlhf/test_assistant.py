"""The shipped assistant and reward model: what they can, and that they follow from the recipe."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from course_utils.cli.doctor import run_checks
from course_utils.data import chat_prompt, load_task
from course_utils.evaluation import greedy_matches
from course_utils.methods import AdapterError
from course_utils.methods.layers import adapted_layers
from course_utils.models import build_random_model, load_base_model, load_tokenizer
from course_utils.rlhf import assistant as start


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


@pytest.fixture(scope="module")
def assistant():
    return start.load_assistant()


@pytest.fixture(scope="module")
def reward(assistant):
    return start.load_reward_model(assistant)


@pytest.mark.parametrize(
    ("name", "method", "training"),
    [
        ("assistant", start.ASSISTANT, start.ASSISTANT_TRAINING),
        ("reward", start.REWARD, start.REWARD_TRAINING),
    ],
)
def test_what_is_shipped_was_made_by_the_recipe(name: str, method, training: dict):
    folder = start.adapter_folder(name)
    assert json.loads((folder / "training.json").read_text())["training"] == training
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (method.rank, method.alpha)
    assert (folder / "adapter_model.safetensors").stat().st_size < 2_000_000


def test_the_assistant_is_a_plain_model_that_does_as_told(assistant, tokenizer):
    assert not adapted_layers(assistant)
    rows = list(load_task("instructions", "test"))[:150]
    prompts = [chat_prompt(tokenizer, row["instruction"], row["input"]) for row in rows]
    answers = [row["output"] for row in rows]
    matches = greedy_matches(assistant, tokenizer, prompts, answers, with_end=True)
    assert sum(matches) / len(matches) >= 0.6


def test_the_reward_model_prefers_what_is_better_in_words_it_never_saw(reward, tokenizer):
    pairs = load_task("preferences", "test").select(range(200))
    chosen, rejected = start.score_pairs(reward, pairs, tokenizer)
    assert (chosen > rejected).float().mean() > 0.7


def test_rewards_are_standardised_on_the_validation_answers(reward, tokenizer):
    pairs = load_task("preferences", "validation").select(range(100))
    scores = torch.cat(start.score_pairs(reward, pairs, tokenizer))
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std().item() == pytest.approx(1, abs=1e-4)


def test_the_reward_model_s_trunk_is_the_assistant_s(assistant, reward):
    ours = dict(assistant.model.named_parameters())
    theirs = {n.replace(".base.", "."): p for n, p in reward.model.model.named_parameters()}
    assert set(ours) <= set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_assistant_has_seen_better_and_worse_answers(tokenizer):
    examples = start.assistant_examples(tokenizer)
    n_instructions = len(load_task("instructions", "train"))
    assert len(examples) == n_instructions + start.N_OWN_ANSWERS
    rows = load_task("preferences", "train").select(range(200))
    own = examples[n_instructions : n_instructions + 200]
    said = [tokenizer.decode([t for t in e["labels"] if t != -100][:-1]) for e in own]
    is_better = [text == row["chosen"] for text, row in zip(said, rows, strict=True)]
    is_worse = [text == row["rejected"] for text, row in zip(said, rows, strict=True)]
    assert all(a != b for a, b in zip(is_better, is_worse, strict=True))
    assert 0.35 < sum(is_better) / 200 < 0.65


def test_a_damaged_adapter_is_refused_and_the_doctor_says_so(tmp_path: Path, monkeypatch):
    shutil.copytree(start.adapter_folder("assistant").parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(start, "adapter_folder", lambda name: tmp_path / name)

    def found_by_the_doctor() -> str:
        (check,) = (check for check in run_checks() if check.name == "adapters")
        return f"{check.status}: {check.detail}"

    assert found_by_the_doctor() == "ok: assistant and reward, checksums match"
    weights = tmp_path / "assistant" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for damaged, message in (
        (whole[:-5001] + bytes([whole[-5001] ^ 64]) + whole[-5000:], "not match its checksum"),
        (whole[:1000], "holds a damaged adapter"),
        (None, "holds no adapter"),
    ):
        weights.unlink()
        if damaged:
            weights.write_bytes(damaged)
        with pytest.raises(AdapterError, match=message):
            start.load_assistant()
        assert re.match(f"broken: .*{message}", found_by_the_doctor())
        weights.touch()


def test_the_recipes_run(tokenizer, monkeypatch: pytest.MonkeyPatch):
    some = start.assistant_examples(tokenizer)[:8]
    monkeypatch.setattr(start, "assistant_examples", lambda _: some)
    short = {"max_steps": 1, "batch_size": 4, "show_progress": False}
    model = start.train_assistant(build_random_model("embedded"), tokenizer, **short)
    assert any(layer.B.any() for layer in adapted_layers(model).values())
    pairs = load_task("preferences", "train").select(range(4))
    classifier = start.classifier_on(load_base_model("embedded"))
    judge = start.train_reward_model(classifier, tokenizer, pairs, **short)
    assert any(layer.B.any() for layer in adapted_layers(judge).values())
    assert judge.config.num_labels == 1
