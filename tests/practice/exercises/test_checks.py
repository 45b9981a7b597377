"""Every check accepts its solution, rejects its wrong answers in its own words, and knows stubs."""

import sys
from types import ModuleType

import pytest

from course_utils.practice import exercises
from course_utils.practice.exercises import Check, attempt, registered_checks
from course_utils.practice.exercises.check import checks_of
from tests.practice.exercises import made_up_checks

CHECKS = {check.name: check for check in checks_of(made_up_checks)} | registered_checks()


@pytest.fixture(params=CHECKS.values(), ids=CHECKS)
def check(request):
    return request.param


def test_the_solution_passes(check):
    verdict = attempt(check, check.solution)
    assert verdict, verdict
    assert verdict.message == check.insight


def test_the_wrong_answers_are_rejected_in_these_words(check):
    assert len(check.rejects) >= 2
    for wrong, fragment in check.rejects:
        verdict = attempt(check, wrong)
        assert verdict.outcome in ("wrong", "error"), f"{wrong!r}: {verdict}"
        assert fragment, "an empty fragment is in every message"
        assert fragment.lower() in verdict.message.lower()


def test_a_stub_is_not_an_attempt(check):
    for stub in (..., None, lambda *args, **kwargs: ...):
        assert attempt(check, stub).outcome == "not attempted"


def test_the_test_covers_what_is_made_up_and_what_is_registered():
    assert {"00-bytes", "00-scale", "00-counter"} <= set(CHECKS)


@pytest.mark.parametrize("name", ["bytes", "00", "0-bytes", "00-Bytes"])
def test_a_name_tells_the_chapter(name):
    with pytest.raises(ValueError, match="must be like"):
        Check(name=name, verify=print, solution=1, rejects=((2, "a"), (3, "b")))


def test_a_check_lists_two_wrong_answers():
    with pytest.raises(ValueError, match=r"at least 2 wrong answers \(got 1\)"):
        Check(name="00-one", verify=print, solution=1, rejects=((2, "a"),))


@pytest.fixture
def add_chapter(monkeypatch, tmp_path):
    monkeypatch.setattr(exercises, "__path__", [str(tmp_path)])

    def add(number, *checks):
        name = f"course_utils.practice.exercises.chapter_{number}"
        (tmp_path / f"chapter_{number}.py").touch()
        module = ModuleType(name)
        vars(module).update({f"check_{i}": check for i, check in enumerate(checks)})
        monkeypatch.setitem(sys.modules, name, module)

    return add


def test_checks_of_all_chapters_are_found(add_chapter):
    add_chapter("00", made_up_checks.BYTES, made_up_checks.SCALE)
    other = Check(name="07-other", verify=print, solution=1, rejects=((2, "a"), (3, "b")))
    add_chapter("07", other)
    assert list(registered_checks()) == ["00-bytes", "00-scale", "07-other"]


def test_a_name_is_used_once(add_chapter):
    add_chapter("00", made_up_checks.BYTES, made_up_checks.BYTES)
    with pytest.raises(ValueError, match="two checks are named 00-bytes"):
        registered_checks()


def test_a_check_lies_in_its_chapter(add_chapter):
    add_chapter("01", made_up_checks.BYTES)
    with pytest.raises(ValueError, match="chapter_01: the name 00-bytes must begin with 01-"):
        registered_checks()
