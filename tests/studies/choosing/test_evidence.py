"""Who is ahead: paired, corrected, and no erratic method is an equal one."""

import pytest

from course_utils.studies.choosing import OPTIONS
from course_utils.studies.choosing.evidence import Band, band_of, compare, recorded_runs


def band(*scores: float, base: float = 0.0) -> Band:
    mean = sum(scores) / len(scores)
    return Band(
        metric="accuracy",
        base=base,
        mean=mean,
        low=min(scores),
        high=max(scores),
        n_seeds=len(scores),
        recorded_as="",
        recall_lost=0.0,
        scores=dict(enumerate(scores)),
    )


def test_what_is_near_and_not_told_apart_is_tied():
    found = compare({"a": band(0.9, 0.92, 0.91), "b": band(0.91, 0.9, 0.93)})
    assert (found.best, set(found.tied)) == ("b", {"a", "b"})
    assert found.behind == found.erratic == ()


def test_what_is_shown_to_be_worse_is_behind():
    found = compare({"a": band(0.5, 0.51, 0.52), "b": band(0.9, 0.91, 0.92001)})
    assert (found.tied, found.behind) == (("b",), ("a",))


def test_what_varies_so_much_that_nothing_can_be_told_is_not_tied():
    found = compare({"a": band(0.2, 0.9, 0.6), "b": band(0.9, 0.91, 0.92)})
    assert (found.tied, found.erratic) == (("b",), ("a",))


def test_a_tie_is_measured_by_the_gain_over_the_base():
    near = {"a": band(0.91, 0.83, 0.9, base=0.8), "b": band(0.9, 0.91, 0.92, base=0.8)}
    assert compare(near).erratic == ("a",)
    assert compare({name: band(*b.scores.values()) for name, b in near.items()}).erratic == ()


def test_only_seeds_that_both_have_are_paired():
    found = compare({"a": band(0.5, 0.51, 0.52, 0.4, 0.6), "b": band(0.9, 0.91, 0.92001)})
    assert found.behind == ("a",)


def test_nothing_compared_is_no_standing():
    assert compare({}) is None


def test_a_band_is_that_of_the_record():
    told = band_of(OPTIONS["lora_r4"], "sentiment")
    runs = recorded_runs("sentiment", "lora_r4")
    assert told.mean == pytest.approx(sum(run["test"] for run in runs) / len(runs))
    assert (told.n_seeds, told.recorded_as) == (3, "lora_r4")
    assert told.low <= told.mean <= told.high
    assert band_of(OPTIONS["nola"], "sentiment") is None


def test_the_study_with_most_seeds_is_taken_and_stand_ins_are_named():
    assert len(recorded_runs("dialect", "lora_r4")) == 5
    assert band_of(OPTIONS["qlora"], "dialect").recorded_as == "qlora"
    assert band_of(OPTIONS["qlora"], "instructions").recorded_as == "lora_r4"
    assert band_of(OPTIONS["qlora"], "roles").recorded_as == "lora_r2"
