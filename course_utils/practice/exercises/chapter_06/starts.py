"""A soft prompt that begins as the embeddings of a text."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_tensor
from course_utils.practice.exercises.material import draw

Start = Callable[[Tensor, list[int], int], Tensor]
# Ids and length of the prompt: the text does not divide it, fits it, is one token long.
_CASES = (([1, 7, 2], 7), ([3, 1, 4, 1], 4), ([6], 3), ([5], 1))


def _verify_start(start: Start) -> None:
    for ids, n in _CASES:
        table, numbers = torch.nn.Parameter(draw(9, 4)), draw(9, 4)
        try:
            found = start(table, list(ids), n)
        except ValueError as error:
            raise Wrong(
                f"it refuses {len(ids)} tokens for a prompt of {n}: only a longer text is refused "
                f"({error})"
            ) from error
        what = f"for ids {ids} and n={n} the prompt"
        expect_tensor(found, _rows(numbers, ids, n), what=what, slips=_slips(numbers, ids, n))
        _expect_own_memory(found, table)
    _expect_refusal(start)


def _rows(table: Tensor, ids: Sequence[int], n: int) -> Tensor:
    return torch.stack([table[ids[i % len(ids)]] for i in range(n)])


def _slips(table: Tensor, ids: list[int], n: int) -> list[tuple[Tensor, str]]:
    rows, missing = table[ids], n - len(ids)
    again = -(-n // len(ids))
    slips = [
        (
            rows,
            f"these are the {len(ids)} tokens of the text; the prompt has {n}, so begin the "
            "text again",
        ),
        (rows.repeat(again, 1), f"the last repetition is to be cut: the prompt has {n} tokens"),
        (
            rows.repeat_interleave(again, 0)[:n],
            "each token is repeated on its own; repeat the text as a whole, in its order",
        ),
        (torch.cat([rows, rows.new_zeros(missing, 4)]), "the rest is zero; begin the text again"),
        (
            torch.cat([rows, rows[-1:].expand(missing, -1)]),
            "the rest is the last token over and over; begin the text again",
        ),
        (torch.cat([rows.new_zeros(missing, 4), rows]), "the rest is zero; begin the text again"),
        (rows.mean(0).expand(n, -1), "every row is the mean of the text; each token keeps its own"),
        (table[:n], "these are the first tokens of the vocabulary; the ids say which"),
        (table[ids[0] : ids[0] + n], "these are neighbours in the vocabulary; the ids say which"),
    ]
    return [slip for slip in slips if slip[0].shape != (n, 4) or len(ids) < n]


def _expect_own_memory(prompt: Tensor, table: Tensor) -> None:
    if prompt.grad_fn is not None:
        raise Wrong(
            "the numbers are right, but the prompt still hangs on the embedding: its gradient "
            "would go there; detach it, so that the prompt is trained and not the embedding"
        )
    before, rows = table.detach().clone(), prompt.detach()
    if len({row.data_ptr() for row in rows}) < len(rows):
        raise Wrong(
            "rows share one place in memory, as `expand` makes them: a step on one would move all"
        )
    rows += 1.0
    if not torch.equal(table.detach(), before):
        raise Wrong(
            "the prompt is a view of the embedding: training it would change the frozen word, too; "
            "make a copy"
        )


def _expect_refusal(start: Start) -> None:
    ids, n = [4, 8, 1, 3, 5], 3
    try:
        found = start(torch.nn.Parameter(draw(9, 4)), list(ids), n)
    except ValueError:
        return
    if isinstance(found, Tensor) and len(found) == n:
        raise Wrong(
            f"a text of {len(ids)} tokens for a prompt of {n} was cut without a word; raise a "
            "ValueError, for whoever wrote the text should know"
        )
    raise Wrong(f"a text of {len(ids)} tokens does not fit a prompt of {n}: raise a ValueError")


def _start(embedding: Tensor, token_ids: list[int], n: int) -> Tensor:
    if len(token_ids) > n:
        raise ValueError(f"{len(token_ids)} tokens do not fit a prompt of {n}")
    ids = [token_ids[i % len(token_ids)] for i in range(n)]
    return embedding.detach()[ids].clone()


def _cut(embedding: Tensor, token_ids: list[int], n: int) -> Tensor:
    return _start(embedding, token_ids[:n], n)


def _made_of(rows: Callable[[Tensor, int], Tensor]) -> Start:
    """Return a wrong answer made of the rows of the text and the length of the prompt."""

    def answer(embedding: Tensor, token_ids: list[int], n: int) -> Tensor:
        _start(embedding, token_ids, n)
        return rows(embedding.detach()[token_ids], n)

    return answer


def _shared(embedding: Tensor, token_ids: list[int], n: int) -> Tensor:
    prompt = _start(embedding, token_ids, n)
    return prompt[:1].expand(n, -1) if len(token_ids) == 1 else prompt


def _view(embedding: Tensor, token_ids: list[int], n: int) -> Tensor:
    """Copy as indexing with a list does; a single row is indexed as a slice, which does not."""
    prompt, first = _start(embedding, token_ids, n), token_ids[0]
    return embedding.detach()[first : first + 1] if n == 1 else prompt


def _refuses_equal(embedding: Tensor, token_ids: list[int], n: int) -> Tensor:
    if len(token_ids) >= n:
        raise ValueError("too long")
    return _start(embedding, token_ids, n)


START = Check(
    name="06-start",
    verify=_verify_start,
    solution=_start,
    rejects=(
        (_view, "a view of the embedding"),
        (lambda table, ids, n: table[[ids[i % len(ids)] for i in range(n)]], "hangs on the emb"),
        (_shared, "one place in memory"),
        (_cut, "was cut without a word"),
        (lambda table, ids, n: _start(table, ids, max(n, len(ids))), "does not fit"),
        (_refuses_equal, "only a longer text is refused"),
        (_made_of(lambda rows, n: rows), "begin the text again"),
        (_made_of(lambda rows, n: rows.repeat(-(-n // len(rows)), 1)), "is to be cut"),
        (_made_of(lambda rows, n: rows.repeat_interleave(-(-n // len(rows)), 0)[:n]), "on its own"),
        (_made_of(lambda rows, n: torch.cat([rows, rows.new_zeros(n - len(rows), 4)])), "zero"),
        (_made_of(lambda rows, n: torch.cat([rows.new_zeros(n - len(rows), 4), rows])), "zero"),
        (_made_of(lambda rows, n: torch.cat([rows, rows[-1:].repeat(n - len(rows), 1)])), "last"),
        (_made_of(lambda rows, n: rows.mean(0).repeat(n, 1)), "the mean"),
        (lambda table, ids, n: table.detach()[:n].clone(), "the first tokens"),
        (lambda table, ids, n: table.detach()[ids[0] : ids[0] + n].clone(), "neighbours"),
    ),
    insight="The words stay as they are in the embedding; only the copy moves away from them.",
)
