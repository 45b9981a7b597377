import dataclasses
import json
import math

import pytest
import torch
import typer

from course_utils.data import load_task, pad_examples
from course_utils.methods import count_parameters
from course_utils.models import load_base_model, load_tokenizer
from course_utils.rlhf.assistant import pair_loss
from course_utils.studies import (
    CANDIDATES,
    STUDIES,
    TASKS,
    Study,
    best_runs,
    fit,
    largest_distinct_set,
    load_results,
    markdown_table,
    run_study,
    tasks,
)
from course_utils.studies import runner as study
from course_utils.studies.__main__ import main
from course_utils.studies.candidates import BOTTLENECK_SIZES, RANKS
from course_utils.training import TrainingDivergedError


def row(
    method: str, seed: int, test: float, *, rate: float = 1e-3, validation: float = 0.0
) -> dict:
    return {
        "task": "topics",
        "method": method,
        "learning_rate": rate,
        "seed": seed,
        "n_examples": None,
        "validation": validation,
        "test": test,
    }


def test_methods_that_overlap_are_not_called_distinct():
    scores = {"a": [0.1, 0.11, 0.12], "b": [0.11, 0.12, 0.10], "c": [0.5, 0.51, 0.49]}
    assert largest_distinct_set(scores) in (["a", "c"], ["b", "c"])
    # The worst of all is told apart from nobody, and must not keep the others out.
    scores = {"wide": [0.0, 0.9, 0.4], "b": [0.5, 0.51, 0.52], "c": [0.8, 0.81, 0.82]}
    assert largest_distinct_set(scores) == ["b", "c"]


def test_the_table_gives_mean_and_spread():
    rows = [row("full", seed, 0.8 + 0.1 * seed) for seed in (0, 1, 2)]
    assert "| full | 0.900 ± 0.100 |" in markdown_table(rows, "test")


@pytest.mark.parametrize("method", CANDIDATES)
def test_every_candidate_trains_something_and_scores(method: str):
    task = dataclasses.replace(TASKS["topics"], steps=1)
    model = CANDIDATES[method].put_on(load_base_model("embedded", num_labels=6))
    assert 0 < count_parameters(model).trainable <= count_parameters(model).total
    assert any(p.requires_grad for n, p in model.named_parameters() if "score" in n)
    assert task.num_labels == 6


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_every_task_can_be_fitted_and_its_row_is_whole(name: str, monkeypatch):
    monkeypatch.setattr(study, "N_RETENTION_FACTS", 20)
    monkeypatch.setattr(study, "N_RETENTION_TEXTS", 4)
    monkeypatch.setattr(tasks, "load_task", lambda task, split: few(task, split))
    task = dataclasses.replace(TASKS[name], steps=1)
    result = fit(task, "norms", 1e-3, 0)
    assert {"validation", "recall", "perplexity", "trained", *task.test_splits} <= set(result)
    assert json.loads(json.dumps(result)) == result


def few(task: str, split: str):
    rows = load_task(task, split)
    return rows.select(range(min(24, len(rows))))


@pytest.fixture
def made(tmp_path, monkeypatch) -> list[tuple]:
    """Runs that were made, each worth most at the lowest rate but one that the search can meet."""
    made = []

    def fake(task, method, rate, seed, *, n_examples, length, device):
        made.append((rate, seed, n_examples))
        score = row(method, seed, 0.5, rate=rate, validation=-abs(rate - 3e-3))
        return score | {"task": task.name, "n_examples": n_examples}

    monkeypatch.setattr(study, "data_dir", lambda: tmp_path)
    monkeypatch.setattr(study, "fit", fake)
    monkeypatch.setattr(study, "base_row", lambda task, *, device: row("base", 0, 0.1, rate=0.0))
    return made


def test_a_study_is_taken_up_where_it_stopped(made, tmp_path):
    small = Study(name="small", tasks=("topics",), methods=("head",), seeds=(0, 1, 2, 3, 4))
    first = run_study(small)
    tried = [(rate, seed, None) for rate in (3e-2, 1e-2, 1e-1, 3e-3, 1e-3) for seed in (0, 1, 2)]
    assert made == [*tried, (3e-3, 3, None), (3e-3, 4, None)]
    path = tmp_path / "results" / "small.jsonl"
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["command"] == "python -m course_utils.studies small"
    path.write_text("\n".join(lines[:-2]) + "\n")
    made.clear()
    assert run_study(small) == first
    assert made == [(3e-3, 3, None), (3e-3, 4, None)]


def test_each_size_is_tuned_and_runs_of_another_study_are_taken_over(made):
    run_study(Study(name="first", tasks=("topics",), methods=("head",)))
    n_runs = len(made)
    made.clear()
    sizes = Study(
        name="sizes", tasks=("topics",), methods=("head",), sizes=(20, None), runs_from="first"
    )
    rows = run_study(sizes)
    assert {size for *_, size in made} == {20}
    assert len(made) == n_runs
    assert len(best_runs(rows, "topics", "head")) == 3


def test_a_run_that_diverges_is_recorded_and_worst(monkeypatch):
    def diverge(*args, **options):
        raise TrainingDivergedError("loss is inf at step 3")

    result = fit(dataclasses.replace(TASKS["topics"], trainer=diverge), "head", 1.0, 0)
    assert result["validation"] is None
    assert result["diverged"] == "loss is inf at step 3"
    rows = [result, row("head", 0, 0.4, validation=0.1)]
    assert [run["learning_rate"] for run in best_runs(rows, "topics", "head")] == [1e-3]


def test_what_does_not_exist_is_named_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "data_dir", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"task='poetry' must be one of topics"):
        run_study(Study(name="a", tasks=("poetry",), methods=("head",)))
    with pytest.raises(ValueError, match=r"method='magic' must be one of random_init"):
        run_study(Study(name="a", tasks=("topics",), methods=("magic",)))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=r"n_examples=0 must be in 1..240"):
        study.tune(None, None, TASKS["sentiment"], 1e-3, n_examples=0)


def test_a_rate_that_diverged_is_not_the_best():
    rows = [
        row("head", 0, 0.5, rate=rate, validation=v) for rate, v in ((1.0, math.nan), (0.1, 0.2))
    ]
    assert best_runs(rows, "topics", "head")[0]["learning_rate"] == 0.1


def test_unrecorded_studies_say_how_to_record_them():
    with pytest.raises(FileNotFoundError, match=r"run `python -m course_utils.studies nothing`"):
        load_results("nothing")
    assert "nothing" not in STUDIES


def test_an_unknown_study_or_task_is_named():
    with pytest.raises(typer.BadParameter, match="'speed' must be one of separation"):
        main("speed")
    with pytest.raises(typer.BadParameter, match=r"'poetry'.* must be among sentiment"):
        main("data_size", task=["poetry"])


def test_the_pair_loss_is_bradley_terry():
    torch.manual_seed(0)
    model, tokenizer = load_base_model("embedded", num_labels=1), load_tokenizer("embedded")
    rows = list(load_task("preferences", "validation"))[:4]
    batch = pad_examples([TASKS["preferences"].encode(tokenizer, r) for r in rows], 0)
    scores = []
    for r in rows:
        for side in ("chosen", "rejected"):
            text = f"Question: {r['prompt']}\nAnswer: {r[side]}"
            with torch.no_grad():
                scores.append(model(**tokenizer(text, return_tensors="pt")).logits[0, 0])
    chosen, rejected = torch.stack(scores[::2]), torch.stack(scores[1::2])
    expected = torch.log(1 + torch.exp(rejected - chosen)).mean()
    torch.testing.assert_close(pair_loss(model, batch), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["prompt_text", "p_tuning_v2_n1", "pfeiffer_m16"])
def test_a_candidate_with_added_parts_trains_these_and_the_head(name: str):
    model = CANDIDATES[name].put_on(load_base_model("embedded", num_labels=3))
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert "score.weight" in trained
    assert all(n.startswith(("score", "soft_prompt")) or ".adapters." in n for n in trained)


@pytest.mark.parametrize(("size", "rank"), [*zip(BOTTLENECK_SIZES, RANKS, strict=False)])
def test_bottlenecks_train_as_many_parameters_as_lora(size: int, rank: int):
    counts = [
        count_parameters(CANDIDATES[name].put_on(load_base_model("embedded"))).trainable
        for name in (f"bottleneck_m{size}", f"lora_r{rank}")
    ]
    assert abs(counts[0] / counts[1] - 1) < 0.07
