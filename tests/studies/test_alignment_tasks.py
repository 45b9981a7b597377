"""The tasks of chapters 07 and 08 differ in exactly what their names say."""

import pytest

from course_utils.data import encode_pair, load_task
from course_utils.models import build_random_model, load_tokenizer
from course_utils.studies import ALIGNMENT_TASKS, TASKS
from course_utils.studies.alignment_tasks import encode_chat_pair, matches_by_type


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("embedded")


@pytest.fixture(scope="module")
def pairs():
    return list(load_task("preferences", "train"))[:600]


def test_names_do_not_clash():
    assert not set(ALIGNMENT_TASKS) & set(TASKS)


def test_what_carries_loss(tokenizer):
    row = load_task("instructions", "train")[0]
    answer, everything = (
        ALIGNMENT_TASKS[name].encode(tokenizer, row) for name in ("following", "following_all")
    )
    assert answer["input_ids"] == everything["input_ids"] == everything["labels"]
    assert 0 < sum(label != -100 for label in answer["labels"]) < len(answer["labels"])


def test_what_is_trained_on():
    clean, noisy = (ALIGNMENT_TASKS[n] for n in ("following", "following_noisy"))
    assert (clean.train_split, noisy.train_split) == ("train", "train_noisy")
    outputs = [task.load(task.train_split)["output"] for task in (clean, noisy)]
    share = sum(a != b for a, b in zip(*outputs, strict=True)) / len(outputs[0])
    assert 0.25 < share < 0.35
    assert list(clean.load("test")) == list(load_task("instructions", "test"))


@pytest.mark.parametrize(("name", "noise"), [("rewards", 0), ("rewards_noise40", 0.4)])
def test_labels_are_swapped_at_the_rate_of_the_name(tokenizer, pairs, name: str, noise: float):
    task = ALIGNMENT_TASKS[name]
    clean = [encode_pair(tokenizer, row["prompt"], row["chosen"], row["rejected"]) for row in pairs]
    once = [task.encode(tokenizer, row) for row in pairs]
    assert once == [task.encode(tokenizer, row) for row in pairs]
    share = sum(a != b for a, b in zip(clean, once, strict=True)) / len(pairs)
    assert share == pytest.approx(noise, abs=0.06 if noise else 0)


def test_noisy_tasks_are_scored_on_right_labels(tokenizer, pairs):

    kinds = {ALIGNMENT_TASKS[n].score.keywords["encode"] for n in ("rewards", "rewards_noise40")}
    assert kinds == {encode_chat_pair}


def test_matches_are_counted_by_type(tokenizer):
    rows = list(load_task("instructions", "test"))[:60]
    shares = matches_by_type(build_random_model("embedded"), tokenizer, rows)
    assert set(shares) == {row["type"] for row in rows}
    assert all(0 <= share <= 1 for share in shares.values())
