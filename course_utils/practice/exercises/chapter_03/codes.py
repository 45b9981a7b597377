"""Four-bit codes: a block's nearest levels, and two codes packed into a byte."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_close
from course_utils.quantization import integer_codebook, nf4_codebook


def _nearest(values: Tensor, levels: Tensor) -> Tensor:
    return (values[:, None] - levels).abs().argmin(dim=1)


def _blocks() -> list[Tensor]:
    """Three blocks of small weights; the largest is negative, positive, negative."""
    generator = torch.Generator().manual_seed(0)
    blocks = []
    for outlier in (-0.11, 0.13, -0.19):
        block = 0.04 * torch.randn(32, generator=generator).clamp(-2, 2)
        block[5] = outlier
        blocks.append(block)
    return blocks


def _verify_quantize(quantize: Callable[[Tensor, Tensor], Any]) -> None:
    codebooks = (nf4_codebook(), nf4_codebook(), integer_codebook(3))
    for block, levels in zip(_blocks(), codebooks, strict=True):
        answer = quantize(block.clone(), levels.clone())
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise Wrong("return two things: the codes and the scale")
        first, second = map(torch.as_tensor, answer)
        if first.numel() == 1 and second.shape == block.shape:
            raise Wrong("the two are swapped: the codes first, then the scale")
        codes, scale = torch.as_tensor(answer[0]), answer[1]
        expect_close(
            scale,
            block.abs().max().item(),
            what="the scale",
            slips=[
                (
                    1,
                    "the scale is 1: weights of a few hundredths all fall on the levels around "
                    "zero; divide by the largest magnitude first",
                ),
                (
                    block.max().item(),
                    "the largest weight is not the largest magnitude: a block "
                    "whose outlier is negative leaves -1..1 (the sign is lost)",
                ),
                (
                    block.abs().mean().item(),
                    "that is the mean magnitude: whatever is larger leaves -1..1 and is cut off",
                ),
                *(
                    (
                        block.std(correction=c).item(),
                        "that is the standard deviation: whatever is "
                        "larger leaves -1..1 and is cut off",
                    )
                    for c in (0, 1)
                ),
            ],
        )
        _verify_codes(codes, block, levels)


def _verify_codes(codes: Tensor, block: Tensor, levels: Tensor) -> None:
    if codes.shape != block.shape:
        raise Wrong(f"one code for each weight: {tuple(block.shape)}, not {tuple(codes.shape)}")
    relative = block / block.abs().max()
    if codes.is_floating_point() or codes.dtype == torch.bool:
        raise Wrong("a code is the position of a level, a whole number, not the level itself")
    if codes.min() < 0 or codes.max() >= len(levels):
        raise Wrong(f"codes must lie in 0..{len(levels) - 1}; yours reach {codes.max()}")
    found, expected = levels[codes.long()], levels[_nearest(relative, levels)]
    if torch.equal(found, expected):
        return
    if torch.equal(found, levels[_nearest(block, levels)]):
        raise Wrong("the scale is right, but the block was not divided by it before the look-up")
    if (found <= relative + 1e-6).all():
        raise Wrong("that is the level below each weight, not the nearest: up to twice the error")
    if (found >= relative - 1e-6).all():
        raise Wrong("that is the level above each weight, not the nearest: up to twice the error")
    first = (found != expected).nonzero()[0].item()
    raise Wrong(
        f"the weight {block[first]:.4f} is {relative[first]:.4f} of the largest; the nearest level "
        f"is {expected[first]:.4f}, yours is {found[first]:.4f}"
    )


def _quantize(block: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    scale = block.abs().max()
    distances = (block[:, None] / scale - levels).abs()
    return distances.argmin(dim=1), scale


def _quantize_by(scale_of: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Any]:
    return lambda block, levels: (_nearest(block / scale_of(block), levels), scale_of(block))


def _quantize_down(block: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    scale = block.abs().max()
    return torch.searchsorted(levels, block / scale, right=True) - 1, scale


QUANTIZE = Check(
    name="03-quantize",
    verify=_verify_quantize,
    solution=_quantize,
    rejects=(
        (lambda block, levels: (_nearest(block, levels), 1.0), "divide by the largest magnitude"),
        (_quantize_by(lambda block: block.max()), "the sign is lost"),
        (_quantize_by(lambda block: block.abs().mean()), "mean magnitude"),
        (_quantize_by(lambda block: block.std()), "standard deviation"),
        (lambda block, levels: (_nearest(block, levels), block.abs().max()), "before the look-up"),
        (_quantize_down, "the level below"),
        (
            lambda block, levels: (levels[_quantize(block, levels)[0]], block.abs().max()),
            "not the level itself",
        ),
        (lambda block, levels: _quantize(block, levels)[0], "two things"),
        (lambda block, levels: _quantize(block, levels)[::-1], "the two are swapped"),
        (
            lambda block, levels: (_quantize(block, nf4_codebook())[0], block.abs().max()),
            "must lie in",
        ),
    ),
    insight="The codes are all that 4 bits hold; the scale is what every block pays on top.",
)


def _verify_pack(pack: Callable[[Tensor], Tensor]) -> None:
    codes = torch.tensor([5, 12, 0, 15, 15, 1, 7, 8])
    high, low = codes[0::2], codes[1::2]
    for dtype in (torch.int64, torch.uint8):
        packed = pack(codes.to(dtype))
        if not isinstance(packed, Tensor):
            raise Wrong(f"return a tensor, not {type(packed).__name__}")
        if packed.shape != high.shape:
            raise Wrong(
                f"eight codes need four bytes, yours are of shape {tuple(packed.shape)}: two codes "
                "share a byte"
            )
        if packed.dtype != torch.uint8:
            n_bytes = packed.element_size()
            raise Wrong(f"a byte is torch.uint8; {packed.dtype} takes {n_bytes} bytes a number")
        found = packed.long()
        if torch.equal(found, 16 * high + low):
            continue
        if torch.equal(found, 16 * low + high):
            raise Wrong("the halves are swapped: the first code belongs into the high half")
        if torch.equal(found, high + low) or torch.equal(found, high | low):
            raise Wrong("both codes lie in the low half: shift the first one by four bits")
        if torch.equal(found, 16 * codes[:4] + codes[4:]):
            raise Wrong(
                "that pairs each code with one half the tensor away, not with its neighbour"
            )
        raise Wrong(f"5 and 12 share the byte 5 * 16 + 12 = 92; yours is {found[0]}")


def _pack(codes: Tensor) -> Tensor:
    codes = codes.to(torch.uint8)
    return (codes[0::2] << 4) | codes[1::2]


PACK = Check(
    name="03-pack",
    verify=_verify_pack,
    solution=_pack,
    rejects=(
        (lambda codes: _pack(codes.view(-1, 2).flip(1).flatten()), "halves are swapped"),
        (lambda codes: (codes[0::2] | codes[1::2]).to(torch.uint8), "shift the first one"),
        (lambda codes: codes[0::2].long() * 16 + codes[1::2], "takes 8 bytes"),
        (lambda codes: codes.to(torch.uint8), "two codes share a byte"),
        (lambda codes: _pack(codes.view(2, -1).T.flatten()), "not with its neighbour"),
        (lambda codes: (codes[0::2] * 10 + codes[1::2]).to(torch.uint8), "= 92"),
    ),
    insight="A PyTorch tensor has no 4-bit numbers: the byte is the smallest thing it can hold.",
)
