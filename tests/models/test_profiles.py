"""Profiles: which one a machine gets, what overrides it, and what it refuses."""

import re
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_utils.models import profiles
from course_utils.models.profiles import PINNED_REVISIONS, Profile, current_profile, profile_names
from course_utils.validation import shown


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Return a function that gives this machine a CUDA card, by compute capability, or none."""

    def become(capability: tuple[int, int] | None) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)

    return become


# Detection


@pytest.mark.parametrize(
    ("capability", "name"),
    [
        (None, "cpu"),
        ((7, 0), "t4"),
        ((7, 5), "t4"),
        ((8, 0), "large"),
        ((8, 9), "large"),
        ((9, 0), "large"),
        ((10, 0), "large"),
    ],
)
@pytest.mark.parametrize("unset", [{}, {"COURSE_PROFILE": ""}, {"COURSE_PROFILE": "  "}])
def test_the_card_decides_where_nothing_is_set(machine, capability, name, unset):
    machine(capability)
    assert current_profile(unset).name == name


@pytest.mark.parametrize("capability", [None, (7, 5), (9, 0)])
@pytest.mark.parametrize("name", profile_names())
def test_course_profile_goes_before_the_card(machine, capability, name):
    machine(capability)
    assert current_profile({"COURSE_PROFILE": name}).name == name
    assert current_profile({"COURSE_PROFILE": f" {name}\n"}).name == name


def test_the_environment_of_the_process_is_the_default(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "large")
    monkeypatch.setenv("COURSE_MODEL", "guild/model")
    assert current_profile().name == "large"
    assert current_profile().model == "guild/model"


# Without a GPU


@pytest.mark.parametrize("name", ["t4", "large"])
def test_a_gpu_profile_runs_on_the_cpu_where_there_is_no_gpu(machine, name):
    machine((9, 0))
    with_gpu = current_profile({"COURSE_PROFILE": name})
    assert with_gpu.device == "cuda"
    machine(None)
    without = current_profile({"COURSE_PROFILE": name})
    assert without == replace(with_gpu, device="cpu", dtype="float32")


def test_the_cpu_profile_stays_on_the_cpu_of_a_gpu_machine(machine):
    machine((9, 0))
    profile = current_profile({"COURSE_PROFILE": "cpu"})
    assert (profile.device, profile.dtype) == ("cpu", "float32")
    assert profile.is_embedded


def test_a_t4_never_computes_in_bfloat16(machine):
    machine((7, 5))
    assert current_profile({}).dtype == "float16"


# Which model


@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("model", ["guild/model", "./folder", "/some/folder", "embedded"])
def test_course_model_replaces_the_model_and_nothing_else(name, model):
    plain = current_profile({"COURSE_PROFILE": name})
    changed = current_profile({"COURSE_PROFILE": name, "COURSE_MODEL": f" {model} "})
    assert changed == replace(plain, model=model, revision=None, four_bit_model=model)
    assert changed.is_embedded == (model == "embedded")


@pytest.mark.parametrize("model", PINNED_REVISIONS)
def test_course_model_keeps_the_pin_of_a_known_model(model):
    profile = current_profile({"COURSE_PROFILE": "cpu", "COURSE_MODEL": model})
    assert profile.revision == PINNED_REVISIONS[model]


@pytest.mark.parametrize("blank", ["", "   "])
def test_a_blank_course_model_is_none(blank):
    profile = current_profile({"COURSE_PROFILE": "cpu", "COURSE_MODEL": blank})
    assert profile == current_profile({"COURSE_PROFILE": "cpu"})


@pytest.mark.parametrize("name", profile_names())
def test_every_model_of_the_hub_is_pinned_to_a_commit(name):
    profile = current_profile({"COURSE_PROFILE": name})
    if profile.is_embedded:
        assert profile.revision is None
    else:
        assert profile.revision == PINNED_REVISIONS[profile.model]
    assert all(re.fullmatch(r"[0-9a-f]{40}", revision) for revision in PINNED_REVISIONS.values())


@pytest.mark.parametrize("name", profile_names())
def test_the_model_for_four_bits_replaces_the_other_and_is_pinned_too(name):
    profile = current_profile({"COURSE_PROFILE": name})
    large = profile.in_four_bits()
    assert large.model == profile.four_bit_model
    assert large.is_embedded == profile.is_embedded
    assert large.revision == PINNED_REVISIONS.get(profile.four_bit_model)
    assert replace(large, model=profile.model, revision=profile.revision) == profile


def test_a_chosen_model_is_taken_in_four_bits_as_well():
    profile = current_profile({"COURSE_PROFILE": "t4", "COURSE_MODEL": "Qwen/Qwen3-0.6B"})
    assert profile.in_four_bits() == profile


# Bad input


@given(st.text().filter(lambda name: name.strip() and name.strip() not in profile_names()))
def test_an_unknown_profile_is_one_sentence_with_the_known_ones(name):
    with pytest.raises(ValueError, match="COURSE_PROFILE=") as caught:
        current_profile({"COURSE_PROFILE": name})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert shown(name.strip()) in message
    assert message.endswith(", ".join(profile_names()))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dtype", "int8"),
        ("dtype", ""),
        ("batch_size", 0),
        ("max_length_tokens", 0),
        ("max_steps", -1),
        ("seeds", ()),
    ],
)
def test_a_profile_refuses_what_no_experiment_can_run_with(field, value):
    profile = current_profile({"COURSE_PROFILE": "cpu"})
    with pytest.raises(ValueError, match=re.escape(f"{field}={value!r}")):
        replace(profile, **{field: value})


def test_a_profile_cannot_be_changed_or_mixed_up():
    profile = current_profile({"COURSE_PROFILE": "cpu"})
    with pytest.raises(FrozenInstanceError):
        profile.batch_size = 4
    with pytest.raises(TypeError):
        Profile(*asdict(profile).values())


def test_the_embedded_model_has_one_name():
    assert current_profile({"COURSE_PROFILE": "cpu"}).model == profiles.EMBEDDED
