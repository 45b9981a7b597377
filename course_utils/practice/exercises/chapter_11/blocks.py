"""Rows of tokens, joined and cut into blocks of one length."""

from collections.abc import Callable

from course_utils.practice.exercises.check import Check, Wrong

Rows = list[list[int]]

# A block that ends on a row's end, ends inside rows, a rest, no rest, and too little for a block.
_CASES: tuple[tuple[Rows, int, int], ...] = (
    ([[5, 6, 7], [8, 9], [10, 11, 12, 13]], 2, 5),
    ([[5, 6, 7], [8], [], [9, 10]], 2, 5),
    ([[5, 6], [7, 8, 9, 10, 11, 12, 13, 14]], 3, 4),
    ([[5]], 2, 3),
    ([[4, 4], [9]], 0, 1),
)


def _cut_blocks(rows: Rows, end: int, size: int) -> Rows:
    ids = [token for row in rows for token in [*row, end]]
    return [ids[size * k : size * k + size] for k in range(len(ids) // size)]


def _with_rest(rows: Rows, end: int, size: int) -> Rows:
    ids = [token for row in rows for token in [*row, end]]
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _without_ends(rows: Rows, end: int, size: int) -> Rows:
    ids = [token for row in rows for token in row]
    return [ids[size * k : size * k + size] for k in range(len(ids) // size)]


def _end_before(rows: Rows, end: int, size: int) -> Rows:
    ids = [token for row in rows for token in [end, *row]]
    return [ids[size * k : size * k + size] for k in range(len(ids) // size)]


def _end_between(rows: Rows, end: int, size: int) -> Rows:
    ids = [token for row in rows for token in [*row, end]][:-1]
    return [ids[size * k : size * k + size] for k in range(len(ids) // size)]


def _row_by_row(rows: Rows, end: int, size: int) -> Rows:
    return [block for row in rows for block in _cut_blocks([row], end, size)]


def _sliding(rows: Rows, end: int, size: int) -> Rows:
    ids = [token for row in rows for token in [*row, end]]
    return [ids[start : start + size] for start in range(len(ids) - size + 1)]


_SLIPS = (
    (_with_rest, "the rest at the end is shorter than a block: drop it"),
    (_without_ends, "the end token is missing: it stands behind each row"),
    (_end_before, "the end token stands before each row: it goes behind it"),
    (
        _end_between,
        "the last block is lost where nothing is left over: has the last row its end token, and "
        "does your range reach the end?",
    ),
    (_row_by_row, "rows are cut one by one: join all of them first, so that little is lost"),
    (_sliding, "blocks overlap: the next one begins where the last one ended"),
)


def _verify_blocks(cut_blocks: Callable[[Rows, int, int], object]) -> None:
    answers = []
    for rows, end, size in _CASES:
        given = [list(row) for row in rows]
        answers.append(_as_lists(cut_blocks(given, end, size)))
        if given != rows:
            raise Wrong("the rows were changed: make a new list instead of appending to them")
    if answers == [_cut_blocks(*case) for case in _CASES]:
        return
    for slip, sentence in _SLIPS:
        if answers == [slip(*case) for case in _CASES]:
            raise Wrong(sentence)
    for (rows, end, size), blocks in zip(_CASES, answers, strict=True):
        if blocks != _cut_blocks(rows, end, size):
            raise Wrong(f"for rows {rows}, end {end} and size {size} your blocks are {blocks}")


def _as_lists(answer: object) -> Rows:
    try:
        return [[int(token) for token in block] for block in answer]
    except (TypeError, ValueError) as error:
        raise Wrong("the answer must be a list of lists of token ids") from error


def _in_place(rows: Rows, end: int, size: int) -> Rows:
    for row in rows:
        row.append(end)
    return _without_ends(rows, end, size)


BLOCKS = Check(
    name="11-blocks",
    verify=_verify_blocks,
    solution=_cut_blocks,
    rejects=(
        *_SLIPS,
        (_in_place, "rows were changed"),
        (lambda rows, end, size: [end], "list of lists"),
        (lambda rows, end, size: [[end] * size], "your blocks are"),
    ),
    insight="No padding at all, and at most one block less one token is lost.",
)
