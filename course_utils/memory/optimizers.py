"""What an optimizer keeps between steps."""

from collections.abc import Callable, Iterable

from course_utils.memory.parts import dtype_bytes
from course_utils.validation import check_choice, check_flag

# torch's Adam counts the steps of every tensor in a float32 of its own.
_STEP_BYTES = 4
_MIN_8BIT_SIZE, _BLOCK_SIZE = 4096, 256
_MIN_PAGED_SIZE = 100_000


def _adamw(size: int, element_bytes: int) -> int:
    return 2 * size * element_bytes + _STEP_BYTES


def _adamw32bit(size: int, element_bytes: int) -> int:
    return 2 * size * 4


def _adamw8bit(size: int, element_bytes: int) -> int:
    if size < _MIN_8BIT_SIZE:
        return _adamw32bit(size, element_bytes)
    return 2 * (size + 4 * -(-size // _BLOCK_SIZE))


_STATES: dict[str, Callable[[int, int], int]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "paged_adamw": _adamw32bit,
    "paged_adamw8bit": _adamw8bit,
    "sgd": lambda size, element_bytes: 0,
    "sgd_momentum": lambda size, element_bytes: size * element_bytes,
}
# Bytes an element of the two states; the scales of 8-bit states are not paged.
_PAGED_BYTES = {"paged_adamw": 8, "paged_adamw8bit": 2}


def optimizer_names() -> tuple[str, ...]:
    """Return the optimizers whose memory is known."""
    return tuple(_STATES)


def state_bytes(
    sizes: Iterable[int], optimizer: str, element_bytes: int, *, mixed_precision: bool = False
) -> int:
    """Return what an optimizer keeps for tensors of these sizes.

    - ``adamw``: mean and uncentred variance of the gradient, both in the weights' type (Kingma and
      Ba, 2014, arXiv:1412.6980; Loshchilov and Hutter, 2017, arXiv:1711.05101).
    - ``adamw8bit``: both in one byte, with a float32 scale for every 256 elements; tensors below
      4,096 elements stay in float32 (Dettmers et al., 2021, arXiv:2110.02861, in bitsandbytes).
    - ``paged_adamw``, ``paged_adamw8bit``: the same numbers, in float32 whatever the weights' type
      and in 8 bits, which may lie in the host's memory: see :func:`pageable_bytes`.
    - ``sgd`` keeps nothing, ``sgd_momentum`` one velocity.

    Mixed precision adds a float32 copy of the weights, to which updates too small for 16 bits are
    added, and keeps the optimizer's own states in float32 (Micikevicius et al., 2017,
    arXiv:1710.03740).

    Args:
        sizes: Elements of each trained tensor.
        optimizer: One of :func:`optimizer_names`.
        element_bytes: Bytes an element of the weights.
        mixed_precision: Whether there is a float32 copy.

    Raises:
        ValueError: If the optimizer is unknown.
    """
    check_choice("optimizer", optimizer, _STATES)
    check_flag("mixed_precision", mixed_precision)
    state = _STATES[optimizer]
    if mixed_precision:
        return sum(state(size, 4) + 4 * size for size in sizes)
    return sum(state(size, element_bytes) for size in sizes)


def pageable_bytes(sizes: Iterable[int], optimizer: str) -> list[int]:
    """Return how many bytes of each tensor's states can leave the card.

    A paged optimizer keeps its states in unified memory, from which the driver evicts pages to the
    host while the card is full and fetches them for the optimizer's step (Dettmers et al., 2023,
    arXiv:2305.14314, section 3, "Paged Optimizers"). bitsandbytes pages tensors of at least 100,000
    elements: the factors of a low-rank update are often smaller, and then nothing is paged.

    Args:
        sizes: Elements of each trained tensor.
        optimizer: One of :func:`optimizer_names`.

    Raises:
        ValueError: If the optimizer is unknown.
    """
    check_choice("optimizer", optimizer, _STATES)
    element_bytes = _PAGED_BYTES.get(optimizer, 0)
    return [size * element_bytes if size >= _MIN_PAGED_SIZE else 0 for size in sizes]


def bytes_per_parameter(
    *, dtype: str = "float32", optimizer: str = "adamw", mixed_precision: bool = False
) -> dict[str, float]:
    """Return what each trained parameter costs before any activation, by purpose.

    In mixed precision with Adam: 2 for the weight, 2 for its gradient, 4 for the float32 copy and 8
    for the two moments, 16 in all (Rajbhandari et al., 2019, arXiv:1910.02054, section 3.1). Seven
    billion parameters therefore take 112 GB where the weights alone take 14.

    Raises:
        ValueError: If the type or the optimizer is unknown.
    """
    element_bytes, many = dtype_bytes(dtype), 2**24
    check_flag("mixed_precision", mixed_precision)
    states = state_bytes([many], optimizer, 4 if mixed_precision else element_bytes)
    return {
        "weight": element_bytes,
        "gradient": element_bytes,
        "float32 copy": 4 if mixed_precision else 0,
        "optimizer states": round(states / many, 3),
    }
