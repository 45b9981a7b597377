"""What the recorded studies must show: the embedded model and the task sets separate methods."""

from statistics import fmean

import pytest

from course_utils.compare import (
    CANDIDATES,
    STUDIES,
    TASKS,
    best_runs,
    largest_distinct_set,
    load_results,
    markdown_table,
)
from course_utils.intervals import can_tell_apart
from course_utils.paths import data_dir

ROWS = load_results("separation")


def scores(task: str, method: str, split: str = "test") -> list[float]:
    return [run[split] for run in best_runs(ROWS, task, method)]


def best_score(task: str, split: str) -> float:
    return max(fmean(scores(task, method, split)) for method in CANDIDATES)


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_of_a_study_is_recorded(name: str):
    study, rows = STUDIES[name], load_results(name)
    for task in study.tasks:
        for method in study.methods:
            for size in study.sizes:
                runs = best_runs(rows, task, method, n_examples=size)
                assert [run["seed"] for run in runs] == list(study.seeds), (task, method, size)


def test_every_run_took_at_most_a_minute():
    assert max(run["seconds"] for run in ROWS) <= 60


@pytest.mark.parametrize("task", TASKS)
def test_the_best_method_is_far_above_the_base_model(task: str):
    gain = max(best_score(task, split) - scores(task, "base", split)[0]
               for split in TASKS[task].test_splits)  # fmt: skip
    assert gain > 0.2


@pytest.mark.parametrize("task", TASKS)
def test_random_weights_are_clearly_worse_than_the_best_method(task: str):
    best = max(CANDIDATES, key=lambda method: fmean(scores(task, method)))
    assert best != "random_init"
    assert can_tell_apart(scores(task, best), scores(task, "random_init"))


@pytest.mark.parametrize("task", ["topics", "sentiment"])
def test_classification_generalises_to_unseen_phrasings(task: str):
    assert best_score(task, "test_unseen") >= 0.85


def test_methods_can_be_told_apart_on_at_least_three_tasks():
    sizes = {
        task: len(largest_distinct_set({m: scores(task, m) for m in CANDIDATES}))
        for task in STUDIES["separation"].tasks
    }
    assert sum(size >= 3 for size in sizes.values()) >= 3, sizes


@pytest.mark.parametrize("split", ["test", "test_unseen"])
def test_the_table_in_the_readme_is_the_record(split: str):
    text = (data_dir() / "README.md").read_text(encoding="utf-8")
    assert markdown_table(ROWS, split) in text
