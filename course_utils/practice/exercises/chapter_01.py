"""Checks of chapter 01: freezing, the optimizer's parameters, the pooled token, the count."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.practice.exercises.check import Check, Wrong


def _tiny_classifier() -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_labels=3,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForSequenceClassification(config)


def _open_blocks(model: nn.Module) -> list[int]:
    return [
        i
        for i, block in enumerate(model.model.layers)
        if all(p.requires_grad for p in block.parameters())
    ]


def _verify_freeze(freeze: Callable[[nn.Module, int], Any]) -> None:
    for k in (0, 1, 3):
        model = _tiny_classifier()
        freeze(model, k)
        expected = list(range(4 - k, 4))
        if k == 0 and _open_blocks(model) == [0, 1, 2, 3]:
            if model.model.embed_tokens.weight.requires_grad:
                raise Wrong("nothing is frozen: with k=0 only the score layer should train")
            raise Wrong("with k=0 every block trains: layers[-0:] is the whole list")
        if _open_blocks(model) != expected:
            raise Wrong(
                f"with k={k} blocks {expected} should train, yours are {_open_blocks(model)}"
            )
        if not model.score.weight.requires_grad:
            raise Wrong("the score layer is frozen, but it is new and knows nothing: train it")
        if model.model.embed_tokens.weight.requires_grad:
            raise Wrong("the embedding still trains: freeze everything first, then open the top")
        _compare_map(model, k)


def _compare_map(model: nn.Module, k: int) -> None:
    right = _tiny_classifier()
    _freeze(right, k)
    expected = {name: p.requires_grad for name, p in right.named_parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not expected[name]:
            raise Wrong(
                f"with k={k} `{name}` still trains: only the last k blocks and the score layer do"
            )


def _freeze(model: nn.Module, k: int) -> None:
    model.requires_grad_(False)
    blocks = model.model.layers
    for block in blocks[len(blocks) - k :]:
        block.requires_grad_(True)
    model.score.requires_grad_(True)


def _freeze_slices(model: nn.Module, k: int) -> None:
    model.requires_grad_(False)
    for block in model.model.layers[-k:] if k else model.model.layers:
        block.requires_grad_(True)
    model.score.requires_grad_(True)


def _freeze_head_too(model: nn.Module, k: int) -> None:
    _freeze(model, k)
    model.score.requires_grad_(False)


def _freeze_blocks_only(model: nn.Module, k: int) -> None:
    for block in model.model.layers[: 4 - k]:
        block.requires_grad_(False)


def _freeze_all_but_norm(model: nn.Module, k: int) -> None:
    _freeze(model, k)
    model.model.norm.requires_grad_(True)


def _freeze_half_blocks(model: nn.Module, k: int) -> None:
    """Leave everything open but one matrix of each lower block."""
    model.model.embed_tokens.requires_grad_(False)
    for block in model.model.layers[: 4 - k]:
        block.mlp.up_proj.requires_grad_(False)


FREEZE = Check(
    name="01-freeze",
    verify=_verify_freeze,
    solution=_freeze,
    rejects=(
        (_freeze_slices, "whole list"),
        (_freeze_head_too, "score layer is frozen"),
        (_freeze_blocks_only, "embedding still trains"),
        (_freeze_all_but_norm, "`model.norm.weight` still trains"),
        (_freeze_half_blocks, "q_proj.weight` still trains"),
        (lambda model, k: model.requires_grad_(True), "nothing is frozen"),
    ),
    insight="Freeze everything, then open what should learn: the order that cannot forget a part.",
)


def _verify_optimizer(make: Callable[[nn.Module], torch.optim.Optimizer]) -> None:
    model = _tiny_classifier()
    _freeze(model, 1)
    optimizer = make(model)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise Wrong(f"return an optimizer, not {type(optimizer).__name__}")
    if not isinstance(optimizer, torch.optim.AdamW):
        raise Wrong(
            f"an AdamW is asked, not {type(optimizer).__name__}: only AdamW keeps its weight decay "
            "apart from the gradient's moments"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in held:
            raise Wrong(f"{name} should train, but the optimizer does not hold it")
        if not parameter.requires_grad and id(parameter) in held:
            raise Wrong(
                f"{name} is frozen, but the optimizer holds it: harmless until a gradient is left "
                "over, and then it moves"
            )


def _make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_trained(model), lr=1e-3)


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


OPTIMIZER = Check(
    name="01-optimizer",
    verify=_verify_optimizer,
    solution=_make_optimizer,
    rejects=(
        (lambda m: torch.optim.AdamW(m.parameters(), lr=1e-3), "is frozen, but the optimizer"),
        (lambda m: torch.optim.AdamW(m.score.parameters(), lr=1e-3), "does not hold it"),
        (lambda m: list(m.parameters()), "return an optimizer"),
        (lambda m: torch.optim.SGD(_trained(m), lr=1e-3), "not SGD"),
        (lambda m: torch.optim.Adam(_trained(m), lr=1e-3), "not Adam:"),
    ),
    insight="Built last and from what requires a gradient, the optimizer cannot disagree with it.",
)


def _verify_pooling(last_index: Callable[[Tensor], Tensor]) -> None:
    right = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    left = right.flip(1)
    for mask, side, expected in ((right, "right", [2, 3, 0]), (left, "left", [3, 3, 3])):
        found = torch.as_tensor(last_index(mask)).tolist()
        if found == expected:
            continue
        if found == [mask.shape[1] - 1] * len(mask):
            raise Wrong(f"with padding on the {side} that is the last column, padding and all")
        if found == (mask.sum(1) - 1).tolist():
            raise Wrong("the number of tokens minus one is right only with padding on the right")
        raise Wrong(f"with padding on the {side} the last tokens are at {expected}, not {found}")


def _last_index(mask: Tensor) -> Tensor:
    positions = torch.arange(mask.shape[1])
    return (mask * positions).argmax(1)


POOLING = Check(
    name="01-pooling",
    verify=_verify_pooling,
    solution=_last_index,
    rejects=(
        (lambda mask: torch.full((len(mask),), mask.shape[1] - 1), "last column"),
        (lambda mask: mask.sum(1) - 1, "only with padding on the right"),
        (lambda mask: torch.zeros(len(mask), dtype=torch.long), "the last tokens are at"),
    ),
    insight="Chapter 08 needs the same line for reward models.",
)


def _verify_count(count: Callable[[int], int]) -> None:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    config = LlamaConfig(
        vocab_size=3072,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_labels=3,
    )
    with torch.device("meta"):
        model = LlamaForSequenceClassification(config)
    for k in (0, 1, 6):
        blocks = list(model.model.layers)[6 - k :]
        expected = sum(p.numel() for block in blocks for p in block.parameters())
        expected += model.score.weight.numel() + (256 if k else 0)
        value = count(k)
        if value == expected:
            continue
        if value == expected - (256 if k else 0):
            raise Wrong("the final norm, 256 numbers, trains with the last blocks")
        if value == expected - 768:
            raise Wrong("the score layer, 3 x 256 numbers, trains too")
        raise Wrong(f"for k={k} it is not {value:,}; count one block again")


def _count(k: int) -> int:
    block = 4 * 256 * 256 + 3 * 256 * 512 + 2 * 256
    return k * block + (256 if k else 0) + 3 * 256


COUNT = Check(
    name="01-count",
    verify=_verify_count,
    solution=_count,
    rejects=(
        (lambda k: _count(k) - (256 if k else 0), "final norm"),
        (lambda k: _count(k) - 768, "score layer"),
        (lambda k: k * 4 * 256 * 256 + 768, "count one block again"),
    ),
    insight="Two of six blocks are already 28 % of the model.",
)
