import logging
from pathlib import Path

import pytest
import torch

from course_utils.training.checkpoints import CheckpointError, load_checkpoint, save_checkpoint

STATE = {"weights": [torch.arange(1000.0)], "step": 1, "name": "x"}


def damage(folder: Path, how: str) -> None:
    state, manifest = folder / "state.pt", folder / "manifest.json"
    if how == "truncated":
        state.write_bytes(state.read_bytes()[:100])
    elif how == "flipped":
        data = bytearray(state.read_bytes())
        data[len(data) // 2] ^= 1
        state.write_bytes(bytes(data))
    elif how == "missing state":
        state.unlink()
    elif how == "missing manifest":
        manifest.unlink()
    else:
        manifest.write_text("{")


HOWS = ("truncated", "flipped", "missing state", "missing manifest", "broken manifest")


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
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, how: str, caplog):
    save_checkpoint(tmp_path, 1, STATE)
    damage(save_checkpoint(tmp_path, 2, STATE | {"step": 2}), how)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path)["step"] == 1
    assert "step-00000002 is skipped" in caplog.text


def test_if_all_are_damaged_it_says_so(tmp_path: Path):
    damage(save_checkpoint(tmp_path, 1, STATE), "flipped")
    with pytest.raises(CheckpointError, match=r"every checkpoint .* is damaged"):
        load_checkpoint(tmp_path)


def test_a_half_written_checkpoint_is_not_one(tmp_path: Path):
    """What a kill leaves behind: the temporary folder, before its rename."""
    save_checkpoint(tmp_path, 1, STATE)
    partial = tmp_path / ".step-00000002.partial"
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
