"""The batch of a step and how it is computed; what its keys and values take in serving."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from course_utils.memory.architecture import Architecture, architecture_of
from course_utils.memory.parts import dtype_bytes
from course_utils.validation import check_choice, check_count, check_flag, check_number, keep_plain

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class Workload:
    """The batch and the way it is computed.

    Args:
        batch_size: Sequences a step.
        seq_len: Tokens a sequence, padding included.
        dtype_bytes: Bytes an element of the compute type.
        attention: ``"sdpa"`` or ``"eager"``, as transformers calls them.
        is_padded: Whether the attention mask hides any token.
        n_virtual_tokens: Virtual tokens before each sequence, which go through every block.
        n_cached_tokens: Virtual tokens that are keys and values of every block only.
        target_share: Share of the text's tokens at which alone the head is computed; None for all.

    Raises:
        ValueError: If a value is out of range.
    """

    batch_size: int
    seq_len: int
    dtype_bytes: int
    attention: Literal["sdpa", "eager"] = "sdpa"
    is_padded: bool = False
    n_virtual_tokens: int = 0
    n_cached_tokens: int = 0
    target_share: float | None = None

    def __post_init__(self) -> None:
        keep_plain(self)
        for name in ("batch_size", "seq_len", "dtype_bytes"):
            check_count(name, getattr(self, name))
        for name in ("n_virtual_tokens", "n_cached_tokens"):
            check_count(name, getattr(self, name), at_least=0)
        check_choice("attention", self.attention, ("sdpa", "eager"))
        check_flag("is_padded", self.is_padded)
        check_number("target_share", self.target_share, above=0, at_most=1, is_none_ok=True)

    @property
    def n_text_tokens(self) -> int:
        """Tokens of the batch that the head reads, padding included."""
        return self.batch_size * self.seq_len

    @property
    def n_positions(self) -> int:
        """Tokens of a sequence that go through the blocks: the virtual and the text's."""
        return self.n_virtual_tokens + self.seq_len

    @property
    def n_tokens(self) -> int:
        """Tokens of the batch that go through the blocks."""
        return self.batch_size * self.n_positions

    @property
    def n_keys(self) -> int:
        """Keys of a sequence."""
        return self.n_cached_tokens + self.n_positions

    @property
    def has_mask(self) -> bool:
        """Whether sdpa is given a mask: it knows the causal one only of as many queries as keys."""
        return self.is_padded or self.n_cached_tokens > 0


def kv_cache_bytes(
    architecture: "nn.Module | PreTrainedConfig | Architecture | str",
    n_tokens: int,
    batch_size: int = 1,
    dtype: str = "float32",
) -> int:
    """Return the bytes of the keys and values that generation keeps of the tokens before.

    ``2 n_layers n_kv_heads head_dim`` elements a token (Shazeer, 2019, arXiv:1911.02150; Ainslie et
    al., 2023, arXiv:2305.13245, for grouped heads). A virtual token takes as much as one of a text,
    whether it entered as an embedding or as keys and values.

    Args:
        architecture: A model, its configuration, an architecture, or a well-known name.
        n_tokens: Tokens of a sequence so far, virtual ones included.
        batch_size: Sequences.
        dtype: Type of the keys and values: ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ValueError: If a number is out of range, or the model or the type is not covered.
    """
    check_count("n_tokens", n_tokens, at_least=0)
    check_count("batch_size", batch_size)
    shape = architecture_of(architecture)
    return int(batch_size) * int(n_tokens) * shape.cache_width * dtype_bytes(dtype)
