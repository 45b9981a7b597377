"""Each part of the benchmark runs, on as little as it takes; and its ratios are what they say."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from course_utils.paths import data_dir
from tests.benchmarks import __main__ as program
from tests.benchmarks import adapters, rlhf, scale, soft_prompts, start, training
from tests.benchmarks.contest import Contest, Part, bootstrap, compete, ratios_of

SMALL_PPO = replace(
    rlhf.PPO, n_updates=1, n_epochs=1, batch_size=4, minibatch_size=2, max_new_tokens=4
)
SMALL_GRPO = replace(
    rlhf.GRPO, n_updates=1, batch_size=4, group_size=2, minibatch_size=4, max_new_tokens=4
)


@pytest.mark.parametrize(
    "make",
    [
        lambda: training.classification(steps=2),
        lambda: training.instructions(replace(training.SFT, max_steps=2)),
        lambda: training.matmul_share(steps=1, size=64),
        lambda: adapters.steps("embedded", "DoRA", n_steps=1),
        lambda: adapters.steps("embedded", "QLoRA", n_steps=1),
        lambda: soft_prompts.steps("embedded", "prefix"),
        lambda: rlhf.ppo(SMALL_PPO),
        lambda: rlhf.grpo(SMALL_GRPO),
        lambda: rlhf.generation(do_sample=False, n_prompts=2, max_new_tokens=3),
        lambda: rlhf.generation(do_sample=True, n_prompts=2, max_new_tokens=3),
        start.first_cell,
    ],
    ids=[
        "classification",
        "instructions",
        "matmul",
        "DoRA",
        "QLoRA",
        "prefix",
        "ppo",
        "grpo",
        "greedy",
        "sampled",
        "start",
    ],
)
def test_every_contestant_runs(make: Callable[[], Contest]) -> None:
    contest = make()
    speeds = {name: run() for name, run in contest.items()}
    assert len(speeds) >= 2
    assert any(name.startswith("ours") for name in speeds)
    assert all(speed > 0 for speed in speeds.values())


def test_contestants_take_turns_back_and_forth_and_the_first_round_is_dropped() -> None:
    order = []

    def contestant(name: str, speed: float) -> Callable[[], float]:
        return lambda: order.append(name) or speed * len(order)

    speeds = compete({"ours": contestant("a", 2.0), "TRL": contestant("b", 1.0)}, rounds=3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert speeds == {"ours": [8.0, 10.0], "TRL": [3.0, 6.0]}


def test_ratios_are_taken_round_by_round_and_one_bad_round_does_not_decide() -> None:
    ours = [10.0 * k for k in range(1, 9)]
    theirs = [5.0 * k for k in range(1, 8)] + [1.0]
    (ratio,) = ratios_of({"ours, a": ours, "TRL": theirs})
    assert (ratio.ours, ratio.theirs, ratio.median) == ("ours, a", "TRL", 2.0)
    assert (ratio.low, ratio.high) == (2.0, 2.0)
    (ratio,) = ratios_of({"ours": ours, "TRL": theirs}, is_time=True)
    assert ratio.median == 0.5


def test_the_interval_holds_the_median_and_widens_with_the_spread() -> None:
    narrow, wide = bootstrap([1.9, 2.0, 2.0, 2.1] * 2), bootstrap([1.0, 2.0, 2.0, 3.0] * 2)
    assert narrow[0] <= 2.0 <= narrow[1]
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_a_part_is_measured_and_told() -> None:
    speeds = iter([1.0, 1.0, 4.0, 8.0])
    contest = {"ours": lambda: next(speeds), "theirs": lambda: next(speeds)}
    row = program.measure(Part(name="a step", make=lambda: contest, is_time=True), rounds=2)
    assert row["rounds"] == 1
    assert list(program.lines_of(row)) == [
        "a step",
        f"  {'ours':34} {8:16,.2f} a second",
        f"  {'theirs':34} {4:16,.2f} a second",
        "  ours: 0.50 (0.50 to 0.50) of the time of theirs",
    ]


def test_the_machine_is_described_without_its_name() -> None:
    assert set(program.machine()) == {"date", "processor", "threads", "torch", "python"}


def test_a_step_is_measured_at_a_scale() -> None:
    point = scale.measure("batch", scale.build("4.7M"), "4.7M", 2, 16)
    assert point.tokens_per_second > 0
    # Six times parameters times tokens, less the embedding, which is no product but for the head.
    n_parameters = 4.7e6
    assert 5 * n_parameters * 32 < point.flops < 7 * n_parameters * 32
    assert point.peak_bytes > 4 * 4 * n_parameters


def test_the_readme_quotes_the_record_and_nothing_else() -> None:
    record = json.loads((data_dir() / "results" / "benchmarks.json").read_text())
    readme = (data_dir().parent / "README.md").read_text().splitlines()
    head = readme.index("| on the same work | who | ratio |")
    rows = list(program.readme_rows(record))
    assert readme[head + 2 : head + 2 + len(rows)] == rows
    assert min(part["rounds"] for part in record["parts"]) >= 8
