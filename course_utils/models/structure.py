"""What a model consists of: trunk, blocks, norms, heads; whether it carries or packs something.

Transformers' models agree in little more than their outlines, so every question of this kind is
answered here, once. Where the outline does not tell, the model is asked: it is tried on a few
tokens, in evaluation mode, and nothing about it changes.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Length of each of the two texts that a model is tried on.
_TEXT_TOKENS = 3


def carried_by(model: nn.Module) -> str | None:
    """Return where a model carries something that is no part of its base, or None.

    That is an adapted layer (LoRA and its family, bottlenecks), the first one's name, or a soft
    prompt, ours or PEFT's. Our modules say so themselves, by ``is_adapter``.
    """
    for name, module in model.named_modules():
        if _is_of_peft(module) or getattr(module, "is_adapter", False):
            return name or type(module).__name__
    return None


def soft_prompt_of(model: nn.Module) -> nn.Module | None:
    """Return the soft prompt that a model carries, if it carries one."""
    return getattr(model, "soft_prompt", None)


def packed_by(model: nn.Module) -> str | None:
    """Return what keeps weights of a model in few bits, or None: a layer, or a library's settings.

    Layers of ours say so themselves, by ``is_packed``.
    """
    for name, module in model.named_modules():
        is_linear = isinstance(module, nn.Linear)
        if getattr(module, "is_packed", False) or (is_linear and not is_plain(module)):
            return f"{name or 'the layer'} ({type(module).__name__})"
    settings = getattr(getattr(model, "config", None), "quantization_config", None)
    return type(model).__name__ if settings is not None else None


def is_plain(layer: nn.Module) -> bool:
    """Say whether a linear layer's weight is a matrix of floating-point numbers, as torch has it.

    Other libraries put codes in its place, under the same name.
    """
    weight = layer.weight
    is_matrix = isinstance(weight, Tensor) and weight.ndim == 2 and weight.is_floating_point()
    # A subclass of either tells its own story, whatever type and shape it shows.
    is_torchs = type(weight) in (nn.Parameter, Tensor) and type(weight.data) in (
        nn.Parameter,
        Tensor,
    )
    if not is_matrix or not is_torchs or weight.itemsize < 2:
        return False
    return not isinstance(layer, nn.Linear) or weight.shape == (
        layer.out_features,
        layer.in_features,
    )


def check_one_stack(model: nn.Module) -> None:
    """Check that a model is one stack of blocks.

    Raises:
        ValueError: If it has an encoder and a decoder.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError(
            f"{type(model).__name__} has an encoder and a decoder: choose a model of one stack, "
            "such as Llama, GPT-2 or BERT"
        )


def transformer_blocks(model: nn.Module) -> nn.ModuleList:
    """Return the model's blocks, first to last.

    Raises:
        ValueError: If the model has no list of blocks.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of transformer blocks")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def trunk_of(model: nn.Module) -> nn.Module:
    """Return what takes a text's embeddings through the blocks, and is called by all above it.

    That is the innermost module around the blocks that takes ``inputs_embeds``. It is not always
    ``model.base_model``: OPT's language model calls the decoder inside of that.

    Raises:
        ValueError: If there is none.
    """
    blocks = transformer_blocks(model)
    around = [
        module
        for module in model.base_model.modules()
        if any(inner is blocks for inner in module.modules())
        and "inputs_embeds" in inspect.signature(module.forward).parameters
    ]
    if not around:
        raise ValueError(f"{type(model).__name__} takes no inputs_embeds in the place of a text")
    return around[-1]


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Return every normalisation layer, per-head ones included, in the order of registration."""
    return [module for module in model.modules() if _is_norm(module)]


def final_norms(model: nn.Module) -> list[nn.Module]:
    """Return the trunk's norms behind the last block: one, or none in models like BERT.

    Registration says nothing of the order, so the trunk is run on one token.

    Raises:
        ValueError: If the model has no trunk.
    """
    trunk, seen = trunk_of(model), []
    handles = [
        norm.register_forward_hook(lambda module, *_: seen.append(module))
        for norm in norm_layers(trunk)
    ]
    handles.append(transformer_blocks(model)[-1].register_forward_hook(lambda *_: seen.clear()))
    try:
        with evaluating(trunk), torch.no_grad():
            trunk(input_ids=one_token(model))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def output_layer(model: nn.Module) -> nn.Module | None:
    """Return what maps to the vocabulary, if the model is a language model."""
    return model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None


def classifier_heads(model: nn.Module) -> list[str]:
    """Return the names of what a classifier has beside its trunk, all of it new.

    ``score``, ``classifier``, DistilBERT's ``pre_classifier``; none in a language model, whose
    layers behind the trunk are pretrained, as BERT's pooler within the trunk is.
    """
    trunk = getattr(model, "base_model", model)
    if trunk is model or _is_of_peft(model) or output_layer(model) is not None:
        return []
    return [
        name
        for name, child in model.named_children()
        if child is not trunk
        and not getattr(child, "is_adapter", False)
        and next(child.parameters(), None) is not None
    ]


def below_heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module of a base by its name, less its heads and what is inside of them.

    Heads stay as they are where layers are adapted or quantised: they are small, or new, and every
    error in them is an error in the output. A soft prompt is none of the base.
    """
    heads = tuple(classifier_heads(model))
    inside = tuple(f"{name}." for name in (*heads, "soft_prompt"))
    apart = output_layer(model), soft_prompt_of(model)
    for name, module in model.named_modules():
        is_apart = any(module is other for other in apart)
        if not (is_apart or name in heads or name.startswith(inside)):
            yield name, module


def output_heads(model: nn.Module) -> list[nn.Module]:
    """Return a classifier's heads, or the output layer, untied from the embedding if it shares it.

    Raises:
        ValueError: If the model has neither.
    """
    if heads := classifier_heads(model):
        return [model.get_submodule(name) for name in heads]
    head = output_layer(model)
    if head is None:
        raise ValueError(f"{type(model).__name__} has no head to train")
    if head.weight is model.get_input_embeddings().weight:
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    return [head]


def is_transposed(layer: nn.Module) -> bool:
    """Say whether a layer stores its weight as (d_in, d_out), as GPT-2's ``Conv1D`` does."""
    return type(layer).__name__ == "Conv1D"


def first_position(model: nn.Module) -> int:
    """Return the position of a text's first token: not 0 where lower ones stand for padding."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def context_of(model: nn.Module) -> int | None:
    """Return the tokens that a model can read, or None where its configuration gives no limit.

    RoBERTa's kind has fewer than it has positions: the first ones stand for padding.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    is_limit = isinstance(limit, int) and limit > 0  # XLNet says -1 where it means none
    return limit - first_position(model) if is_limit else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Hold a model in evaluation mode; afterwards every module has the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def one_token(model: nn.Module) -> Tensor:
    """Return a text of one token, (1, 1), to try a model on."""
    return torch.ones_like(model.get_input_embeddings().weight[:1, :1], dtype=torch.long)


def check_packing(model: nn.Module) -> None:
    """Check that texts packed into one row stay apart: each gets the logits that it gets alone.

    Some of transformers' models read the borders of the texts off the positions, others pay them no
    heed. So the model is tried on two texts in one row: is there a path from the first to the
    second's logits, and do these depend on what stands before?

    Args:
        model: Model as it is to be trained, with what it carries.

    Raises:
        ValueError: If a text would see its neighbours, or the model takes no positions.
    """
    name, remedy = type(model).__name__, "train with packing_length_tokens=None"
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    is_pair = getattr(model.config, "is_encoder_decoder", False)
    if is_pair or ("position_ids" not in parameters and not takes_any):
        raise ValueError(f"{name} takes no positions for packed texts: {remedy}")
    (alone, _), (packed, gradient) = _last_of(1, model), _last_of(2, model)
    if alone.ndim != 3:
        raise ValueError(f"{name} gives one answer a row and not one a token: {remedy}")
    tolerance = torch.finfo(alone.dtype).eps ** 0.5 * alone.abs().max()
    is_moved = not (packed - alone).abs().max() <= tolerance
    if is_moved or gradient[:, :_TEXT_TOKENS].any():
        raise ValueError(
            f"{name} does not keep packed texts apart, each would see its neighbours: {remedy}"
        )


def gradient_through(
    model: nn.Module, part: nn.Module, n_last: int | None = None, **inputs: object
) -> tuple[Tensor, Tensor | None]:
    """Return a model's logits, and the gradient of their squares by the output of one of its parts.

    A gradient tells a path from none whatever the precision: masked places give exact zeros.

    Args:
        model: Model to try, in evaluation mode.
        part: Module whose output is taken as given.
        n_last: Places whose logits count, the last ones; all by default.
        inputs: What the model is given.

    Returns:
        The gradient is None where there is no path at all.
    """
    given: list[Tensor] = []

    def take(_: nn.Module, __: tuple, output: Tensor) -> Tensor:
        given.append(output.detach().requires_grad_())
        return given[-1]

    handle = part.register_forward_hook(take)
    try:
        with evaluating(model), torch.enable_grad():
            logits = model(**inputs)[0]
            logits = logits if n_last is None else logits[:, -n_last:]
    finally:
        handle.remove()
    if not given or not logits.requires_grad:
        return logits.detach(), None
    squares = logits.float().square().sum()
    return logits.detach(), torch.autograd.grad(squares, given[0], allow_unused=True)[0]


def _last_of(n_texts: int, model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the logits of the last of some texts in a row, and their gradient by the embeddings.

    Returns:
        Of shape (1, 3, vocabulary), the last text the same whatever their number, and (1, seq, d).
    """
    embedding, n = model.get_input_embeddings(), _TEXT_TOKENS
    device, size = embedding.weight.device, len(embedding.weight)
    tokens = torch.arange(1, 2 * n + 1, device=device)[None, -n_texts * n :] % size
    positions = torch.arange(n_texts * n, device=device)[None] % n
    texts = {"input_ids": tokens, "position_ids": positions, "use_cache": False}
    return gradient_through(model, embedding, n, **texts)


def _is_of_peft(module: nn.Module) -> bool:
    return type(module).__module__.partition(".")[0] == "peft"


def _is_norm(module: nn.Module) -> bool:
    """Say whether a module is a norm, and no block or model that has norms in its name."""
    is_vector = all(parameter.ndim <= 1 for parameter in module.parameters())
    return is_vector and "norm" in type(module).__name__.lower()
