"""What a model consists of: blocks, norms, heads, linear layers; and whether it carries something.

Transformers' models agree in little more than their outlines, so every question of this kind is
answered here, once.
"""

from torch import nn

# Output layers, by their own or by their only name. They stay as they are where layers are adapted
# or quantised: they are small, or new, and every error in them is an error in the output.
HEADS = ("lm_head", "score", "classifier")


def carried_by(model: nn.Module) -> str | None:
    """Return where a model carries something that is no part of its base, or None.

    That is an adapted layer (LoRA and its family, bottlenecks), the first one's name, or a soft
    prompt. Modules say so themselves, by ``is_adapter``.
    """
    names = (n for n, module in model.named_modules() if getattr(module, "is_adapter", False))
    return next(names, None)


def soft_prompt_of(model: nn.Module) -> nn.Module | None:
    """Return the soft prompt that a model carries, if it carries one."""
    return getattr(model, "soft_prompt", None)


def transformer_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's blocks, first to last.

    Raises:
        ValueError: If the model has no list of blocks.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of transformer blocks")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Return every normalisation layer in forward order, the final one last."""
    return [module for module in model.modules() if "norm" in type(module).__name__.lower()]


def classifier_heads(model: nn.Module) -> list[str]:
    """Return the names of a classifier's heads; none in a language model."""
    return [name for name in HEADS[1:] if isinstance(getattr(model, name, None), nn.Module)]


def output_head(model: nn.Module) -> nn.Module:
    """Return the head, untied from the input embedding if the two share their weight.

    Raises:
        ValueError: If the model has neither a classification head nor an output layer.
    """
    for name in classifier_heads(model):
        return getattr(model, name)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if head is None:
        raise ValueError(f"{type(model).__name__} has no head to train")
    embedding = model.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return head


def is_transposed(layer: nn.Module) -> bool:
    """Say whether a layer stores its weight as (d_in, d_out), as GPT-2's ``Conv1D`` does."""
    return type(layer).__name__ == "Conv1D"


def context_of(model: nn.Module) -> int | None:
    """Return the tokens that a model can read, or None where its configuration gives no limit."""
    return getattr(model.config, "max_position_embeddings", None)
