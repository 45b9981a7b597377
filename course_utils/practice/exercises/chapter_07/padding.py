"""The share of a data set's tokens that is padding, in the order given and sorted by length."""

from collections.abc import Callable

from course_utils.practice.exercises.check import Check
from course_utils.practice.exercises.compare import expect_close

# Seven examples in batches of three: the last batch has one.
_LENGTHS = (([5, 9, 3, 12, 7, 4, 10], 3), ([6, 2, 8, 4], 2), ([7, 7, 7], 3))
Batches = list[list[int]]


def _batches(lengths: list[int], batch_size: int, is_sorted: bool) -> Batches:
    order = sorted(lengths) if is_sorted else lengths
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def _padded(batches: Batches) -> int:
    return sum(max(batch) * len(batch) for batch in batches)


def _share(batches: Batches) -> float:
    return 1 - sum(map(sum, batches)) / _padded(batches)


def _padding_share(lengths: list[int], batch_size: int, is_sorted: bool) -> float:
    return _share(_batches(lengths, batch_size, is_sorted))


def _share_of_rows(batches: Batches) -> float:
    rows = [length < max(batch) for batch in batches for length in batch]
    return sum(rows) / len(rows)


def _mean_over_rows(batches: Batches) -> float:
    rows = [1 - length / max(batch) for batch in batches for length in batch]
    return sum(rows) / len(rows)


def _mean_over_batches(batches: Batches) -> float:
    return sum(_share([batch]) for batch in batches) / len(batches)


def _last_ignored(batches: Batches) -> float:
    return _share([batch for batch in batches if len(batch) == len(batches[0])])


def _last_filled_up(batches: Batches) -> float:
    real = sum(map(sum, batches))
    return 1 - real / sum(max(batch) * len(batches[0]) for batch in batches)


def _to_the_longest_of_all(batches: Batches) -> float:
    lengths = [length for batch in batches for length in batch]
    return 1 - sum(lengths) / (max(lengths) * len(lengths))


def _to_real_tokens(batches: Batches) -> float:
    return _padded(batches) / sum(map(sum, batches)) - 1


_SLIPS = (
    (_share_of_rows, "that is the share of rows with some padding; asked is the share of tokens"),
    (_mean_over_rows, "that is a mean over rows: count tokens first, then divide once"),
    (
        _mean_over_batches,
        "that is a mean over batches, in which the small last one weighs as much "
        "as any: count tokens first, then divide once",
    ),
    (_last_ignored, "the last batch is left out; it is smaller, but it is trained on"),
    (_last_filled_up, "the last batch is smaller: it has no empty rows"),
    (_to_the_longest_of_all, "each batch is padded to its own longest, not to the longest of all"),
    (_to_real_tokens, "that is padding by real tokens; asked is its share of all, padding too"),
    (lambda batches: 1 - _share(batches), "that is the share of real tokens"),
    (
        lambda batches: float(_padded(batches) - sum(map(sum, batches))),
        "that is a number of tokens: divide it by the number of all",
    ),
    (lambda batches: 100 * _share(batches), "that is in percent; a share lies between 0 and 1"),
)


def _verify_padding(padding_share: Callable[[list[int], int, bool], float]) -> None:
    for lengths, batch_size in _LENGTHS:
        for is_sorted in (False, True):
            batches = _batches(lengths, batch_size, is_sorted)
            share = padding_share(list(lengths), batch_size, is_sorted)
            downwards = _batches(sorted(lengths, reverse=True), batch_size, False)
            slips = [(slip(batches), sentence) for slip, sentence in _SLIPS]
            slips += [
                (
                    _padding_share(lengths, batch_size, not is_sorted),
                    "is_sorted is true, but the lengths are still in the order given"
                    if is_sorted
                    else "is_sorted is false: take the lengths in the order given",
                ),
                (_share(downwards), "sorted from the longest down; the shortest come first"),
            ]
            order = "sorted" if is_sorted else "as given"
            what = f"for lengths {list(lengths)} in batches of {batch_size}, {order}, the share"
            expect_close(share, _share(batches), what=what, slips=slips)


def _wrong_share(share: Callable[[Batches], float]) -> Callable[..., float]:
    return lambda *arguments: share(_batches(*arguments))


def _sorted_down(lengths: list[int], batch_size: int, is_sorted: bool) -> float:
    order = sorted(lengths, reverse=True) if is_sorted else lengths
    return _padding_share(order, batch_size, False)


PADDING = Check(
    name="07-padding",
    verify=_verify_padding,
    solution=_padding_share,
    rejects=(
        *((_wrong_share(share), sentence) for share, sentence in _SLIPS),
        (lambda lengths, size, _: _padding_share(lengths, size, False), "is_sorted is true"),
        (lambda lengths, size, _: _padding_share(lengths, size, True), "is_sorted is false"),
        (_sorted_down, "shortest come first"),
    ),
    insight="Sorting by length costs nothing but some of the shuffling; packing leaves hardly "
    "any padding at all.",
)
