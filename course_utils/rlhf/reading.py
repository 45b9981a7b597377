"""Reading whole texts: what a model predicts, and its states, at the last places alone."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.generation import position_ids
from course_utils.models.lean import is_lean, lean, trunk_of_llama, unwrapped

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def read(
    model: "PreTrainedModel", sequences: Tensor, attention_mask: Tensor, last: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return a language model's logits, and the states that they are made of.

    Args:
        model: Causal language model.
        sequences: Texts, (batch, seq).
        attention_mask: 1 on real tokens, 0 on padding of either side, (batch, seq).
        last: So many last places; all by default.

    Returns:
        Logits, (batch, last, vocab), and last hidden states, (batch, last, d).
    """
    last = last or sequences.shape[1]
    if (trunk := trunk_of_llama(model)) is not None:
        states = last_states(model, trunk, sequences, attention_mask, last)
        return unwrapped(model).lm_head(states), states
    inputs = _inputs(sequences, attention_mask)
    output = model(**inputs, logits_to_keep=last, output_hidden_states=True)
    # Virtual tokens, where a model has some, stand at the front.
    return output.logits, output.hidden_states[-1][:, -last:]


def last_states(
    model: nn.Module, trunk: nn.Module, sequences: Tensor, attention_mask: Tensor, last: int
) -> Tensor:
    """Return a trunk's last hidden states at the last places, (batch, last, d)."""
    inputs = _inputs(sequences, attention_mask)
    with lean(model):
        if not is_lean(trunk) or trunk._forward_hooks:  # a soft prompt expects all places
            return trunk(**inputs).last_hidden_state[:, -last:]
        n_rows, n_columns = sequences.shape
        places = torch.arange(n_rows * n_columns, device=sequences.device).view(n_rows, n_columns)
        states = trunk(**inputs, keep=places[:, -last:].flatten()).last_hidden_state
        return states.view(n_rows, last, -1)


def _inputs(sequences: Tensor, attention_mask: Tensor) -> dict[str, Any]:
    return {
        "input_ids": sequences,
        "attention_mask": attention_mask,
        "position_ids": position_ids(attention_mask),
        "use_cache": False,
    }
