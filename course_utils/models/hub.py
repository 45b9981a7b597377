"""The Hub's answers, told in one sentence: what is not there, refused, broken off or damaged."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from course_utils.files import sha256

# A file may take this long to begin with, and then as long as it takes at the least speed.
GRACE_SECONDS, LEAST_BYTES_PER_SECOND = 30, 50_000
_JSON_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer_config.json",
    "tokenizer.json",
)


def is_to_be_had_online(name: str, revision: str | None) -> bool:
    """Ask the Hub once for a model, so that a wrong id or a dead network is told without delay.

    Args:
        name: Hub id.
        revision: Commit or branch; None for the default branch.

    Returns:
        False if the Hub does not give the model but the local cache holds it.

    Raises:
        FileNotFoundError: If the Hub has no such model, or none at this revision.
        PermissionError: If the Hub wants a token or an accepted licence first.
        ConnectionError: If the Hub cannot be reached.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    try:
        found = get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision))
        if found.commit_hash is None:
            raise ConnectionError("another page answers in the Hub's place, such as a login's")
    except errors.HFValidationError as error:
        raise FileNotFoundError(f"{name!r} is neither a folder nor the id of a model") from error
    except Exception as error:
        if find_file(name, revision, "config.json"):
            return False
        raise _explain_refusal(error, name, revision) from error
    return True


@contextmanager
def checked_download(name: str) -> Iterator[None]:
    """Compare the files of a model that arrive inside the block with what the Hub announced.

    The cache names a file by its digest: SHA-256 of weights, git's SHA-1 of small files. One with
    another is removed, so that the next try fetches it anew. A file that arrives too slowly is
    given up as a whole, where the library watches over each read alone.

    Args:
        name: Hub id.

    Raises:
        ConnectionError: If a file arrived with other bytes.
    """
    from huggingface_hub import get_session

    before = set(_cached_files(name))
    hooks = get_session().event_hooks.setdefault("response", [])
    if _limit_time not in hooks:
        hooks.append(_limit_time)
    try:
        yield
    finally:
        wrong = [path for path in _cached_files(name) if path not in before and _is_wrong(path)]
        for path in wrong:
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        if wrong:
            raise ConnectionError(f"{wrong[0].name} has other bytes than the Hub announced")


def _cached_files(name: str) -> list[Path]:
    """Return the files of a model that the cache holds, of whatever revision."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
    return [path for path in folder.rglob("*") if path.is_file()]


def _is_wrong(path: Path) -> bool:
    """Say whether a cached file's bytes have another digest than its name in the cache says."""
    expected = path.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        return sha256(path) != expected
    if re.fullmatch(r"[0-9a-f]{40}", expected):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() != expected
    return False  # a system without links keeps the file itself, and no digest


def _limit_time(response: Any) -> None:  # noqa: ANN401
    """Have a response's body give up once it has been too slow for too long."""
    arrive: Callable[..., Iterator[bytes]] = response.iter_raw

    def arrive_in_time(*args: Any, **options: Any) -> Iterator[bytes]:  # noqa: ANN401
        start, n_bytes = time.monotonic(), 0
        for part in arrive(*args, **options):
            n_bytes += len(part)
            seconds = time.monotonic() - start
            if seconds > GRACE_SECONDS + n_bytes / LEAST_BYTES_PER_SECOND:
                raise TimeoutError(f"after {seconds:.0f} s only {n_bytes:,} bytes had arrived")
            yield part

    response.iter_raw = arrive_in_time


def find_file(name: str, revision: str | None, file: str) -> Path | None:
    """Return where a folder or the Hub's cache holds one file of a model, or None."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    found = try_to_load_from_cache(name, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _is_known_to_lack(name: str, revision: str | None, file: str) -> bool:
    """Return whether a folder lacks a file, or the Hub said that the model has none."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

    if Path(name).is_dir():
        return not (Path(name) / file).is_file()
    return try_to_load_from_cache(name, file, revision=revision) is _CACHED_NO_EXIST


def _explain_refusal(error: Exception, name: str, revision: str | None) -> OSError:
    """Say why the Hub did not give a model's config.json."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(
            f"{name} is gated: accept its licence on the model's page of the Hub, then log in with "
            "`hf auth login` (on Colab: the secret HF_TOKEN)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(f"{name} has no revision {revision} on the Hub")
    if isinstance(error, errors.EntryNotFoundError):
        return FileNotFoundError(f"{name} holds no config.json: it is an adapter, or no model")
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"{name} is neither a folder here nor a model that the Hub shows: check the spelling; "
            "a private model needs `hf auth login`"
        )
    if status in (401, 403):
        return PermissionError(f"the Hub refuses {name} to your token: `hf auth login` again")
    remedy = "check the network"
    if isinstance(error, errors.OfflineModeIsEnabled):
        error, remedy = RuntimeError("HF_HUB_OFFLINE is set"), "unset HF_HUB_OFFLINE"
    return ConnectionError(
        f"{name} is neither in the local cache nor to be had from the Hub ({_root_cause(error)}): "
        f"{remedy}, or set COURSE_PROFILE=cpu to use the embedded model"
    )


def explain_failure(error: Exception, name: str, revision: str | None) -> Exception:
    """Say why a model that is there could not be loaded.

    Args:
        error: What transformers raised.
        name: Local folder or Hub id.
        revision: Commit or branch of a Hub model.

    Returns:
        The exception to raise in its place; ``error`` itself if it is clear enough.
    """
    from huggingface_hub.errors import HTTPError
    from safetensors import SafetensorError

    is_folder, reason = Path(name).is_dir(), _first_line(error)
    if find_file(name, revision, "adapter_config.json"):
        return ValueError(f"{name} holds an adapter: load the base model it was trained on")
    if "trust_remote_code" in str(error):
        return ValueError(
            f"{name} brings its own code, which the course never runs: choose a model whose "
            "architecture is part of transformers"
        )
    if isinstance(error, SafetensorError):
        config = find_file(name, revision, "config.json")
        remedy = "" if is_folder or config is None else f"delete {config.parents[2]} and "
        return ValueError(f"the weights of {name} are damaged ({reason}): {remedy}fetch them again")
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if damaged := damaged_json(name, revision):
        return ValueError(f"{name} cannot be loaded: {damaged}")
    lacks_weights = _is_known_to_lack(name, revision, "model.safetensors")
    if "named model.safetensors" in reason and lacks_weights:
        return FileNotFoundError(
            f"{name} holds no model.safetensors: pickled weights (pytorch_model.bin) are never "
            "loaded, because unpickling can run any code"
        )
    if isinstance(error, OSError | HTTPError) and not is_folder:
        return ConnectionError(
            f"{name} did not arrive whole ({_root_cause(error)}): check the network and try again"
        )
    if "tokenizer" in reason and _is_known_to_lack(name, revision, "tokenizer.json"):
        return FileNotFoundError(f"{name} holds no tokenizer.json")
    return ValueError(f"{name} cannot be loaded: {reason}")


def damaged_json(
    name: str, revision: str | None, files: tuple[str, ...] = _JSON_FILES
) -> str | None:
    """Say which of a model's JSON files holds no object, or return None."""
    for file in files:
        path = find_file(name, revision, file)
        try:
            if path and not isinstance(json.loads(path.read_bytes()), dict):
                return f"its {file} is damaged (it holds no object)"
        except RecursionError:
            return f"its {file} is damaged (it nests too deeply)"
        except ValueError as error:
            return f"its {file} is damaged ({_first_line(error)})"
    return None


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    """Return what an error says, in a line of its own and not a long one."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    if first.endswith(":") and others:
        first = f"{first} {others[0]}"
    is_bare = not first or isinstance(error, LookupError | ArithmeticError | AttributeError)
    return f"{type(error).__name__} {first}".strip()[:140] if is_bare else first.rstrip(".")[:140]
