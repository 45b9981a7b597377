"""Small models with random weights, for tests that need a model and not what it knows."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_model(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    hidden_size: int = 64,
    pad_token: str | None = None,
    chat_template: str = CHAT_TEMPLATE,
) -> Path:
    """Write a two-layer model and a byte-level tokenizer as ``save_pretrained`` lays them out.

    Args:
        folder: Where to; created.
        architecture: A key of ``ARCHITECTURES``.
        seed: Seed of the weights.
        hidden_size: d_model, a multiple of 64.
        pad_token: The tokenizer's padding token; none by default, as in many published models.
        chat_template: The tokenizer's template.

    Returns:
        ``folder``.
    """
    tokenizer = _write_tokenizer(folder, pad_token, chat_template)
    config_class, model_class = ARCHITECTURES[architecture]
    config = config_class(
        vocab_size=320,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=hidden_size // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class(config).save_pretrained(folder)
    return folder


def change_config(folder: Path, **changes: object) -> None:
    """Overwrite entries of a model folder's ``config.json``."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_hostile_pickle(path: Path, *, touches: Path) -> None:
    """Write ``pytorch_model.bin`` that makes a file when it is unpickled."""
    torch.save({"weight": _Touch(touches)}, path)


def add_own_code(folder: Path, *, model_type: str, touches: Path) -> None:
    """Make a model folder claim that ``gizmo.py``, which makes a file, must be run to load it."""
    (folder / "gizmo.py").write_text(f"from pathlib import Path\nPath({str(touches)!r}).touch()\n")
    auto_map = {"AutoConfig": "gizmo.Config", "AutoModelForCausalLM": "gizmo.Model"}
    change_config(folder, model_type=model_type, auto_map=auto_map)
    settings = folder / "tokenizer_config.json"
    tokenizer = {"auto_map": {"AutoTokenizer": ["gizmo.Tokenizer", None]}}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | tokenizer))


class _Touch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self._path,)


def _write_tokenizer(
    folder: Path, pad_token: str | None, chat_template: str
) -> PreTrainedTokenizerFast:
    """Write a tokenizer whose tokens are the 256 bytes and the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: k for k, token in enumerate(alphabet)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([*SPECIAL_TOKENS, *([pad_token] if pad_token else [])])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=SPECIAL_TOKENS[0],
        pad_token=pad_token,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
