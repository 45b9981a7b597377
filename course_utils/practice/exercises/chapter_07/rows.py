"""A row of tokens: its labels, and the positions and borders of a packed one."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import Slips, expect_equal, reject_slips

# Begin, user, question, end, assistant; then the answer and its end, with no token twice but 2.
_CHAT = ([1, 5, 40, 41, 2, 6, 50, 51, 52, 2], 6)
_PLAIN = ([1, 30, 31, 32, 2], 1)
_NO_ANSWER_LEFT = ([1, 5, 40, 2, 6], 5)

Packed = tuple[Any, Any]


def _as_tensor(value: object, what: str) -> Tensor:
    """Return a learner's list, array or tensor of numbers as a tensor on the processor."""
    try:
        return torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(
            f"{what} must be a list or a tensor of numbers, not {type(value).__name__}"
        ) from error


def _verify_mask(mask_the_prompt: Callable[[list[int], int], Sequence[int]]) -> None:
    for original, n in (_CHAT, _PLAIN, _NO_ANSWER_LEFT):
        ids = list(original)
        labels = _as_tensor(mask_the_prompt(ids, n), "the labels").tolist()
        if ids != original:
            raise Wrong("it wrote into ids, which the model has to read: make a new list of labels")
        expected = [-100] * n + ids[n:]
        if labels == expected:
            continue
        if not isinstance(labels, list) or len(labels) != len(ids):
            raise Wrong(
                f"there must be one label for each of the {len(ids)} tokens: the prompt is read, "
                "only its labels are set to -100"
            )
        expect_equal(
            labels, expected, what=f"for ids {ids} and a prompt of {n}", slips=_mask_slips(ids, n)
        )


_SHIFTED = (
    "the labels are shifted by one; each stands at its own token's place, and the loss shifts them"
)


def _mask_slips(ids: list[int], n: int) -> Slips:
    expected = [-100] * n + ids[n:]
    return (
        (ids, "nothing is masked: the model is trained to write the prompt as well"),
        (
            ids[:n] + [-100] * (len(ids) - n),
            "the answer is masked and the prompt is learned: it is the other way round",
        ),
        (
            [*expected[:-1], -100],
            "the end token is masked, too; it belongs to the answer, and "
            "a model that never learns it never stops",
        ),
        (
            [-100] * (n + 1) + ids[n + 1 :],
            "the answer's first token is masked: it is written, "
            "like the others, and the prompt's last token is what predicts it",
        ),
        (
            [-100] * (n - 1) + ids[n - 1 :],
            "the prompt's last token is a target: there are n "
            "tokens in the prompt, at positions 0 to n - 1",
        ),
        *((shifted, _SHIFTED) for shifted in _shifts(ids, n)),
        *(
            (
                _filled(expected, value),
                f"{value} stands where nothing is to be learned; what "
                "cross_entropy leaves out is -100 and nothing else",
            )
            for value in (0, -1, 2, 100)
        ),
        (
            [int(label != -100) for label in expected],
            "that is the mask, of 0 and 1; labels are token ids, and -100 where the mask is 0",
        ),
    )


def _shifts(ids: list[int], n: int) -> tuple[list[int], ...]:
    return (
        [-100] * (n - 1) + ids[n:] + [-100],
        [-100] * n + ids[n + 1 :] + [-100],
        [-100] * (n + 1) + ids[n:-1],
        [-100] * n + ids[n - 1 : -1],
    )


def _filled(labels: list[int], value: int) -> list[int]:
    return [value if label == -100 else label for label in labels]


def _masked(ids: list[int], n_prompt_tokens: int) -> list[int]:
    return [-100] * n_prompt_tokens + ids[n_prompt_tokens:]


def _masked_in_place(ids: list[int], n: int) -> list[int]:
    ids[:n] = [-100] * n
    return ids


MASK = Check(
    name="07-mask",
    verify=_verify_mask,
    solution=_masked,
    rejects=(
        (lambda ids, n: ids[:n] + [-100] * (len(ids) - n), "other way round"),
        (lambda ids, n: [*_masked(ids, n)[:-1], -100], "never stops"),
        (lambda ids, n: [-100 if token == 2 else token for token in _masked(ids, n)], "never stop"),
        (lambda ids, n: _masked(ids, n + 1), "first token is masked"),
        (lambda ids, n: _masked(ids, n - 1), "last token is a target"),
        (lambda ids, n: [*_masked(ids, n)[1:], -100], "shifted by one"),
        (lambda ids, n: [-100, *_masked(ids, n)[:-1]], "shifted by one"),
        (lambda ids, n: [0] * n + ids[n:], "0 stands where"),
        (lambda ids, n: [-1] * n + ids[n:], "-1 stands where"),
        (lambda ids, n: list(ids), "nothing is masked"),
        (lambda ids, n: ids[n:], "one label for each"),
        (lambda ids, n: [int(i >= n) for i in range(len(ids))], "that is the mask"),
        # The last n tokens of a list are all of it where n is 0.
        (lambda ids, n: [-100] * n + ids[-(len(ids) - n) :], "one label for each"),
        (_masked_in_place, "wrote into ids"),
        (lambda ids, n: [7] * len(ids), "not right"),
        (lambda ids, n: "masked", "list or a tensor"),
    ),
    insight="The prompt is still read, by every token of the answer; only no one is asked to "
    "write it.",
)


def _verify_positions(pack: Callable[[list[int]], Packed]) -> None:
    # Of two examples of one length first: nothing but a border tells them apart.
    for lengths in ([3, 3], [2, 4, 1, 3], [1, 1], [5]):
        result = pack(list(lengths))
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise Wrong("return two things: (positions, mask)")
        total, owners = sum(lengths), _owners(lengths)
        positions = _as_tensor(result[0], "the positions").tolist()
        expected = [place for length in lengths for place in range(length)]
        running = "the positions run on: each example begins again at 0, as if it were alone"
        slips = (
            (list(range(total)), running),
            (list(range(1, total + 1)), running),
            ([place + 1 for place in expected], "off by one: the first position is 0"),
            (owners.tolist(), "those are the numbers of the examples, not positions in them"),
            ([p for n in lengths for p in reversed(range(n))], "the positions run backwards"),
        )
        what = f"for examples of {lengths} tokens, your list of positions"
        expect_equal(positions, expected, what=what, slips=slips)
        mask = _as_tensor(result[1], "the mask")
        _verify_borders(mask.float(), owners)
        if mask.is_floating_point():
            raise Wrong(
                "the places are right, but the numbers are floats: attention adds a float mask to "
                "the scores; give True and False (`.bool()`)"
            )


def _owners(lengths: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def _verify_borders(mask: Tensor, owners: Tensor) -> None:
    together = owners[:, None] == owners
    causal = torch.ones_like(together).tril()
    expected = together & causal
    if mask.shape == expected.shape and torch.equal(mask, expected.float()):
        return
    if mask.shape != expected.shape:
        n = len(owners)
        raise Wrong(f"the mask has shape {tuple(mask.shape)}, not ({n}, {n}): a row for each token")
    if (mask < -1e3).any():
        raise Wrong("that is the mask as it is added to the scores; give True where a token looks")
    # In the order in which they are told apart: with one example in the row some are the same.
    reject_slips(
        mask,
        [
            (causal.float(), "causal, but without borders: an example sees those packed before it"),
            (
                together.float(),
                "the borders are right, but a token sees those after it in its "
                "example: the mask has to be causal as well",
            ),
            ((~expected).float(), "it is True where a token must not look: the other way round"),
            (
                (together & causal.T).float(),
                "it is turned: row i says what token i may see, itself and those before it",
            ),
            (
                (expected & ~torch.eye(len(owners), dtype=torch.bool)).float(),
                "the diagonal is missing: a token sees itself",
            ),
            ((~together & causal).float(), "each token sees the other examples and not its own"),
        ],
    )
    i, j = (mask != expected.float()).nonzero()[0].tolist()
    may = "may" if expected[i, j] else "must not"
    raise Wrong(
        f"token {i} of example {int(owners[i])} {may} see token {j} of example {int(owners[j])}"
    )


def _pack(lengths: list[int]) -> tuple[Tensor, Tensor]:
    positions = torch.cat([torch.arange(length) for length in lengths])
    return positions, torch.block_diag(*(torch.ones(n, n).tril() for n in lengths)).bool()


def _pack_positions(lengths: list[int]) -> Tensor:
    return _pack(lengths)[0]


def _pack_borders(lengths: list[int]) -> Tensor:
    return _pack(lengths)[1]


def _same_length_together(lengths: list[int]) -> tuple[Tensor, Tensor]:
    owners = torch.repeat_interleave(torch.tensor(lengths), torch.tensor(lengths))
    return _pack_positions(lengths), (owners[:, None] == owners).tril()


POSITIONS = Check(
    name="07-positions",
    verify=_verify_positions,
    solution=_pack,
    rejects=(
        (lambda lengths: (torch.arange(sum(lengths)), _pack_borders(lengths)), "run on"),
        (lambda lengths: (_pack_positions(lengths) + 1, _pack_borders(lengths)), "off by one"),
        (lambda lengths: (_owners(lengths), _pack_borders(lengths)), "numbers of the examples"),
        (lambda lengths: (_pack_positions(lengths).flip(0), _pack_borders(lengths)), "backwards"),
        (
            lambda lengths: (
                _pack_positions(lengths),
                torch.ones(sum(lengths), sum(lengths)).tril(),
            ),
            "without borders",
        ),
        (
            lambda lengths: (
                _pack_positions(lengths),
                torch.block_diag(*(torch.ones(n, n) for n in lengths)),
            ),
            "after it",
        ),
        (lambda lengths: (_pack_positions(lengths), ~_pack_borders(lengths)), "must not look"),
        (lambda lengths: (_pack_positions(lengths), _pack_borders(lengths).T), "turned"),
        (
            lambda lengths: (_pack_positions(lengths), _pack_borders(lengths).float().tril(-1)),
            "diagonal",
        ),
        (
            lambda lengths: (_pack_positions(lengths), _pack_borders(lengths).float().log()),
            "added to the scores",
        ),
        (
            lambda lengths: (_pack_positions(lengths), _pack_borders(lengths).float()),
            "adds a float mask",
        ),
        (_same_length_together, "sees those packed before it"),
        (lambda lengths: (_pack_positions(lengths), torch.ones(sum(lengths))), "has shape"),
        (lambda lengths: (_pack_positions(lengths), 0.5 * _pack_borders(lengths)), "may see"),
        (_pack_positions, "two things"),
    ),
    insight="With both, each token computes what it would compute alone: the chapter compares the "
    "logits.",
)
