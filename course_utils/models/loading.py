"""Base models and tokenizers: the embedded one, a local folder, or a pinned model of the Hub.

Weights are read from safetensors only and no code that comes with a model is ever run.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from course_utils.files import sha256, write_text
from course_utils.models.hub import (
    checked_download,
    damaged_json,
    explain_failure,
    is_to_be_had_online,
)
from course_utils.models.profiles import EMBEDDED, PINNED_REVISIONS, Profile, current_profile
from course_utils.paths import data_dir
from course_utils.validation import check_choice, check_count, shown

if TYPE_CHECKING:
    import torch
    from transformers import (
        BitsAndBytesConfig,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

Source = Profile | str | Path | None
# Sizes beyond these are errors in a file, and would fill the memory before anything notices.
_LARGEST = {
    "vocab_size": 2**22,
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**12,
}

# huggingface_hub reads the first when it is imported, hence here. Without the second, transformers
# asks a public service to convert a model that has pickled weights only.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


def embedded_model_dir() -> Path:
    """Return the folder of the embedded model."""
    return data_dir() / "base_model"


def load_base_model(
    source: Source = None,
    *,
    dtype: "torch.dtype | str | None" = None,
    num_labels: int | None = None,
    label_level: Literal["sequence", "token"] = "sequence",
    quantization_config: "BitsAndBytesConfig | None" = None,
) -> "PreTrainedModel":
    """Load a causal language model, or the same weights under a new classification head.

    Args:
        source: A profile, a local folder or a Hub id; the current profile's model by default.
        dtype: Type of the weights; float32 by default, so that every weight can be trained.
        num_labels: With a number, a classifier whose head (d_model to ``num_labels``) is freshly
            initialised from torch's current seed.
        label_level: Whether the classifier labels a whole ``sequence`` or every ``token``.
        quantization_config: How bitsandbytes shall store the linear layers, as they are read.

    Returns:
        The model in evaluation mode, on the CPU or on the profile's device.

    Raises:
        FileNotFoundError: If the folder or the Hub has no such model, or none in safetensors.
        PermissionError: If the Hub wants a token or an accepted licence first.
        ConnectionError: If a Hub model is neither cached nor reachable, or arrives incomplete.
        ValueError: If the weights are damaged, do not match their checksum or their config.json,
            if the model brings its own code, or if an argument is out of range.
    """
    import torch

    auto_class, head = _choose_class(num_labels, label_level)
    dtype = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={dtype!r} must be a torch dtype, such as float32 or bfloat16")
    name, revision, device = _resolve(source)
    packing = {}
    if quantization_config is not None:
        packing = {"quantization_config": quantization_config, "device_map": {"": device}}
    model, info = _load(
        partial(_from_pretrained, auto_class, head),
        name,
        revision,
        use_safetensors=True,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        dtype=dtype or torch.float32,
        **packing,
    )
    _check_weights(name, model, info, has_new_head=num_labels is not None)
    if num_labels is not None:
        _set_padding(model, name, revision)
    if quantization_config is not None:
        _keep_packing(model)
        return model
    return model.to(device)


def _from_pretrained(auto_class: Any, head: dict[str, int], name: str, **options: Any) -> Any:  # noqa: ANN401
    """Read a model's weights, by its configuration."""
    config = _read_config(name, head, options)
    if damaged := damaged_json(name, options["revision"], ("generation_config.json",)):
        raise ValueError(damaged)  # transformers would go on without it
    return auto_class.from_pretrained(name, config=config, **options)


def _from_config(auto_class: Any, head: dict[str, int], name: str, **options: Any) -> Any:  # noqa: ANN401
    """Build a model with fresh weights, by its configuration."""
    return auto_class.from_config(_read_config(name, head, options), dtype=options["dtype"])


def _read_config(name: str, head: dict[str, int], options: Mapping[str, Any]) -> "PreTrainedConfig":
    """Read a model's configuration, and check it before anything is built by it."""
    from transformers import AutoConfig

    place = {key: options[key] for key in ("revision", "trust_remote_code", "local_files_only")}
    config = AutoConfig.from_pretrained(name, **place, **head)
    _check_config(config)
    return config


def _check_config(config: "PreTrainedConfig") -> None:
    """Check the sizes of a configuration, and take a padding token of -1 for none.

    Raises:
        ValueError: If a size is out of range, or the padding token not in the vocabulary.
    """
    config = config.get_text_config()
    for size, largest in _LARGEST.items():
        check_count(size, getattr(config, size, None), at_most=largest, is_none_ok=True)
    if config.pad_token_id == -1:  # as early conversions of Llama say that there is none
        config.pad_token_id = None
    vocabulary = getattr(config, "vocab_size", None)
    if vocabulary is not None:
        last, none_ok = vocabulary - 1, {"at_least": 0, "is_none_ok": True}
        check_count("pad_token_id", config.pad_token_id, at_most=last, **none_ok)


def _keep_packing(model: "PreTrainedModel") -> None:
    """Keep bitsandbytes from repacking weights when it first evaluates on some processors.

    Afterwards no gradient would pass them (bitsandbytes 0.50, AVX512-BF16).
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def build_random_model(
    source: Source = None,
    *,
    num_labels: int | None = None,
    label_level: Literal["sequence", "token"] = "sequence",
) -> "PreTrainedModel":
    """Build the architecture of ``source`` with fresh weights: what pretraining is worth.

    Args:
        source: A profile, a local folder or a Hub id; the current profile's model by default.
        num_labels: With a number, a classifier with so many outputs.
        label_level: As in :func:`load_base_model`.

    Returns:
        A float32 model whose weights follow from torch's current seed, in evaluation mode.
    """
    import torch

    auto_class, head = _choose_class(num_labels, label_level)
    name, revision, device = _resolve(source)
    model = _load(partial(_from_config, auto_class, head), name, revision, dtype=torch.float32)
    if num_labels is not None:
        _set_padding(model, name, revision)
    return model.eval().to(device)


def _choose_class(num_labels: int | None, label_level: str) -> tuple[Any, dict[str, int]]:
    """Return transformers' class for a language model or a classifier, and the head's options."""
    import transformers

    check_choice("label_level", label_level, ("sequence", "token"))
    if num_labels is None:
        if label_level == "token":
            raise ValueError("label_level='token' needs num_labels, the number of classes")
        return transformers.AutoModelForCausalLM, {}
    check_count("num_labels", num_labels, at_most=2**16)
    classifier = f"AutoModelFor{label_level.capitalize()}Classification"
    return getattr(transformers, classifier), {"num_labels": num_labels}


def _set_padding(model: Any, name: str, revision: str | None) -> None:  # noqa: ANN401
    """Tell a classifier which token is padding: it reads the last token that is not.

    Raises:
        ValueError: If the tokenizer's padding token is not in the model's vocabulary.
    """
    if model.config.pad_token_id is None:
        pad, rows = _load_tokenizer(name, revision).pad_token_id, model.get_input_embeddings()
        if pad is not None and pad >= len(rows.weight):
            raise ValueError(
                f"the tokenizer of {name} pads with token {pad}, and the model's vocabulary ends "
                f"at {len(rows.weight) - 1}"
            )
        model.config.pad_token_id = pad


def set_activation_checkpointing(model: "PreTrainedModel", is_on: bool) -> None:
    """Switch gradient checkpointing (arXiv:1604.06174) on or off.

    The key-value cache, which cannot be had with it, is switched off as well. transformers calls it
    ``activation_checkpointing`` since it renamed ``gradient_checkpointing``.
    """
    prefix = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    model.config.use_cache = not is_on
    getattr(model, f"{prefix}_checkpointing_{'enable' if is_on else 'disable'}")()


def load_tokenizer(source: Source = None) -> "PreTrainedTokenizerBase":
    """Load the tokenizer that belongs to ``source``; it raises what :func:`load_base_model` does.

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


def _resolve(source: Source) -> tuple[str, str | None, str]:
    """Return (folder or Hub id, revision, device)."""
    if source is None:
        source = current_profile()
    if not isinstance(source, Profile | str | Path):
        raise ValueError(f"{shown(source)} must be a profile, a folder or a Hub id")
    revision, device = None, "cpu"
    if isinstance(source, Profile):
        source, revision, device = source.model, source.revision, source.device
    if str(source) == EMBEDDED:
        source = embedded_model_dir()
        verify_checksums(source)
    folder = Path(source).expanduser()
    looks_local = isinstance(source, Path) or source.startswith((".", "/", "~", "\\"))
    if not folder.is_dir() and not looks_local:
        return source, revision or PINNED_REVISIONS.get(source), device
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"no model in {folder}: a model folder holds config.json, model.safetensors "
            "and tokenizer.json"
        )
    return str(folder), None, device


def _load(load: Callable[..., Any], name: str, revision: str | None, **options: object) -> Any:  # noqa: ANN401
    """Call a ``from_pretrained`` so that whatever goes wrong is told in one sentence."""
    is_local = Path(name).is_dir() or not is_to_be_had_online(name, revision)
    try:
        watch = nullcontext() if is_local else checked_download(name)
        with _quiet(has_bars=not is_local), watch:
            return load(
                name,
                revision=None if Path(name).is_dir() else revision,
                trust_remote_code=False,
                local_files_only=is_local,
                **options,
            )
    except MemoryError:
        raise
    except Exception as error:
        clear = explain_failure(error, name, revision)
        if clear is error:
            raise
        raise clear from error


def _check_weights(name: str, model: Any, info: dict[str, Any], *, has_new_head: bool) -> None:  # noqa: ANN401
    """Refuse an adapter, and weights that transformers would fill in at random or leave out.

    Raises:
        ValueError: If a weight is missing or of another shape than config.json says, a new head's
            aside, or the trunk has no place for one.
    """
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(f"{name} holds an adapter: load the base model it was trained on")
    lost = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if has_new_head:
        lost = [key for key in lost if key.startswith(f"{model.base_model_prefix}.")]
    if lost:
        raise ValueError(
            f"the weights of {name} do not fit its config.json: {len(lost)} missing or of another "
            f"shape, such as {lost[0]}"
        )
    if spare := _without_a_place(model, info["unexpected_keys"]):
        raise ValueError(
            f"the weights of {name} do not fit its config.json: {len(spare)} have no place in the "
            f"model, such as {spare[0]}"
        )


def _without_a_place(model: Any, unexpected: Iterable[str]) -> list[str]:  # noqa: ANN401
    """Return weights in a file that belong to parts of the trunk and are not in the model.

    What belongs to another head is none of it, nor to a part that the trunk goes without, as
    BERT's pooler under a language model.
    """
    trunk = model.base_model
    parts = {name for name, part in trunk.named_children() if part is not None}
    buffers = {name for name, _ in trunk.named_buffers()}
    names = {key: key.removeprefix(f"{model.base_model_prefix}.") for key in unexpected}
    return sorted(
        key
        for key, name in names.items()
        if name.partition(".")[0] in parts and name not in buffers
    )


@contextmanager
def _quiet(*, has_bars: bool) -> Iterator[None]:
    """Keep transformers' loading report out of a notebook, and bars where nothing is fetched."""
    from transformers.utils import logging

    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not has_bars:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bars and not has_bars:
            logging.enable_progress_bar()


def write_checksums(folder: Path) -> None:
    """Record the SHA-256 of the files that a model is loaded from in ``checksums.json``."""
    names = (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    )
    sums = {name: sha256(folder / name) for name in names if (folder / name).is_file()}
    write_text(folder / "checksums.json", json.dumps(sums, indent=2) + "\n")


def verify_checksums(folder: Path) -> None:
    """Compare a model folder's files with its ``checksums.json``.

    Raises:
        FileNotFoundError: If the folder, the list or a listed file is missing.
        ValueError: If a file differs from its recorded checksum, or the list is damaged.
    """
    listing = folder / "checksums.json"
    if not listing.is_file():
        raise FileNotFoundError(
            f"no embedded model in {folder}: fetch the course again, "
            "or rebuild it with `python -m course_utils.models.pretrain` (about two hours)"
        )
    for name, expected in _read_checksums(listing).items():
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: fetch the course again")
        if sha256(path) != expected:
            raise ValueError(
                f"{path} does not match its checksum: the file is damaged or was changed; "
                "restore it with `git checkout -- data/base_model`"
            )


def _read_checksums(listing: Path) -> dict[str, str]:
    try:
        checksums = json.loads(listing.read_text())
    except ValueError:
        checksums = None
    # A list without the weights would let any weights pass.
    if not isinstance(checksums, dict) or "model.safetensors" not in checksums:
        raise ValueError(
            f"{listing} is damaged: it must be JSON that gives the SHA-256 of model.safetensors "
            "and its companions; restore it with `git checkout -- data/base_model`"
        )
    return checksums
