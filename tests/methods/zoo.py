"""Tiny models of many architectures, for what is to hold of every one of them."""

from collections.abc import Callable

import torch
import transformers as hf
from torch import Tensor, nn

VOCABULARY = 61
_SPECIAL = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_DECODER = _SPECIAL | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = _DECODER | {"num_key_value_heads": 2}
_GPT2 = _SPECIAL | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_OPT = _DECODER | {"ffn_dim": 48, "word_embed_proj_dim": 24}
_BLOOM = _SPECIAL | {"hidden_size": 32, "n_layer": 2, "n_head": 4}
_DISTILBERT = {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1}


def _bare(kind: str, head: str, **options: object) -> Callable[[], nn.Module]:
    """Return a function that builds ``{kind}{head}`` of ``{kind}Config``."""
    config = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    return lambda: getattr(hf, f"{kind}{head}")(getattr(hf, config)(**options))


LANGUAGE_MODELS = {
    "llama": _bare("Llama", "ForCausalLM", **_GROUPED),
    "qwen2": _bare("Qwen2", "ForCausalLM", **_GROUPED),
    "qwen3": _bare("Qwen3", "ForCausalLM", **_GROUPED, head_dim=12, tie_word_embeddings=True),
    "mistral": _bare("Mistral", "ForCausalLM", **_GROUPED, sliding_window=8),
    "gemma3": _bare("Gemma3", "ForCausalLM", **_GROUPED, head_dim=8),
    "gpt2": _bare("GPT2", "LMHeadModel", **_GPT2),
    "opt": _bare("OPT", "ForCausalLM", **_OPT),
    "bloom": _bare("Bloom", "ForCausalLM", **_BLOOM),
    "falcon": _bare("Falcon", "ForCausalLM", **_DECODER),
    "gpt-neox": _bare("GPTNeoX", "ForCausalLM", **_DECODER),
    "bert": _bare("Bert", "LMHeadModel", **_DECODER, is_decoder=True),
    "roberta": _bare("Roberta", "ForCausalLM", **_DECODER, is_decoder=True),
}
CLASSIFIERS = {
    "llama, texts": _bare("Llama", "ForSequenceClassification", **_GROUPED, num_labels=3),
    "opt, texts": _bare("OPT", "ForSequenceClassification", **_OPT, num_labels=3),
    "bert, texts": _bare("Bert", "ForSequenceClassification", **_DECODER, num_labels=3),
    "bert, tokens": _bare("Bert", "ForTokenClassification", **_DECODER, num_labels=3),
    "roberta, texts": _bare("Roberta", "ForSequenceClassification", **_DECODER, num_labels=3),
    "pre-norm roberta, texts": _bare(
        "RobertaPreLayerNorm", "ForSequenceClassification", **_DECODER, num_labels=3
    ),
    "electra, texts": _bare(
        "Electra", "ForSequenceClassification", **_DECODER, embedding_size=16, num_labels=3
    ),
    "distilbert, texts": _bare("DistilBert", "ForSequenceClassification", **_DISTILBERT),
}
T5 = _bare("T5", "ForConditionalGeneration", **_T5, num_heads=4, decoder_start_token_id=0)
ZOO = LANGUAGE_MODELS | CLASSIFIERS


def build_any(name: str) -> nn.Module:
    """Return a model whose every parameter is random, biases and norms as well."""
    torch.manual_seed(0)
    model = ZOO[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def first_output(model: nn.Module, ids: Tensor, **inputs: object) -> Tensor:
    """Return the logits of a batch, without gradients."""
    with torch.no_grad():
        return model(input_ids=ids, **inputs).logits
