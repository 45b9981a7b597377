"""Training checkpoints: written whole or not at all, verified before they are used.

A checkpoint is a folder. It is written under a temporary name, every file with its SHA-256 in a
manifest, flushed to disk and then renamed, which the file system does in one step.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

_MANIFEST = "manifest.json"
_STATE = "state.pt"
_PREFIX = "step-"
_KEPT = 2

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none can be trusted."""


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
    final = folder / f"{_PREFIX}{step:08d}"
    partial = folder / f".{final.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with (partial / _STATE).open("wb") as file:
            torch.save(state, file)
            _flush(file)
        manifest = {"step": step, "sha256": {_STATE: _sha256(partial / _STATE)}}
        with (partial / _MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file)
            _flush(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        full = getattr(error, "errno", None) == errno.ENOSPC
        reason = "the disk is full" if full else str(error)
        raise CheckpointError(
            f"checkpoint {step} was not written to {folder}: {reason}; earlier ones are untouched"
        ) from error
    for old in _folders(folder)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_checkpoint(folder: Path) -> dict | None:
    """Return the newest checkpoint that is whole, or None when there is none yet.

    A damaged checkpoint is skipped, with a warning in the log, in favour of the one before it.

    Raises:
        CheckpointError: If there are checkpoints and every one of them is damaged.
    """
    folders = _folders(folder)
    for candidate in reversed(folders):
        damage = _damage(candidate)
        if damage is None:
            return torch.load(candidate / _STATE, weights_only=True)
        logger.warning("checkpoint %s is skipped: %s", candidate.name, damage)
    if folders:
        raise CheckpointError(
            f"every checkpoint in {folder} is damaged: delete the folder to start again"
        )
    return None


def run_identity(config: object, besides: Collection[str]) -> str:
    """Return what must be equal for a run to be resumed: a configuration, but for some fields."""
    fields = {name: value for name, value in asdict(config).items() if name not in besides}
    return json.dumps(fields, sort_keys=True)


def resume_checkpoint(folder: Path, identity: str, trained: Sequence[nn.Parameter]) -> dict | None:
    """Put the newest whole checkpoint's weights back, and return it, or None if there is none.

    Args:
        folder: Where the checkpoints are; their ``config`` is an identity, ``weights`` the weights.
        identity: That of the run, from ``run_identity``.
        trained: Parameters, in the order in which their weights were saved.

    Raises:
        ValueError: If the folder holds a run with another configuration.
        CheckpointError: As ``load_checkpoint``.
    """
    state = load_checkpoint(folder)
    if state is None:
        return None
    if state["config"] != identity:
        raise ValueError(
            f"{folder} holds a run with another configuration: choose another checkpoint_dir or "
            "delete it"
        )
    with torch.no_grad():
        for parameter, saved in zip(trained, state["weights"], strict=True):
            parameter.copy_(saved)
    return state


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _damage(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint, or return None."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest["sha256"].items():
            if _sha256(folder / name) != expected:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its manifest or a file cannot be read ({error})"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(file) -> None:  # noqa: ANN001
    file.flush()
    os.fsync(file.fileno())
