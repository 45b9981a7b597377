"""The Hub's answers, told in one sentence: what is not there, refused, broken off or damaged."""

from pathlib import Path


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
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision))
    except errors.HFValidationError as error:
        raise FileNotFoundError(f"{name!r} is neither a folder nor the id of a model") from error
    except Exception as error:
        if find_file(name, revision, "config.json"):
            return False
        raise _explain_refusal(error, name, revision) from error
    return True


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


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
