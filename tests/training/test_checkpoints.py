import json
import logging
import os
import shutil
import socket
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from course_utils.files import only_writer, sha256
from course_utils.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from tests.training.runs import whole_run

STATE = {"weights": [torch.arange(1000.0)], "step": 1, "name": "x"}


def damage(folder: Path, how: str) -> None:
    """Let something happen to a checkpoint's files."""
    state, manifest = folder / "state.pt", folder / "manifest.json"
    data, said = state.read_bytes(), json.loads(manifest.read_text())
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    manifests = {
        "broken manifest": "{",
        "deep manifest": "[" * 2000,
        "long manifest": json.dumps(said) + " " * 5000,
        "manifest of nothing": json.dumps({"step": 2, "sha256": {}}),
        "manifest of another file": json.dumps({"step": 2, "sha256": {"manifest.json": "0" * 64}}),
        "manifest of another step": json.dumps(said | {"step": 3}),
        "manifest of a list": "[]",
    }
    if how == "truncated":
        state.write_bytes(data[:100])
    elif how == "flipped":
        state.write_bytes(bytes(flipped))
    elif how.startswith("missing"):
        {"missing state": state, "missing manifest": manifest}[how].unlink()
    elif how in manifests:
        manifest.write_text(manifests[how])
    elif how in REMADE:
        REMADE[how](state)
        manifest.write_text(json.dumps({"step": 2, "sha256": {"state.pt": sha256(state)}}))
    else:
        kind, name = how.split()
        path = {"state": state, "manifest": manifest}[name]
        path.unlink()
        PLANTED[kind](path)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def compress(state: Path) -> None:
    with zipfile.ZipFile(state) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    with zipfile.ZipFile(state, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def bind_to(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


PLANTED = {
    "pipe": os.mkfifo,
    "zero": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
    "socket": bind_to,
}
# With a manifest that was made anew.
REMADE = {
    "no archive": lambda state: state.write_bytes(b"weights"),
    "code": lambda state: torch.save({"weights": Hostile(state.parent / "ran")}, state),
    "a list": lambda state: torch.save([1, 2], state),
    "compressed": compress,
}
HOWS = [
    *("truncated", "flipped", "missing state", "missing manifest", "broken manifest"),
    *("deep manifest", "long manifest", "manifest of nothing", "manifest of another file"),
    *("manifest of another step", "manifest of a list"),
    *REMADE,
    *(f"{kind} {name}" for kind in PLANTED for name in ("state", "manifest")),
]


def test_what_is_saved_comes_back(tmp_path: Path):
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 7, STATE)
    loaded = load_checkpoint(tmp_path)
    assert torch.equal(loaded["weights"][0], STATE["weights"][0])
    assert loaded["name"] == "x"


def test_the_last_two_are_kept(tmp_path: Path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, STATE | {"step": step})
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000015"]
    assert load_checkpoint(tmp_path)["step"] == 15


@pytest.mark.parametrize("how", HOWS)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(how: str, caplog):
    # Sockets have short names.
    with TemporaryDirectory() as name, caplog.at_level(logging.WARNING):
        folder = Path(name)
        save_checkpoint(folder, 1, STATE)
        damage(save_checkpoint(folder, 2, STATE | {"step": 2}), how)
        assert load_checkpoint(folder)["step"] == 1
        assert "step-00000002 is skipped" in caplog.text
        assert "weights_only" not in caplog.text
        # The next one counts the whole ones, and so does the one after that.
        for step, left in ((3, [3] if how in REMADE else [1, 3]), (4, [3, 4])):
            save_checkpoint(folder, step, STATE | {"step": step})
            whole = [s for s in (1, 3, 4) if (folder / f"step-{s:08d}").exists()]
            assert whole == left
        shutil.rmtree(folder / "step-00000003")
        damage(folder / "step-00000004", "truncated")
        with pytest.raises(CheckpointError, match=r"every checkpoint in .* is damaged") as caught:
            load_checkpoint(folder)
        assert len(str(caught.value)) < 300
        assert not list(folder.rglob("ran"))


def test_what_a_run_did_not_write_stays(tmp_path: Path):
    """Folders of other names, links, and files of the learner's; later steps of a longer run."""
    others = ["step-1", "step-0-notes", "step-000000003", "step-00000001.old", "step-\u0663" * 8]
    for name in (*others, "step-00000002"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "diary.txt").write_text("mine")
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "manifest.json").write_text("mine")
    (tmp_path / "step-00000003").symlink_to(tmp_path / "away")
    for step in (90, 91):
        (tmp_path / f"step-{step:08d}").mkdir()
    for step in (8, 9, 10, 11):
        path = save_checkpoint(tmp_path, step, {"step": step})
        assert path.is_dir()
        assert load_checkpoint(tmp_path)["step"] == step
    assert all((tmp_path / name / "diary.txt").exists() for name in (*others, "step-00000002"))
    assert (tmp_path / "away" / "manifest.json").exists()
    names = {p.name for p in tmp_path.glob("step-000000*") if not (p / "diary.txt").exists()}
    assert {"step-00000010", "step-00000011", "step-00000090", "step-00000091"} <= names
    assert not names & {"step-00000008", "step-00000009"}
    with pytest.raises(CheckpointError, match=r"checkpoint 2 was not written.* other files in it"):
        save_checkpoint(tmp_path, 2, {"step": 2})


def test_steps_are_compared_as_numbers(tmp_path: Path):
    for step in (99_999_998, 99_999_999, 100_000_000):
        save_checkpoint(tmp_path, step, {"step": step})
    assert load_checkpoint(tmp_path)["step"] == 100_000_000
    assert len(list(tmp_path.iterdir())) == 2


def test_a_half_written_checkpoint_is_not_one(tmp_path: Path):
    """What a kill leaves behind: the temporary folder, before its rename."""
    save_checkpoint(tmp_path, 1, STATE)
    partial = tmp_path / f".step-00000002.{process_that_ended()}-0.tmp"
    partial.mkdir()
    (partial / "state.pt").write_bytes(b"half")
    assert load_checkpoint(tmp_path)["step"] == 1
    save_checkpoint(tmp_path, 2, STATE | {"step": 2})
    assert load_checkpoint(tmp_path)["step"] == 2
    assert not partial.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch):
    save_checkpoint(tmp_path, 1, STATE)
    real_open = Path.open

    def open_full(self: Path, *args: object, **kwargs: object):
        path = Path("/dev/full") if self.name == "state.pt" and "wb" in args else self
        return real_open(path, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", open_full)
        with pytest.raises(
            CheckpointError, match=r"checkpoint 2 was not written.*the disk is full"
        ):
            save_checkpoint(tmp_path, 2, STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load_checkpoint(tmp_path)["step"] == 1


def process_that_ended() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


# What a run looks at before it trusts a checkpoint that is as it was written


def without(name: str) -> Callable[[dict], None]:
    return lambda state: state.pop(name)


def put(value: object, *place: object) -> Callable[[dict], None]:
    """Put a value, or what a function makes of the one that is there, at a place in the state."""

    def change(state: dict) -> None:
        for key in place[:-1]:
            state = state[key]
        state[place[-1]] = value(state[place[-1]]) if callable(value) else value

    return change


MOMENT = ("optimizers", 0, "state", 0, "exp_avg")
CHANGES = {
    "no identity": without("identity"),
    "identity of numbers": put({"method": {"rank": 1}}, "identity"),
    "no weights": without("weights"),
    "one weight less": put(lambda weights: weights[1:], "weights"),
    "weights of text": put("a", "weights", 0),
    "a weight to be broadcast": put(lambda w: w[:1], "weights", 0),
    "a weight of half": put(lambda w: w.half(), "weights", 0),
    "a weight of NaN": put(lambda w: w * torch.nan, "weights", 3),
    "one infinite weight": put(lambda w: w.index_fill(0, torch.tensor(0), torch.inf), "weights", 0),
    "a weight without end": put(lambda w: w[:1, :1].clone().expand(60, 32), "weights", 0),
    "another step": put(1, "step"),
    "a step of text": put("2", "step"),
    "a step of True": put(True, "step"),
    "no optimizers": put([], "optimizers"),
    "an empty optimizer": put({}, "optimizers", 0),
    "no groups": put([], "optimizers", 0, "param_groups"),
    "groups without a rate": put([{}, {}], "optimizers", 0, "param_groups"),
    "other decay": put(0.5, "optimizers", 0, "param_groups", 0, "weight_decay"),
    "a rate of NaN": put(torch.nan, "optimizers", 0, "param_groups", 0, "lr"),
    "a moment of NaN": put(lambda m: m * torch.nan, *MOMENT),
    "a short moment": put(lambda m: m[:1], *MOMENT),
    "no moment": lambda state: state["optimizers"][0]["state"][0].pop("exp_avg"),
    "a moment of text": put("a", *MOMENT),
    "moments of no parameter": put({"exp_avg": torch.ones(1)}, "optimizers", 0, "state", 99),
    "no history": put({}, "history"),
    "a short history": put([], "history", "loss"),
    "a history of text": put("ab", "history", "loss"),
    "a loss of NaN": put(torch.nan, "history", "loss", 0),
    "no time": put(None, "seconds"),
    "infinite time": put(torch.inf, "seconds"),
    "no randomness": without("rng"),
    "short randomness": put(lambda state: state[:9], "rng"),
    "bad randomness": put(lambda state: state * 0 + 255, "rng"),
    "a scaler": put({"scale": 2.0}, "scaler"),
}


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has two checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    whole_run(folder, stop_at=3)
    return folder


@pytest.mark.parametrize("is_last", [True, False], ids=["no other", "one before"])
@pytest.mark.parametrize("what", CHANGES)
def test_contents_are_looked_at_before_they_are_used(
    what: str, is_last: bool, half_way: Path, tmp_path: Path
):
    """Whoever changes a checkpoint and makes its manifest anew gets a sentence, or the one before.

    One other value in a weight, finite, is beyond what can be told.
    """
    run = shutil.copytree(half_way, tmp_path / "run")
    newest = run / "checkpoints" / "step-00000002"
    state = torch.load(newest / "state.pt", weights_only=True)
    CHANGES[what](state)
    torch.save(state, newest / "state.pt")
    said = {"step": 2, "sha256": {"state.pt": sha256(newest / "state.pt")}}
    (newest / "manifest.json").write_text(json.dumps(said))
    if is_last:
        shutil.rmtree(run / "checkpoints" / "step-00000001")
        with pytest.raises(CheckpointError, match=r"is damaged \(step-00000002: ") as caught:
            whole_run(run)
        assert len(str(caught.value)) < 300
    else:
        whole = tmp_path / "whole"
        whole.mkdir()
        assert whole_run(run).losses == whole_run(whole).losses


# The folder, before anything trains


def test_a_folder_is_one_process_s(tmp_path: Path):
    taken = pytest.raises(FileExistsError, match=r"another process is at training in .*: wait")
    with only_writer(tmp_path / "checkpoints", "training"), taken:
        whole_run(tmp_path)
    assert whole_run(tmp_path) is not None


@pytest.mark.parametrize("place", ["file", "below a file", "file of the lock"])
def test_a_folder_that_cannot_be_used_is_noticed_before_training(place: str, tmp_path: Path):
    folder = tmp_path / "place"
    if place == "file of the lock":
        (folder / ".lock").mkdir(parents=True)
    else:
        folder.write_text("mine")
        folder = folder if place == "file" else folder / "below"
    with pytest.raises(OSError, match=r"cannot be used") as caught:
        whole_run(tmp_path, checkpoint_dir=folder)
    assert str(caught.value).startswith(str(folder))
    assert not (tmp_path / "metrics.jsonl").exists()
