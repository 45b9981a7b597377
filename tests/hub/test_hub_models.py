"""Models from the Hub: pinned, cached, safetensors only, no foreign code, one clear sentence."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from course_utils.models import hub as hub_module
from course_utils.models.profiles import PINNED_REVISIONS
from tests.hub.client import tensor_sha256
from tests.hub.conftest import T4_MODEL
from tests.tiny_models import add_own_code, change_config, write_hostile_pickle

SAMPLE = "Two goats & a cheese."


@pytest.fixture
def copied_model(qwen3_folder, tmp_path):
    """Return a copy of the small model that a test may change."""
    return Path(shutil.copytree(qwen3_folder, tmp_path / "model"))


def embedding_sha256(folder: Path) -> str:
    return tensor_sha256(load_file(folder / "model.safetensors")["model.embed_tokens.weight"])


def requests_since(hub, start: int, part: str = "") -> list[str]:
    return [request.path for request in hub.requests[start:] if part in request.path]


def assert_one_sentence(outcome, error: str, *parts: str) -> None:
    assert outcome.error == error, outcome
    assert "\n" not in outcome.message
    assert len(outcome.message) < 300, outcome.message
    for part in parts:
        assert part in outcome.message


# What the profile names is what arrives


def test_the_t4_profile_loads_its_model_at_the_pinned_commit(online, hub, qwen3_folder):
    start = len(hub.requests)
    outcome = online.load()
    assert outcome.error == "", outcome
    assert outcome.model_class == "Qwen3ForCausalLM"
    assert outcome.text == SAMPLE
    assert outcome.embedding_sha256 == embedding_sha256(qwen3_folder)
    resolved = requests_since(hub, start, "/resolve/")
    assert resolved
    assert all(f"/resolve/{PINNED_REVISIONS[T4_MODEL]}/" in path for path in resolved)


def test_a_known_id_is_pinned_however_it_is_named(online, qwen3_folder):
    expected = embedding_sha256(qwen3_folder)
    assert online.load(T4_MODEL).embedding_sha256 == expected
    assert online.load(COURSE_MODEL=T4_MODEL).embedding_sha256 == expected


def test_course_model_replaces_the_profiles_model(online, hub, copied_model):
    change_config(copied_model, architectures=["Qwen3ForCausalLM"])
    hub.publish("mill/own-model", copied_model)
    start = len(hub.requests)
    assert online.load(COURSE_MODEL="mill/own-model").model_class == "Qwen3ForCausalLM"
    assert requests_since(hub, start, "/mill/own-model/")
    assert not requests_since(hub, start, T4_MODEL)


def test_a_folder_asks_the_hub_for_nothing(online, hub, copied_model):
    start = len(hub.requests)
    assert online.load(str(copied_model)).text == SAMPLE
    assert requests_since(hub, start) == []


def test_nothing_is_told_about_the_learner(online, hub):
    assert online.load().error == ""
    assert not requests_since(hub, 0, "telemetry")
    assert not requests_since(hub, 0, "agent-harnesses")
    assert not [
        request
        for request in hub.requests
        if "session_id" in request.user_agent and "telemetry/off" not in request.user_agent
    ]


# The cache


def test_the_cache_serves_an_offline_machine(offline, hub, qwen3_folder):
    start = len(hub.requests)
    outcome = offline.load()
    assert outcome.embedding_sha256 == embedding_sha256(qwen3_folder)
    assert outcome.text == SAMPLE
    assert requests_since(hub, start) == []


def test_the_cache_serves_a_machine_that_lost_its_network(cut_off, qwen3_folder):
    outcome = cut_off.load()
    assert outcome.embedding_sha256 == embedding_sha256(qwen3_folder)
    assert outcome.text == SAMPLE
    assert outcome.waits_seconds == 0


def test_offline_without_a_cache_is_one_sentence(offline, hub):
    start = len(hub.requests)
    outcome = offline.load(COURSE_PROFILE="large")
    assert_one_sentence(outcome, "ConnectionError", "Qwen/", "HF_HUB_OFFLINE", "COURSE_PROFILE=cpu")
    assert requests_since(hub, start) == []


def test_no_network_without_a_cache_is_one_sentence(cut_off):
    outcome = cut_off.load(COURSE_PROFILE="large")
    assert_one_sentence(outcome, "ConnectionError", "Qwen/", "network", "COURSE_PROFILE=cpu")
    assert outcome.waits_seconds == 0


# What the Hub refuses


def test_an_unknown_id_is_one_sentence(online):
    outcome = online.load("nobody/nothing")
    assert_one_sentence(outcome, "FileNotFoundError", "nobody/nothing", "spelling")


@pytest.mark.parametrize("source", ["a/b/c", "no model!", "a--b"])
def test_what_cannot_be_an_id_is_one_sentence_and_no_request(online, hub, source):
    start = len(hub.requests)
    assert_one_sentence(online.load(source), "FileNotFoundError", source)
    assert requests_since(hub, start) == []


def test_a_gated_model_says_how_to_get_in(online, hub, qwen3_folder):
    hub.publish("guild/gated", qwen3_folder, is_gated=True)
    outcome = online.load("guild/gated")
    assert_one_sentence(outcome, "PermissionError", "guild/gated", "licence", "hf auth login")
    assert not requests_since(hub, 0, "/content/guild/gated")


def test_a_token_opens_a_gated_model(online, hub, qwen3_folder):
    hub.publish("guild/open-sesame", qwen3_folder, is_gated=True)
    outcome = online.load("guild/open-sesame", HF_TOKEN="hf_" + "x" * 34)
    assert outcome.model_class == "Qwen3ForCausalLM", outcome
    sent = [r for r in hub.requests if "/content/guild/open-sesame" in r.path]
    assert sent
    assert all(request.authorization is None for request in sent)  # another host


def test_a_repository_without_a_model_is_one_sentence(online, hub, tmp_path):
    (tmp_path / "README.md").write_text("a data set, perhaps")
    hub.publish("mill/readme-only", tmp_path)
    assert_one_sentence(online.load("mill/readme-only"), "FileNotFoundError", "config.json")


# What is never loaded or run


def test_pickled_weights_are_refused_and_not_converted(online, hub, copied_model, tmp_path):
    (copied_model / "model.safetensors").unlink()
    write_hostile_pickle(copied_model / "pytorch_model.bin", touches=tmp_path / "ran")
    hub.publish("mill/pickled", copied_model)
    start = len(hub.requests)
    outcome = online.load("mill/pickled")
    assert_one_sentence(outcome, "FileNotFoundError", "mill/pickled", "pytorch_model.bin")
    assert not (tmp_path / "ran").exists()
    assert not requests_since(hub, start, "pytorch_model.bin")
    assert not requests_since(hub, start, "/commits/")  # how transformers asks for a conversion


@pytest.mark.parametrize("model_type", ["gizmo", "qwen3"])
def test_code_that_comes_with_a_model_never_runs(online, hub, copied_model, tmp_path, model_type):
    add_own_code(copied_model, model_type=model_type, touches=tmp_path / "ran")
    hub.publish(f"mill/code-{model_type}", copied_model)
    outcome = online.load(f"mill/code-{model_type}")
    if model_type == "gizmo":
        assert_one_sentence(outcome, "ValueError", "mill/code-gizmo", "its own code")
    else:
        assert outcome.model_class == "Qwen3ForCausalLM", outcome
    assert not (tmp_path / "ran").exists()
    assert not requests_since(hub, 0, "gizmo.py")


def test_an_adapter_is_not_taken_for_a_base_model(online, hub, copied_model):
    adapter = {"peft_type": "LORA", "base_model_name_or_path": T4_MODEL, "r": 2}
    (copied_model / "adapter_config.json").write_text(json.dumps(adapter))
    hub.publish("mill/adapter", copied_model)
    assert_one_sentence(online.load("mill/adapter"), "ValueError", "mill/adapter", "base model")


# What is damaged or does not arrive


def test_weights_cut_short_at_the_source_are_refused(online, hub, copied_model):
    weights = copied_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    hub.publish("mill/cut-short", copied_model)
    outcome = online.load("mill/cut-short")
    assert_one_sentence(outcome, "ValueError", "mill/cut-short", "damaged", "delete")
    # What the sentence tells to delete is there, and is this model's cache alone.
    cached = Path(outcome.message.split("delete ")[1].split(" and fetch")[0])
    assert cached.is_dir()
    assert cached.name == "models--mill--cut-short"


def test_a_download_that_breaks_off_is_refused_then_completed(online, hub, hub_home, qwen3_folder):
    hub.publish("mill/broken-line", qwen3_folder, lost_bytes=1000)
    outcome = online.load("mill/broken-line")
    assert_one_sentence(outcome, "ConnectionError", "mill/broken-line", "network")
    cache = hub_home / "hub" / "models--mill--broken-line"
    assert list(cache.glob("snapshots/*/config.json"))
    assert not list(cache.glob("snapshots/*/model.safetensors"))
    hub.publish("mill/broken-line", qwen3_folder)
    assert online.load("mill/broken-line").embedding_sha256 == embedding_sha256(qwen3_folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_other_bytes_than_announced_are_refused_and_not_kept(
    online, hub, hub_home, copied_model, name
):
    repo_id = f"mill/spoiled-{name.partition('.')[0]}"
    hub.publish(repo_id, copied_model)
    hub.spoiled.add(copied_model / name)
    outcome = online.load(repo_id)
    assert_one_sentence(outcome, "ConnectionError", repo_id, f"{name} has other bytes than the Hub")
    cache = hub_home / "hub" / f"models--{repo_id.replace('/', '--')}"
    assert not list(cache.glob(f"snapshots/*/{name}"))
    hub.spoiled.clear()
    assert online.load(repo_id).embedding_sha256 == embedding_sha256(copied_model)


def test_a_page_in_the_hubs_place_is_one_sentence_unless_the_model_is_cached(
    online, hub, filled_cache
):
    hub.behind_portal |= {"mill/portal", T4_MODEL}
    try:
        outcome = online.load("mill/portal")
        assert online.load().error == ""
    finally:
        hub.behind_portal.clear()
    assert_one_sentence(outcome, "ConnectionError", "mill/portal", "another page answers")


def test_a_body_that_arrives_too_slowly_is_given_up_as_a_whole(monkeypatch):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(hub_module.time, "monotonic", lambda: next(now))
    fast = SimpleNamespace(iter_raw=lambda: iter([b"x" * 600_000] * 20))
    slow = SimpleNamespace(iter_raw=lambda: iter([b"x"] * 20))
    for response in (fast, slow):
        hub_module._limit_time(response)
    assert len(list(fast.iter_raw())) == 20
    with pytest.raises(TimeoutError, match="after 40 s only 4 bytes had arrived"):
        list(slow.iter_raw())


def test_half_a_model_in_the_cache_is_not_called_pickled(cut_off, online, hub, qwen3_folder):
    hub.publish("mill/half", qwen3_folder, lost_bytes=1000)
    assert online.load("mill/half").error == "ConnectionError"
    assert_one_sentence(cut_off.load("mill/half"), "ConnectionError", "mill/half", "network")
