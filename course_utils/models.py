"""Base models and tokenizers: the embedded one, a local folder, or a pinned model of the Hub.

Weights are read from safetensors only and no code that comes with a model is ever run.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from course_utils.paths import data_dir
from course_utils.profiles import EMBEDDED, Profile, current_profile

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Source = "Profile | str | Path | None"


def embedded_model_dir() -> Path:
    """Return the folder of the embedded model."""
    return data_dir() / "base_model"


def load_base_model(
    source: "Profile | str | Path | None" = None,
    *,
    dtype: "torch.dtype | str | None" = None,
    num_labels: int | None = None,
) -> "PreTrainedModel":
    """Load a causal language model, or the same weights under a new classification head.

    Args:
        source: A profile, a local folder or a Hub id; the current profile's model by default.
        dtype: Type of the weights; float32 by default, so that every weight can be trained.
        num_labels: With a number, a sequence classifier whose head (d_model to ``num_labels``) is
            freshly initialised from torch's current seed.

    Returns:
        The model in evaluation mode, on the CPU or on the profile's device.

    Raises:
        FileNotFoundError: If a local folder is missing or holds no model.
        ValueError: If the embedded weights do not match their checksum.
        ConnectionError: If a Hub model is neither cached nor reachable.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    name, revision, device = _resolve(source)
    if num_labels is None:
        loader, extra = AutoModelForCausalLM, {}
    else:
        loader, extra = AutoModelForSequenceClassification, {"num_labels": num_labels}
    model = _load(loader.from_pretrained, name, revision, use_safetensors=True,
                  dtype=torch.float32 if dtype is None else dtype, **extra)  # fmt: skip
    if num_labels is not None and model.config.pad_token_id is None:
        model.config.pad_token_id = _load_tokenizer(name, revision).pad_token_id
    return model.eval().to(device)


def load_tokenizer(source: "Profile | str | Path | None" = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer that belongs to ``source`` (see :func:`load_base_model`).

    A tokenizer without a padding token pads with its end token.
    """
    name, revision, _ = _resolve(source)
    return _load_tokenizer(name, revision)


def _load_tokenizer(name: str, revision: str | None) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer.from_pretrained, name, revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _resolve(source: "Profile | str | Path | None") -> tuple[str, str | None, str]:
    """Return (folder or Hub id, revision, device)."""
    if source is None:
        source = current_profile()
    revision, device = None, "cpu"
    if isinstance(source, Profile):
        source, revision, device = source.model, source.revision, source.device
    if str(source) == EMBEDDED:
        source = embedded_model_dir()
        verify_checksums(source)
    folder = Path(source)
    looks_local = isinstance(source, Path) or str(source).startswith((".", "/", "~", "\\"))
    if folder.expanduser().is_dir() or looks_local:
        folder = folder.expanduser()
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"no model in {folder}: a model folder holds config.json, model.safetensors "
                "and tokenizer.json"
            )
        return str(folder), None, device
    return str(source), revision, device


def _load(loader, name: str, revision: str | None, **kwargs):  # noqa: ANN001, ANN003, ANN202
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    is_local = Path(name).is_dir()
    try:
        return loader(name, revision=None if is_local else revision,
                      trust_remote_code=False, local_files_only=is_local, **kwargs)  # fmt: skip
    except OSError as error:
        if is_local:
            raise FileNotFoundError(f"the model in {name} cannot be read: {error}") from error
        raise ConnectionError(
            f"{name} is neither in the local cache nor to be had from the Hub: check the id and "
            "the network, or set COURSE_PROFILE=cpu to use the embedded model"
        ) from error


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_checksums(folder: Path) -> None:
    """Compare a model folder's files with its ``checksums.json``.

    Raises:
        FileNotFoundError: If the folder, the list or a listed file is missing.
        ValueError: If a file differs from its recorded checksum.
    """
    listing = folder / "checksums.json"
    if not listing.is_file():
        raise FileNotFoundError(
            f"no embedded model in {folder}: fetch the course again, "
            "or rebuild it with `python -m course_utils.pretrain` (about two hours)"
        )
    for name, expected in json.loads(listing.read_text()).items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: fetch the course again")
        if file_sha256(path) != expected:
            raise ValueError(
                f"{path} does not match its checksum: the file is damaged or was changed; "
                "restore it with `git checkout -- data/base_model`"
            )
