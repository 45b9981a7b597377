"""Keys and values of earlier tokens, with room for those to come."""

from functools import cache
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import DynamicCache


def roomy_cache(room_tokens: int) -> "DynamicCache":
    """Return an empty cache that is written in place, and moved once in so many tokens.

    Transformers' own copies all that it holds for every token that it is given. For use without
    gradients.

    Args:
        room_tokens: Tokens for which room is made beyond those that come in.
    """
    from transformers import DynamicCache

    class Layer(_layer_class()):
        room = room_tokens

    roomy = DynamicCache()
    roomy.layer_class_to_replicate = Layer
    return roomy


@cache
def _layer_class() -> type:
    from transformers.cache_utils import DynamicLayer

    class RoomyLayer(DynamicLayer):
        """One layer's keys and values: the first places of two tensors that have more."""

        room = 0
        held: tuple[Tensor, Tensor] | None = None

        def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
            n_before = self.get_seq_length()
            n, n_rows = n_before + keys.shape[-2], len(keys)
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            if self.held is None or self.held[0].shape[-2] < n or len(self.held[0]) < n_rows:
                shape = (*keys.shape[:-2], n + self.room)
                self.held = tuple(new.new_empty(*shape, new.shape[-1]) for new in (keys, values))
                if n_before:
                    self._write((self.keys, self.values), 0, n_before)
            self._write((keys, values), n_before, n)
            self.keys, self.values = (whole[:n_rows, :, :n] for whole in self.held)
            return self.keys, self.values

        def _write(self, pair: tuple[Tensor, Tensor], start: int, stop: int) -> None:
            for whole, new in zip(self.held, pair, strict=True):
                whole[: len(new), :, start:stop] = new

        def batch_select_indices(self, indices: Tensor) -> None:
            """Keep some rows, in ascending order: each moves up to where one has gone."""
            for target, source in enumerate(indices.tolist()):
                if target != source:
                    self.keys[target], self.values[target] = self.keys[source], self.values[source]
            self.keys, self.values = self.keys[: len(indices)], self.values[: len(indices)]

    return RoomyLayer
