"""The two files of an adapter: they change as one, and are checked when they are read.

PEFT's format has a configuration, adapter_config.json, and tensors, adapter_model.safetensors. Two
files are not replaced in one step, so the tensors are the adapter: their header holds the whole
configuration as well, a sample of the base, and a checksum over all of it. adapter_config.json, by
which PEFT loads, follows in a second step. What is left if a program is killed between the two is
told by the checksum of the configuration that was replaced, which the header holds, too.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from course_utils.data.files import parse_json
from course_utils.files import sha256, sha256_of, write_bytes, write_text
from course_utils.validation import check_finite, shown

CONFIG_FILE, TENSORS_FILE = "adapter_config.json", "adapter_model.safetensors"
VERSION_KEY = "course_utils_version"
# Version 1 has no checksum over the tensors, and its configuration in adapter_config.json alone.
FORMAT_VERSION, READABLE_VERSIONS = "2", ("1", "2")
_CONFIG, _REPLACES, _FINGERPRINT = "config", "replaces_config_sha256", "base_fingerprint"
_CHECKSUM = "sha256"
_OWN_KEYS = {VERSION_KEY, _CONFIG, _REPLACES, _FINGERPRINT, _CHECKSUM}

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_LARGEST_CONFIG_BYTES = 2**20


class AdapterError(ValueError):
    """An adapter cannot be written, or read, or put on this model."""


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """What the two files say.

    Args:
        config: The configuration.
        tensors: The tensors by their names.
        base_fingerprint: Of the base model; None if nothing is said.
        version: Of this course's format; empty for a file of PEFT's.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    base_fingerprint: str | None
    version: str


def write_pair(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], base_fingerprint: str
) -> None:
    """Write both files, in place of what was there: at any moment one whole adapter can be read.

    Args:
        folder: Where to; made if missing.
        config: The configuration.
        tensors: The tensors by their names.
        base_fingerprint: Of the base model.

    Raises:
        AdapterError: If a tensor is not finite, or a file cannot be written.
    """
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    try:
        for name, tensor in tensors.items():
            _check_tensor(name, tensor)
        folder.mkdir(parents=True, exist_ok=True)
        replaced = folder / CONFIG_FILE
        header = {
            "format": "pt",
            VERSION_KEY: FORMAT_VERSION,
            _CONFIG: json.dumps(config, indent=2, default=_as_json),
            _REPLACES: sha256(replaced) if replaced.is_file() else "",
            _FINGERPRINT: base_fingerprint,
        }
        header[_CHECKSUM] = _checksum(header, tensors)
        # Not by safetensors' own writing to a file, which only its owner could read.
        write_bytes(folder / TENSORS_FILE, save(tensors, metadata=header))
    except (ValueError, OSError, SafetensorError) as error:
        raise AdapterError(f"the adapter was not written to {folder}: {error}") from error
    try:
        _follow_the_tensors(folder)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"the adapter was written, but not for PEFT: {error}") from error


def read_pair(folder: Path) -> FilePair:
    """Read both files.

    Raises:
        AdapterError: If a file is missing, unreadable or damaged, or is none of this pair.
    """
    try:
        # In this order: of an adapter that is replaced meanwhile, the tensors are the newer ones.
        written = _bytes_of(folder / CONFIG_FILE)
        header, tensors = _header_and_tensors(folder)
    except (ValueError, TypeError, AttributeError, SafetensorError, OSError) as error:
        if isinstance(error, AdapterError):
            raise
        _refuse(folder, str(error)[:120], error)
    version = _version_of(header, folder)
    if version == FORMAT_VERSION:
        text = _checked_config(header, tensors, written, folder)
    elif written is None:
        raise AdapterError(f"{folder} holds no adapter: {CONFIG_FILE} is missing")
    elif header.get("config_sha256", sha256_of(written)) != sha256_of(written):
        _refuse(folder, f"{CONFIG_FILE} was changed since")
    else:
        text = written
    try:
        for name, tensor in tensors.items():
            _check_tensor(name, tensor)
    except ValueError as error:
        _refuse(folder, str(error), error)
    return FilePair(
        config=_parsed(text, folder / CONFIG_FILE),
        tensors=tensors,
        base_fingerprint=header.get(_FINGERPRINT),
        version=version,
    )


def cut(name: str) -> str:
    """Return a name as it is, or cut short if a file made it very long."""
    return name if len(name) <= 100 and name.isprintable() else shown(name)


def _follow_the_tensors(folder: Path) -> None:
    """Let adapter_config.json say what the tensors' header says.

    Another process may have replaced the tensors in between, so that they are asked again.
    """
    text, written = _header_config(folder), None
    while text != written:
        write_text(folder / CONFIG_FILE, text)
        text, written = _header_config(folder), text


def _header_config(folder: Path) -> str:
    with safe_open(folder / TENSORS_FILE, "pt") as file:
        return file.metadata()[_CONFIG]


def _checksum(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over a header, its own checksum left out, and all tensors."""
    said = {key: value for key, value in header.items() if key != _CHECKSUM}
    parts = {
        name: [str(t.dtype), list(t.shape), sha256_of(t.flatten().view(torch.uint8).numpy().data)]
        for name, t in tensors.items()
    }
    return sha256_of(json.dumps([said, parts], sort_keys=True))


def _version_of(header: Mapping[str, str], folder: Path) -> str:
    """Return the format's version, or an empty text for a file of PEFT's, which says nothing."""
    if not header.keys() & _OWN_KEYS:
        return ""
    version = header.get(VERSION_KEY, "")
    if version not in READABLE_VERSIONS:
        refuse_version(folder, version)
    return version


def refuse_version(folder: Path, version: str) -> NoReturn:
    """Refuse a version of this course's format.

    Raises:
        AdapterError: Always.
    """
    known = " and ".join(READABLE_VERSIONS)
    raise AdapterError(f"{folder} has version {shown(version)}; this course reads {known}")


def _checked_config(
    header: Mapping[str, str], tensors: Mapping[str, Tensor], written: bytes | None, folder: Path
) -> bytes:
    """Return the configuration in a header, if all is as it was written.

    The file beside may be the one that was to be replaced: then a program was killed in between.
    """
    if missing := sorted(_OWN_KEYS - header.keys()):
        _refuse(folder, f"the header of {TENSORS_FILE} lacks {missing[0]}")
    if header[_CHECKSUM] != _checksum(header, tensors):
        _refuse(folder, f"{TENSORS_FILE} does not match its checksum")
    known = (sha256_of(header[_CONFIG]), header[_REPLACES])
    if written is not None and sha256_of(written) not in known:
        _refuse(folder, f"{CONFIG_FILE} was changed since")
    return header[_CONFIG].encode()


def _check_tensor(name: str, tensor: Tensor) -> None:
    """Check that a tensor holds finite numbers, as float32 too, in which adapters compute."""
    if tensor.dtype not in _DTYPES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        kind = str(tensor.dtype).removeprefix("torch.")
        raise ValueError(f"{cut(name)} is of type {kind} and must be one of {known}")
    check_finite(cut(name), tensor.float())


def _header_and_tensors(folder: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = folder / TENSORS_FILE
    if not path.is_file():
        raise AdapterError(f"{folder} holds no adapter: {TENSORS_FILE} is missing")
    with safe_open(path, "pt") as file:
        return file.metadata() or {}, {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118


def _bytes_of(path: Path) -> bytes | None:
    """Return what a configuration's file holds, or None if there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        data = file.read(_LARGEST_CONFIG_BYTES + 1)
    if len(data) > _LARGEST_CONFIG_BYTES:
        raise AdapterError(f"{path} must have at most {_LARGEST_CONFIG_BYTES} bytes and has more")
    return data


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    """Return a configuration from JSON in which nothing is doubled, and every number one."""
    try:
        config = parse_json(text.decode())
        if not isinstance(config, dict):
            raise ValueError(f"{shown(config)} is no object")
    except ValueError as error:
        raise AdapterError(f"{path} holds a damaged configuration: {error}") from error
    return config


def _as_json(value: object) -> int | float | list:
    """Return numbers and collections of other libraries as JSON's own."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return int(value) if isinstance(value, Integral) else float(value)


def _refuse(folder: Path, reason: str, cause: Exception | None = None) -> NoReturn:
    raise AdapterError(f"{folder} holds a damaged adapter: {reason}") from cause
