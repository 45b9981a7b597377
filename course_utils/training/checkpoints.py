"""Training checkpoints: written whole or not at all, verified before they are used.

A checkpoint is a folder, named after its step, of two files: the state, and a manifest with the
state's SHA-256. It takes its place in one step. What is in it is trusted only after both the
checksum and a look at the contents; torch reads it without running any code.
"""

import json
import logging
import os
import re
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from course_utils.files import new_file, new_folder, sha256, write_text
from course_utils.validation import check_count

_MANIFEST = "manifest.json"
_STATE = "state.pt"
_PREFIX = "step-"
_KEPT = 2
_LARGEST_MANIFEST_BYTES = 4096

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none can be trusted."""


class _DamagedError(Exception):
    """What is wrong with one checkpoint."""


def save_checkpoint(folder: Path, step: int, state: dict) -> Path:
    """Write ``state`` as checkpoint ``step`` under ``folder`` and drop all but the last two.

    Args:
        folder: Folder of the run's checkpoints; made if missing.
        step: Optimizer steps done.
        state: Tensors, numbers, strings, and lists and dicts of them.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: If the disk is full or not writable; earlier checkpoints stay as they are.
    """
    check_count("step", step, at_least=0)
    final = folder / _name(step)
    try:
        if final.is_dir() and not set(os.listdir(final)) <= {_MANIFEST, _STATE}:
            raise FileExistsError(f"{final} was not written: there are other files in it")
        with new_folder(final) as partial:
            with new_file(partial / _STATE) as file:
                torch.save(state, file)
            manifest = {"step": step, "sha256": {_STATE: sha256(partial / _STATE)}}
            write_text(partial / _MANIFEST, json.dumps(manifest))
    except (OSError, RuntimeError) as error:
        # What torch says is of its own insides.
        reason = str(error) if isinstance(error, OSError) else "torch could not write it"
        reason = reason.removeprefix(f"{final} was not written: ")
        raise CheckpointError(
            f"checkpoint {step} was not written to {folder}: {reason}; earlier ones are untouched"
        ) from error
    _drop_older(folder, step)
    return final


def load_checkpoint(
    folder: Path, damage_of: Callable[[int, dict], str | None] = lambda step, state: None
) -> dict | None:
    """Return the newest checkpoint that is whole, or None when there is none yet.

    A damaged checkpoint is skipped, with a warning in the log, in favour of the one before it.

    Args:
        folder: Folder of the run's checkpoints.
        damage_of: ``(step, state) -> what is wrong with it, or None``; asked of every checkpoint
            that is as it was written.

    Raises:
        CheckpointError: If there are checkpoints and every one of them is damaged, or the folder
            cannot be read.
    """
    newest = ""
    for step, candidate in _folders(folder):
        try:
            state = _whole_state(step, candidate)
            damage = damage_of(step, state)
        except _DamagedError as error:
            damage = str(error)
        if damage is None:
            return state
        logger.warning("checkpoint %s is skipped: %s", candidate.name, damage)
        newest = newest or f"{candidate.name}: {damage}"
    if newest:
        raise CheckpointError(
            f"every checkpoint in {folder} is damaged ({newest}): delete the folder to start again"
        )
    return None


def _folders(folder: Path) -> list[tuple[int, Path]]:
    """Return the folders that a run may have written, by step, the newest first."""
    found = []
    try:
        for path in folder.iterdir() if folder.exists() else ():
            digits = re.fullmatch(rf"{_PREFIX}(\d{{8,}})", path.name, re.ASCII)
            if digits and path.name == _name(int(digits[1])) and path.is_dir():
                found.append((int(digits[1]), path))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from error
    return sorted(found, reverse=True)


def _name(step: int) -> str:
    return f"{_PREFIX}{step:08d}"


def _whole_state(step: int, folder: Path) -> dict[str, Any]:
    """Return what a checkpoint holds.

    Raises:
        _DamagedError: If it is not as it was written.
    """
    _check_manifest(step, folder)
    try:
        with zipfile.ZipFile(folder / _STATE) as archive:
            if any(part.compress_size != part.file_size for part in archive.infolist()):
                raise _DamagedError(f"{_STATE} is compressed, which no run writes")
        state = torch.load(folder / _STATE, map_location="cpu", weights_only=True)
    except _DamagedError:
        raise
    except Exception as error:
        # What torch says is of its own options, or of code that it did not run.
        raise _DamagedError(f"{_STATE} is no file of tensors, numbers and texts") from error
    if not isinstance(state, dict):
        raise _DamagedError(f"{_STATE} holds no names")
    return state


def _check_manifest(step: int, folder: Path) -> None:
    """Check that a manifest is one of that step, and that the state is what it says.

    Raises:
        _DamagedError: If not. Links, pipes and devices, which no run writes, are not opened.
    """
    for name in (_MANIFEST, _STATE):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise _DamagedError(f"{name} is missing, or no plain file")
    try:
        if (folder / _MANIFEST).stat().st_size > _LARGEST_MANIFEST_BYTES:
            raise _DamagedError(f"{_MANIFEST} is too long")
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        expected = {"step": step, "sha256": {_STATE: sha256(folder / _STATE)}}
    except (OSError, ValueError, RecursionError) as error:
        raise _DamagedError("its manifest or a file cannot be read") from error
    if not isinstance(manifest, dict) or manifest.get("step") != step:
        raise _DamagedError(f"{_MANIFEST} is not of step {step}")
    if manifest != expected:
        raise _DamagedError(f"{_STATE} does not match its checksum")


def _drop_older(folder: Path, step: int) -> None:
    """Remove what is older than the last two whole checkpoints, of which ``step`` is the newer.

    Only what a run writes goes: a folder with anything else in it stays.
    """
    kept = 1
    for _, old in (found for found in _folders(folder) if found[0] < step):
        if kept < _KEPT and _is_whole(old):
            kept += 1
        elif not old.is_symlink():
            with suppress(OSError):
                _remove(old)


def _is_whole(folder: Path) -> bool:
    try:
        _check_manifest(int(folder.name.removeprefix(_PREFIX)), folder)
    except _DamagedError:
        return False
    return True


def _remove(folder: Path) -> None:
    """Remove a checkpoint, the manifest first: without it, the rest counts for nothing.

    Raises:
        OSError: If there is something else in it.
    """
    for name in (_MANIFEST, _STATE):
        (folder / name).unlink(missing_ok=True)
    os.rmdir(folder)
