"""A model's own loss, its head computed at nothing but targets.

Of a batch of instructions, less than half of the tokens are targets, and the prompt's logits are
made to be thrown away; at a vocabulary of 150,000 they are the largest tensors of a step. Where the
head and its loss are transformers' usual ones, they are computed here: for the tokens that count,
some at a time, the gradient along with the loss, so that no more than ``CHUNK_ELEMENTS`` logits
exist at once (as in Wijmans et al., 2024, arXiv:2411.09009, in plain PyTorch).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from course_utils.data.batches import Batch
from course_utils.data.encode import IGNORED
from course_utils.models.kernels import CHUNK_ELEMENTS, autocast_dtype, without_autocast
from course_utils.models.lean import is_lean, trunk_of_llama, unwrapped


def model_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return what ``model(**batch).loss`` is, for less work where the model's head is known."""
    bare = unwrapped(model)
    kind, trunk = type(bare).__name__, trunk_of_llama(bare)
    is_text = "labels" in batch and "input_ids" in batch and not model._forward_hooks
    if is_text and trunk is not None:
        if kind.endswith("ForCausalLM") and (batch["labels"][:, 1:] != IGNORED).any():
            return _language_loss(bare, trunk, batch)
        if kind.endswith("ForSequenceClassification") and _tells_classes_apart(bare, batch):
            return _class_loss(bare, trunk, batch)
    return model(**batch, use_cache=False).loss if "position_ids" in batch else model(**batch).loss


def cross_entropy_of_head(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of what a head makes of hidden states.

    Args:
        hidden: Hidden states, (n, d).
        head: Maps them to the vocabulary; a plain linear layer is taken in chunks.
        targets: A token for each, (n,).
    """
    is_plain = type(head) is nn.Linear and head.bias is None and not head._forward_hooks
    if not is_plain:
        return nn.functional.cross_entropy(head(hidden).float(), targets)
    dtype = autocast_dtype(hidden) or hidden.dtype
    with without_autocast(hidden):
        return _HeadLoss.apply(hidden, head.weight, targets, dtype)


def _language_loss(model: nn.Module, trunk: nn.Module, batch: Batch) -> Tensor:
    labels = batch["labels"]
    n_columns = labels.shape[1]
    rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    hidden = _hidden_at(trunk, batch, rows * n_columns + columns)
    return cross_entropy_of_head(hidden, model.lm_head, labels[rows, columns + 1])


def _class_loss(model: nn.Module, trunk: nn.Module, batch: Batch) -> Tensor:
    """Score each text at its last token that is not padding, as transformers does."""
    ids = batch["input_ids"]
    n_rows, n_columns = ids.shape
    places = torch.arange(n_columns, device=ids.device)
    last = (places * (ids != model.config.pad_token_id)).argmax(dim=1)
    hidden = _hidden_at(trunk, batch, torch.arange(n_rows, device=ids.device) * n_columns + last)
    return nn.functional.cross_entropy(model.score(hidden).float(), batch["labels"])


def _tells_classes_apart(model: nn.Module, batch: Batch) -> bool:
    config, labels = model.config, batch["labels"]
    is_usual = config.problem_type in (None, "single_label_classification")
    is_padded = config.pad_token_id is not None
    return is_usual and is_padded and labels.dtype == torch.long and config.num_labels > 1


def _hidden_at(trunk: nn.Module, batch: Batch, places: Tensor) -> Tensor:
    """Return the last hidden states at some places of a batch, counted through it, (n, d)."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    # A soft prompt's hooks expect all places of a text.
    if is_lean(trunk) and not trunk._forward_hooks:
        return trunk(**inputs, use_cache=False, keep=places).last_hidden_state
    hidden = trunk(**inputs, use_cache=False).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, places)


class _HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of ``hidden W^T``; its gradients are made while the logits are there."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        needs_hidden, needs_weight, *_ = ctx.needs_input_grad
        by_hidden = torch.empty_like(hidden) if needs_hidden else None
        by_weight = torch.zeros_like(weight) if needs_weight else None
        matrix, total = weight.to(dtype), hidden.new_zeros((), dtype=torch.float32)
        size = max(1, CHUNK_ELEMENTS // len(weight))
        for start in range(0, len(targets), size):
            part = hidden[start : start + size].to(dtype)
            wanted = targets[start : start + size, None]
            logits = (part @ matrix.T).float()
            chosen, log_sums = logits.gather(1, wanted), logits.logsumexp(dim=1, keepdim=True)
            total += (log_sums - chosen).sum()
            if not (needs_hidden or needs_weight):
                continue
            # Probabilities less the target's 1: at most 1, so that 16 bits hold them as they are.
            error = logits.sub_(log_sums).exp_()
            error.scatter_add_(1, wanted, error.new_full((1, 1), -1.0).expand_as(wanted))
            error = error.to(dtype)
            if needs_hidden:
                by_hidden[start : start + size] = error @ matrix
            if needs_weight:
                by_weight += error.T @ part
        ctx.save_for_backward(by_hidden, by_weight)
        ctx.n_targets = len(targets)
        return total / len(targets)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        factor = gradient / ctx.n_targets
        parts = ctx.saved_tensors
        scaled = (None if part is None else (part * factor).to(part.dtype) for part in parts)
        return *scaled, None, None
