"""Mask, positions and labels of a batch that virtual tokens stand before."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_utils.practice.exercises.chapter_06.answers import expect_parts
from course_utils.practice.exercises.check import Check, Wrong

Parts = tuple[Tensor, Tensor, Tensor]
_RIGHT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
# Padding on the left tells apart what padding on the right lets pass.
_CASES = (("on the right", _RIGHT, 2), ("on the left", _RIGHT.flip(1), 3))
_NAMES = ("the mask", "the position ids", "the labels")


def _labels_of(mask: Tensor) -> Tensor:
    ids = torch.arange(11, 11 + mask.numel()).reshape(mask.shape)
    return torch.where(mask == 1, ids, -100)


def _verify_batch(prepend: Callable[[Tensor, Tensor, int], Sequence[Tensor]]) -> None:
    for side, mask, n in _CASES:
        labels = _labels_of(mask)
        found = prepend(mask.clone(), labels.clone(), n)
        found = expect_parts(found, 3, "attention_mask, position_ids and labels")
        masks, positions, targets = (
            _expect_shape(part, mask, n, name) for part, name in zip(found, _NAMES, strict=True)
        )
        right = _prepend(mask, labels, n)
        _expect(f"with padding {side}, the mask", masks, right[0], _mask_slips(mask, n))
        # At the padding nobody reads a position.
        where = right[0] == 1
        _expect(
            f"with padding {side}, the positions",
            positions * where,
            right[1] * where,
            [(slip * where, sentence) for slip, sentence in _position_slips(mask, n)],
        )
        _expect(f"with padding {side}, the labels", targets, right[2], _label_slips(labels, n))


def _expect_shape(part: object, mask: Tensor, n: int, name: str) -> Tensor:
    part, (batch, seq) = torch.as_tensor(part), mask.shape
    if part.shape == (batch, seq):
        raise Wrong(
            f"{name}: these are the {seq} places of the text; with {n} virtual tokens before it "
            f"there are {n + seq}"
        )
    if part.shape != (batch, n + seq):
        raise Wrong(f"{name}: the shape is {tuple(part.shape)}, not {(batch, n + seq)}")
    return part.long()


def _expect(
    what: str, found: Tensor, expected: Tensor, slips: Sequence[tuple[Tensor, str]]
) -> None:
    if torch.equal(found, expected):
        return
    for wrong, sentence in slips:
        if torch.equal(found, wrong):
            raise Wrong(f"{what}: {sentence}")
    row, place = (found != expected).nonzero()[0].tolist()
    raise Wrong(
        f"{what} at place {place} of row {row}, counted from 0, is {found[row, place]}: it should "
        f"be {expected[row, place]}"
    )


def _between(mask: Tensor, n: int) -> Tensor:
    """Return the mask with the virtual places between the padding on the left and the text."""
    rows = [torch.cat([row[row == 0], torch.ones(n).long(), row[row == 1]]) for row in mask]
    return torch.stack(rows)


def _mask_slips(mask: Tensor, n: int) -> list[tuple[Tensor, str]]:
    ones, zeros = mask.new_ones(len(mask), n), mask.new_zeros(len(mask), n)
    slips = [
        (
            torch.cat([zeros, mask], 1),
            "0 hides the virtual tokens from the text, and they would "
            "change nothing: they are to be seen, so 1",
        ),
        (torch.cat([ones, torch.ones_like(mask)], 1), "the padding is to stay hidden"),
    ]
    if mask[:, 0].all():
        slips.append(
            (
                torch.cat([mask, ones], 1),
                "the virtual places stand behind the text; they come first",
            )
        )
    else:
        slips.append(
            (
                _between(mask, n),
                "the virtual places are behind the padding, between it "
                "and the text; they come first in every row",
            )
        )
    return slips


def _position_slips(mask: Tensor, n: int) -> list[tuple[Tensor, str]]:
    batch, seq = mask.shape
    counted = (mask.cumsum(1) - 1).clamp(min=0)
    virtual = torch.arange(n).expand(batch, -1)
    slips = [
        (
            torch.cat([virtual, counted], 1),
            "the text begins at 0 again, beside the first virtual "
            f"token; {n} tokens stand before it now, so it begins at {n}",
        ),
        (
            torch.cat([virtual, torch.arange(seq).expand(batch, -1)], 1),
            "the text is not shifted by the virtual tokens, and padding is counted",
        ),
        (torch.cat([virtual, counted + n], 1) + 1, "they begin at 1: the first is 0"),
        (
            torch.cat([0 * virtual, counted + n], 1),
            "every virtual token is at 0; they follow one another",
        ),
        (
            torch.cat([0 * virtual, counted], 1),
            "the virtual tokens have no places of their own: "
            f"they take 0 to {n - 1}, and the text begins at {n}",
        ),
        (
            torch.cat([virtual - n, counted], 1),
            f"a position is not negative: the virtual tokens take 0 to {n - 1}",
        ),
    ]
    if not mask[:, 0].all():
        everything = torch.arange(n + seq).expand(batch, -1)
        slips.append(
            (
                everything,
                "padding is counted; it takes no position, and the first real "
                f"token of each row is at {n}",
            )
        )
    return slips


def _label_slips(labels: Tensor, n: int) -> list[tuple[Tensor, str]]:
    extra, swapped = labels.new_full((len(labels), n), -100), "the -100 stand behind the labels; "
    slips = [
        (
            torch.cat([labels, extra], 1),
            swapped + "the virtual tokens come first, and every target has moved with its token",
        )
    ]
    for number in (0, 1, -1):
        slips.append(
            (
                torch.cat([extra * 0 + number, labels], 1),
                f"{number} is no sign for the loss to look away; -100 is",
            )
        )
    return slips


def _prepend(attention_mask: Tensor, labels: Tensor, n: int) -> Parts:
    virtual = attention_mask.new_ones(len(attention_mask), n)
    mask = torch.cat([virtual, attention_mask], dim=1)
    position_ids = (mask.cumsum(dim=1) - 1) * mask
    return mask, position_ids, torch.cat([-100 * virtual, labels], dim=1)


def _with_mask(wrong: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Parts]:
    """Return an answer with a wrong mask, made of the mask and the virtual ones."""
    return lambda mask, labels, n: (
        wrong(mask, mask.new_ones(len(mask), n)),
        *_prepend(mask, labels, n)[1:],
    )


def _with_positions(wrong: Callable[[Tensor, int], Tensor]) -> Callable[..., Parts]:
    """Return an answer with wrong positions, made of the long mask and n."""

    def answer(mask: Tensor, labels: Tensor, n: int) -> Parts:
        mask, _, labels = _prepend(mask, labels, n)
        return mask, wrong(mask, n), labels

    return answer


def _with_labels(wrong: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Parts]:
    """Return an answer with wrong labels, made of the labels and -100 for the virtual tokens."""
    return lambda mask, labels, n: (
        *_prepend(mask, labels, n)[:2],
        wrong(labels, labels.new_full((len(labels), n), -100)),
    )


def _virtual(mask: Tensor, n: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + n).expand(len(mask), -1)


BATCH = Check(
    name="06-batch",
    verify=_verify_batch,
    solution=_prepend,
    rejects=(
        (lambda mask, labels, n: (*_prepend(mask, labels, n)[:2], labels), "the labels: these are"),
        (lambda mask, labels, n: (mask, *_prepend(mask, labels, n)[1:]), "the mask: these are"),
        (lambda mask, labels, n: _prepend(mask, labels, n + 1), "the mask: the shape"),
        (lambda mask, labels, n: _prepend(mask, labels, n)[:2], "three things"),
        (_with_mask(lambda mask, ones: torch.cat([0 * ones, mask], 1)), "0 hides"),
        (_with_mask(lambda mask, ones: torch.cat([ones, 0 * mask + 1], 1)), "padding is to stay"),
        (_with_mask(lambda mask, ones: torch.cat([mask, ones], 1)), "behind the text"),
        (
            _with_mask(
                lambda mask, ones: (
                    torch.cat([ones, mask], 1) if mask[:, 0].all() else torch.cat([mask, ones], 1)
                )
            ),
            "between it and the text",
        ),
        (
            _with_positions(lambda mask, n: torch.arange(mask.shape[1]).expand_as(mask)),
            "with padding on the left, the positions: padding is counted",
        ),
        (
            _with_positions(
                lambda mask, n: torch.cat([_virtual(mask, n), mask[:, n:].cumsum(1) - 1], 1)
            ),
            "begins at 0 again",
        ),
        (_with_positions(lambda mask, n: mask.cumsum(1)), "begin at 1"),
        (
            _with_positions(
                lambda mask, n: torch.cat([_virtual(mask, n), _virtual(mask, mask.shape[1] - n)], 1)
            ),
            "at 0 again",
        ),
        (
            _with_positions(
                lambda mask, n: torch.cat([0 * _virtual(mask, n), mask.cumsum(1)[:, n:] - 1], 1)
            ),
            "every virtual token",
        ),
        (_with_positions(lambda mask, n: (mask.cumsum(1) - n - 1).clamp(min=0)), "of their own"),
        (_with_positions(lambda mask, n: mask.cumsum(1) - n - 1), "not negative"),
        (_with_labels(lambda labels, extra: torch.cat([labels, extra], 1)), "stand behind"),
        (_with_labels(lambda labels, extra: torch.cat([0 * extra, labels], 1)), "0 is no sign"),
        (
            _with_labels(lambda labels, extra: torch.cat([extra, labels.clamp(min=0)], 1)),
            "is 0: it should be -100",
        ),
    ),
    insight="Virtual tokens, then padding, then text: the mask says what is seen, the positions "
    "where the text stands, the labels what is learned.",
)
