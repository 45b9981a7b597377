"""Masks: which tokens are real, and sums over those alone.

A mask is 1, or true, on the tokens of an answer up to and including its end token. What stands
elsewhere is padding: it counts for nothing, whatever its value, and not even if it is NaN.
"""

import torch
from torch import Tensor

from course_utils.validation import check_dimensions, check_floats, check_mask, check_shapes


def last_token_index(attention_mask: Tensor) -> Tensor:
    """Return where each row's last real token stands, under left and right padding.

    Args:
        attention_mask: 1 on real tokens, 0 on padding, (batch, seq).

    Returns:
        Indices, (batch,).

    Raises:
        ValueError: If the mask holds anything but 0 and 1, or a row has no real token; the message
            names the row.
    """
    check_shapes(attention_mask=attention_mask)
    check_dimensions("attention_mask", attention_mask, "(batch, seq)")
    check_mask("attention_mask", attention_mask)
    real = attention_mask.bool()
    if (empty := (~real.any(dim=1)).nonzero()).numel():
        raise ValueError(f"row {empty[0].item()} of the attention mask has no real token")
    positions = torch.arange(real.shape[1], device=real.device)
    return (positions * real).argmax(dim=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values that the mask leaves, a scalar.

    Args:
        values: Values of any shape.
        mask: Which of them count; of the same shape.

    Raises:
        ValueError: If the shapes differ, nothing counts, or the values are whole numbers.
    """
    return real_elements(mask, values=values)[0].mean()


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Return the unbiased variance of the values that the mask leaves, a scalar.

    Raises:
        ValueError: If the shapes differ or fewer than two values count.
    """
    (real,) = real_elements(mask, values=values)
    if len(real) < 2:
        raise ValueError("the mask leaves 1 value: a variance needs at least 2")
    return real.var()


def real_elements(mask: Tensor, **tensors: Tensor) -> tuple[Tensor, ...]:
    """Return of each tensor the elements that the mask leaves, (n_real,).

    Raises:
        ValueError: If the shapes differ, nothing is left, the mask holds anything but 0 and 1, or
            a tensor holds whole numbers.
    """
    check_shapes(mask=mask, **tensors)
    check_mask("mask", mask)
    for name, tensor in tensors.items():
        check_floats(name, tensor)
    real = mask.bool()
    if not real.any():
        raise ValueError("the mask leaves no token: at least one must be real")
    return tuple(tensor[real] for tensor in tensors.values())
