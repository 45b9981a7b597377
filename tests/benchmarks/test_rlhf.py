"""Each part of the benchmark runs, on as little as it takes; and its ratios are what they say."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.benchmarks import rlhf


@pytest.mark.parametrize(
    "make",
    [
        lambda: rlhf.ppo(
            replace(
                rlhf.PPO, n_updates=1, n_epochs=1, batch_size=4, minibatch_size=2, max_new_tokens=4
            )
        ),
        lambda: rlhf.sft(replace(rlhf.SFT, max_steps=2)),
        lambda: rlhf.generation(do_sample=False, n_prompts=2, max_new_tokens=3),
        lambda: rlhf.generation(do_sample=True, n_prompts=2, max_new_tokens=3),
    ],
    ids=["ppo", "sft", "greedy", "sampled"],
)
def test_every_contestant_runs(make: Callable[[], rlhf.Contest]) -> None:
    contest = make()
    speeds = {name: run() for name, run in contest.items()}
    assert len(speeds) >= 2
    assert all(speed > 0 for speed in speeds.values())


def test_contestants_take_turns_and_the_first_round_is_dropped() -> None:
    order = []

    def contestant(name: str, speed: float) -> Callable[[], float]:
        return lambda: order.append(name) or speed * len(order)

    speeds = rlhf.compete({"ours": contestant("a", 2.0), "TRL": contestant("b", 1.0)}, rounds=3)
    assert order == ["a", "b"] * 3
    assert speeds == {"ours": [6.0, 10.0], "TRL": [4.0, 6.0]}


def test_ratios_are_taken_round_by_round() -> None:
    # Both double from one round to the next: the speeds vary, the ratio does not.
    lines = list(rlhf.table({"ours, a": [10.0, 20.0], "ours, b": [5.0, 10.0], "TRL": [5.0, 10.0]}))
    assert len(lines) == 3 + 2
    assert lines[3].split() == ["ours,", "a", "/", "TRL", "2.00x", "(2.00", "to", "2.00)"]
    assert "1.00x" in lines[4]
