"""What can be chosen is what was recorded, and every cell that is named is there."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from course_utils.intervals import UNDECIDED, paired_difference, verdict
from course_utils.memory import estimate
from course_utils.methods import apply, merge
from course_utils.models import load_base_model
from course_utils.studies import CANDIDATES
from course_utils.studies.choosing import KINDS, OPTIONS, Request
from course_utils.studies.choosing.cost import PEAK_ERROR
from course_utils.studies.choosing.evidence import recorded_runs
from course_utils.studies.choosing.options import cell
from course_utils.studies.runner import ALL_TASKS

NOTEBOOKS = Path(__file__).resolve().parents[3] / "notebooks"
RULES = [
    (3, "merge"),
    (0, "estimate"),
    (1, "seconds"),
    (5, "latency"),
    (6, "latency"),
    (2, "switching"),
]


def tags_of(notebook: str) -> set[str]:
    cells = json.loads((NOTEBOOKS / notebook).read_text(encoding="utf-8"))["cells"]
    return {tag for one in cells for tag in one["metadata"].get("tags", ())}


def test_every_cell_that_is_named_is_in_its_notebook():
    named = {option.shown_by for option in OPTIONS.values()} | {cell(*rule) for rule in RULES}
    named |= {option.kept_by for option in OPTIONS.values() if option.kept_by}
    named.add(cell(1, "facts-left"))
    assert [str(one) for one in named if one.tag not in tags_of(one.notebook)] == []


def test_every_option_is_a_candidate_with_runs_on_some_kind_of_data():
    assert set(OPTIONS) <= set(CANDIDATES)
    for name in OPTIONS:
        assert any(recorded_runs(task, name) for task in KINDS.values()), name


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_trains_what_its_recorded_runs_trained(kind):
    request = Request(model="embedded", kind=kind, n_examples=1, card="here")
    for name, option in OPTIONS.items():
        for run in recorded_runs(request.task.name, name)[:1]:
            method = option.method_for(request.architecture)
            needed = estimate(request.architecture, method, batch_size=1, seq_len=8)
            # The head over words has biases, which `memory` does not count.
            biases = request.task.num_labels if request.task.label_level == "token" else 0
            assert (name, needed.n_trained + biases) == (name, run["trained"])


@pytest.mark.parametrize(
    "name", ["lora_r4", "dora_r8", "dylora", "nola", "pfeiffer_m16", "prompt_n16", "prefix_n16"]
)
def test_what_can_be_merged_is_what_the_methods_say(name):
    model = apply(load_base_model("embedded"), OPTIONS[name].method)
    told = nullcontext() if OPTIONS[name].can_merge else pytest.raises(ValueError, match="merge")
    with told:
        merge(model)


def test_qlora_may_be_stood_in_for_because_the_records_cannot_tell_it_from_lora():
    qlora, lora = (
        [run["test"] for run in recorded_runs("dialect", name)] for name in ("qlora", "lora_r8")
    )
    assert verdict(paired_difference(qlora, lora)) == UNDECIDED
    assert OPTIONS["qlora"].stand_ins[0] == "lora_r8"
    assert OPTIONS["qlora"].method == OPTIONS["lora_r8"].method


def test_kinds_are_recorded_tasks_and_the_peaks_error_is_the_one_that_is_tested():
    assert set(KINDS.values()) <= set(ALL_TASKS)
    tested = (NOTEBOOKS.parent / "tests/memory/test_budget.py").read_text(encoding="utf-8")
    assert f"approx(measured.peak_bytes, rel={PEAK_ERROR:g})" in tested
