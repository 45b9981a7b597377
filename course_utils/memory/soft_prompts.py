"""What virtual tokens train, and what they add to every text."""

from dataclasses import dataclass

from course_utils.memory.architecture import Architecture
from course_utils.memory.footprint import BlockTraining, Trained


@dataclass(frozen=True, kw_only=True)
class InputPromptFootprint:
    """Virtual tokens among the embeddings (Lester et al., 2021, arXiv:2104.08691).

    They go through every layer as the text does, so each text is so many tokens longer.

    Args:
        num_virtual_tokens: Virtual tokens before each text.
        encoder: Elements of each tensor of a network that computes them.
        encoder_keeps: Elements that this network keeps for its backward pass.
        train_head: Whether the head is trained as well.
    """

    num_virtual_tokens: int
    encoder: tuple[int, ...] = ()
    encoder_keeps: int = 0
    train_head: bool = False

    def footprint(self, architecture: Architecture) -> Trained:
        """Return the virtual tokens and their encoder."""
        return Trained(
            blocks=(BlockTraining(),) * architecture.n_layers, head=self.train_head,
            inputs_need_gradients=True, n_virtual_tokens=self.num_virtual_tokens,
            prompt_keeps=self.encoder_keeps,
            prompt=(self.num_virtual_tokens * architecture.d_model, *self.encoder),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CachePromptFootprint:
    """Virtual keys and values of every layer (Li and Liang, 2021, arXiv:2101.00190).

    They are attended to and go through nothing.

    Args:
        num_virtual_tokens: Virtual keys and values a layer.
        encoder: Elements of each tensor of a network that computes them; empty if they are learned
            as they are.
        encoder_keeps: Elements that this network keeps for its backward pass.
        train_head: Whether the head is trained as well.
    """

    num_virtual_tokens: int
    encoder: tuple[int, ...] = ()
    encoder_keeps: int = 0
    train_head: bool = False

    def footprint(self, architecture: Architecture) -> Trained:
        """Return the virtual keys and values, or what they are computed from."""
        size = self.num_virtual_tokens * architecture.cache_width
        return Trained(
            blocks=(BlockTraining(),) * architecture.n_layers, head=self.train_head,
            n_cached_tokens=self.num_virtual_tokens, prompt=self.encoder or (size,),
            prompt_keeps=self.encoder_keeps,
        )  # fmt: skip
