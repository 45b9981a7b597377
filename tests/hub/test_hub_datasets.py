"""A learner's own data from the Hub: rows, configurations, and one sentence where it fails."""

import json
import subprocess
import sys

import pytest

from tests.hub.client import CLOSED_PORT, ROOT, hub_environment

# The library would sleep 23 seconds before it gives a Hub up that does not answer.
CHILD = """
import json, sys, time
time.sleep = lambda seconds: None
from course_utils.data import load_own
for arguments, options in json.loads(sys.argv[1]):
    try:
        answer = load_own(*arguments, **options).to_list()
    except Exception as error:
        answer = [type(error).__name__, str(error)]
    print(json.dumps(answer))
"""


def load(endpoint: str, home, *calls: tuple[tuple, dict], **settings: str) -> list[list]:
    """Call ``load_own`` in a fresh Python, and return rows, or an error's type and message."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(calls)],
        cwd=ROOT,
        check=False,
        text=True,
        env=hub_environment(endpoint, home, COURSE_PROFILE="cpu", **settings),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("datasets-home")


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory):
    """Publish answers, one of them empty in the split named test, and a corpus like wikitext."""
    answers = tmp_path_factory.mktemp("answers")
    (answers / "train.csv").write_text("question,answer\nWho?,Mira.\nWhere?,In Pellwick.\n")
    (answers / "test.csv").write_text('question,answer\nWho?,Mira.\nWhere?," "\n')
    hub.publish("datasets/mill/answers", answers)
    corpus = tmp_path_factory.mktemp("corpus")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}.jsonl\n"
        for name in ("small", "large")
    )
    (corpus / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    texts = ["", " = Mills = \n", "", " A mill grinds . \n"]
    for name, lines in (("small", texts), ("large", texts * 2)):
        rows = [json.dumps({"text": text}) for text in lines]
        (corpus / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    hub.publish("datasets/mill/corpus", corpus)


@pytest.fixture(scope="module")
def answers(hub, home, published):
    """Ask everything of one machine that reaches the Hub."""
    asked = {
        "rows": (("mill/answers", "instructions"), {}),
        "slice": (("mill/answers", "prompts"), {"split": "train[:1]"}),
        "empty": (("mill/answers", "instructions"), {"split": "test"}),
        "corpus": (("mill/corpus", "texts"), {"config": "small"}),
        "no config": (("mill/corpus", "texts"), {}),
        "no split": (("mill/answers", "prompts"), {"split": "dev"}),
        "fields": (("mill/answers", "preferences"), {}),
        "nobody": (("nobody/nothing", "texts"), {}),
    }
    return dict(zip(asked, load(hub.endpoint, home, *asked.values()), strict=True))


def test_rows_arrive_in_the_columns_of_the_course(answers):
    assert answers["rows"] == [
        {"instruction": "Who?", "input": "", "output": "Mira."},
        {"instruction": "Where?", "input": "", "output": "In Pellwick."},
    ]
    assert answers["slice"] == [{"prompt": "Who?"}]


def test_a_corpus_arrives_without_its_blank_rows(answers):
    assert answers["corpus"] == [{"text": " = Mills = \n"}, {"text": " A mill grinds . \n"}]


def test_nothing_is_told_about_the_learner(answers, hub):
    asked = [request for request in hub.requests if "/mill/" in request.path]
    assert asked
    assert not any("agent-harnesses" in request.path for request in hub.requests)
    assert all("telemetry/off" in r.user_agent for r in asked if "session_id" in r.user_agent)


@pytest.mark.parametrize(
    ("asked", "error", "parts"),
    [
        ("empty", "ValueError", ["mill/answers, row 1: output is empty"]),
        ("no config", "ValueError", ["mill/corpus cannot be loaded", "small", "large"]),
        ("no split", "ValueError", ["mill/answers cannot be loaded", "dev", "train"]),
        ("fields", "ValueError", ["looks like chosen (columns: question, answer)"]),
        ("nobody", "FileNotFoundError", ["nobody/nothing is neither a file here", "spelling"]),
    ],
)
def test_what_does_not_arrive_is_one_sentence(answers, asked, error, parts):
    found, message = answers[asked]
    assert found == error
    assert "\n" not in message
    assert len(message) < 300
    assert all(part in message for part in parts), message


def test_without_a_network_it_is_one_sentence_and_the_cache_serves(answers, hub, home, tmp_path):
    cut_off = load(CLOSED_PORT, tmp_path, (("mill/answers", "prompts"), {}))[0]
    offline = load(hub.endpoint, tmp_path, (("mill/answers", "prompts"), {}), HF_HUB_OFFLINE="1")[0]
    for found, message in (cut_off, offline):
        assert found == "ConnectionError"
        assert message.startswith("mill/answers is neither a file here nor to be had from the Hub")
        assert "check the network" in message
        assert "\n" not in message
    cached = load(CLOSED_PORT, home, (("mill/answers", "instructions"), {}), HF_HUB_OFFLINE="1")[0]
    assert cached == answers["rows"]
