"""What we use of TRL is still there: names, options, columns and metrics.

Nothing is trained: each of our functions runs up to the point where it makes TRL's trainer, and
what it passes is compared with what trainer and configuration take. PPO left TRL after 1.12, and
other names move between releases; these tests say which, where a run would stop in the middle or
go on without them.
"""

import importlib
import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

# Read when TRL is imported: PPO is experimental there, and would say so.
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import pytest
import trl

from course_utils.rlhf import ppo
from course_utils.rlhf.config import PPOConfig
from course_utils.rlhf.reward_model import RewardModel
from course_utils.studies.trl import alignment, trainers
from course_utils.training import TrainingConfig
from tests.rlhf.tiny_actors import tiny_critic, tiny_policy, word_tokenizer

STABLE, PPO = "trl", "trl.experimental.ppo"
EXAMPLES = [{"input_ids": [1, 4, 5, 2], "labels": [-100, -100, 5, 2]}]
JOINED = [{"input_ids": [1, 4, 1, 5], "labels": 2}]
ONE_STEP = TrainingConfig(max_steps=1, learning_rate=1.0)
PAIRS = [{"prompt": "w4", "chosen": "w5", "rejected": "w6"}]


class Reached(Exception):  # noqa: N818
    """Our function has come to the trainer."""


def named(module: str, name: str) -> type:
    """Return a name of TRL, or say that it has gone."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        pytest.fail(f"TRL {trl.__version__} has no {module}.{name} any more")


def check_known(what: str, ours: Iterable[str], theirs: Iterable[str]) -> None:
    """Fail with the names that TRL does not know."""
    if gone := sorted(set(ours) - set(theirs)):
        pytest.fail(f"TRL {trl.__version__}: {what} has no {', '.join(gone)} any more")


def check_said(what: str, ours: Iterable[str], source: str) -> None:
    """Fail with the pieces of code that TRL's does not contain."""
    ours = list(ours)
    check_known(what, ours, [piece for piece in ours if piece in source])


def run_sft() -> None:
    trainers.train_sft_with_trl(tiny_policy(), EXAMPLES, ONE_STEP)


def run_reward() -> None:
    trainers.train_reward_with_trl(tiny_critic(), JOINED, ONE_STEP)


def run_online(method: str) -> None:
    alignment.train_online_with_trl(
        method, tiny_policy(), word_tokenizer(), ["w4"], None, PPOConfig()
    )


def run_dpo() -> None:
    alignment.train_dpo_with_trl(tiny_policy(), word_tokenizer(), PAIRS, PPOConfig())


def run_ppo() -> None:
    tokenizer = word_tokenizer()
    reward = RewardModel(tiny_critic(), tokenizer)
    alignment.train_ppo_with_trl(tiny_policy(), tokenizer, ["w4"], reward, PPOConfig())


RUNS: dict[str, tuple[str, str, Callable[[], None]]] = {
    "sft": (STABLE, "SFT", run_sft),
    "reward": (STABLE, "Reward", run_reward),
    "rloo": (STABLE, "RLOO", lambda: run_online("rloo")),
    "grpo": (STABLE, "GRPO", lambda: run_online("grpo")),
    "dpo": (STABLE, "DPO", run_dpo),
    "ppo": (PPO, "PPO", run_ppo),
}


def passed_by(run: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what one of our functions passes to the configuration, and to the trainer."""
    module, prefix, start = RUNS[run]
    seen: list[dict[str, Any]] = []

    def trainer(**arguments: Any) -> None:
        seen.append(arguments)
        raise Reached

    monkeypatch.setattr(f"{module}.{prefix}Config", lambda **options: SimpleNamespace(**options))
    monkeypatch.setattr(f"{module}.{prefix}Trainer", trainer)
    monkeypatch.setattr("course_utils.models.load_tokenizer", lambda _: word_tokenizer())
    monkeypatch.setattr(alignment, "classifier_on", lambda *_: tiny_critic())
    with pytest.raises(Reached):
        start()
    (arguments,) = seen
    return vars(arguments["args"]), arguments


@pytest.mark.parametrize("run", RUNS)
def test_options_and_arguments_are_known(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, prefix, _ = RUNS[run]
    config, trainer = (named(module, f"{prefix}{kind}") for kind in ("Config", "Trainer"))
    options, arguments = passed_by(run, monkeypatch)
    assert len(options) > 10
    check_known(f"{prefix}Config", options, (field.name for field in fields(config)))
    check_known(f"{prefix}Trainer", arguments, inspect.signature(trainer.__init__).parameters)


@pytest.mark.parametrize("run", RUNS)
def test_columns_are_read(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column that TRL does not read is dropped without a word."""
    module, prefix, _ = RUNS[run]
    source = inspect.getsource(inspect.getmodule(named(module, f"{prefix}Trainer")))
    _, arguments = passed_by(run, monkeypatch)
    columns = arguments["train_dataset"].column_names
    assert columns
    check_said(f"the source of {prefix}Trainer", [f'"{name}"' for name in columns], source)


@pytest.mark.parametrize("prefix", ["SFT", "Reward"])
def test_tokens_are_logged(prefix: str) -> None:
    source = inspect.getsource(named(STABLE, f"{prefix}Trainer"))
    check_said(f"the log of {prefix}Trainer", ['["num_tokens"]'], source)


def test_ppo_logs_the_metrics_that_ours_is_compared_by() -> None:
    source = inspect.getsource(named(PPO, "PPOTrainer").train)
    ours = inspect.getsource(ppo.summary) + inspect.getsource(ppo.minibatch_loss)
    names = {
        word
        for word in ours.split('"')
        if word.partition("/")[0] in ("objective", "policy", "loss", "val")
    }
    assert len(names) == 15
    # The price of KL is fixed there, and is no metric.
    names = names - {"objective/kl_coef"} | {"lr", "episode"}
    check_said("the log of PPOTrainer", [f'metrics["{name}"]' for name in names], source)


def test_ppo_reads_a_reward_model_as_ours_is_wrapped() -> None:
    """``get_reward`` asks for what ScoreBeforeEnd has, and passes what its trunk takes."""
    source = inspect.getsource(named("trl.experimental.utils", "get_reward"))
    parts = ("model.base_model_prefix", "model.score(", "hidden_states[-1]", "input_ids=input_ids")
    check_said("get_reward", parts, source)


def test_silence_is_asked_for_by_its_name() -> None:
    source = inspect.getsource(importlib.import_module("trl.experimental"))
    check_said("trl.experimental", ['environ.get("TRL_EXPERIMENTAL_SILENCE")'], source)


def test_what_moved_is_named() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"TRL 1\..*no trl.PPOTrainer any more"):
        named(STABLE, "PPOTrainer")
    with pytest.raises(pytest.fail.Exception, match=r"no trl.nothing.X any more"):
        named("trl.nothing", "X")
    with pytest.raises(pytest.fail.Exception, match=r"PPOConfig has no a, c any more"):
        check_known("PPOConfig", ["a", "b", "c"], ["b", "d"])
    check_known("PPOConfig", ["b"], ["b", "d"])
