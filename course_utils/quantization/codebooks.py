"""Codebooks: the few values that a quantised weight may have, derived and not typed in.

All are float32 in -1..1; a block's weights are divided by its largest before they are looked up.
"""

import torch
from torch import Tensor

from course_utils.validation import check_count

# The share of a normal distribution below the outermost level: halfway between that of 2 * 16 and
# of 2 * 15 equal parts, rounded as the authors' code rounds it.
_NF4_OFFSET = round(1 - (1 / 32 + 1 / 30) / 2, 7)


def nf4_codebook() -> Tensor:
    """Return the 16 levels of NormalFloat4, ascending.

    They are quantiles of the standard normal distribution: eight above zero and seven below, each
    side evenly spaced in probability and divided by the largest, and zero itself, so that it is
    stored exactly (Dettmers et al., 2023, arXiv:2305.14314, section 3 and appendix E). Normal
    weights do not use all levels equally often, since each block is divided by its own largest.
    """
    above = _normal_quantiles(9)
    below = -_normal_quantiles(8)
    levels = torch.cat([below, torch.zeros(1), above]).sort().values
    return levels / levels.abs().max()


def fp4_codebook() -> Tensor:
    """Return the 16 values of a 4-bit float, by its bits: sign, two of exponent, one of mantissa.

    A number with exponent bits e > 0 and mantissa bit m is ``2^(4-e) (1 + m/2)``, one with e = 0 is
    ``m 2^-4``; all are divided by the largest, 12. The layout is that of bitsandbytes.
    """
    bits = torch.arange(8)
    exponent, mantissa = bits >> 1, (bits & 1).float()
    normal = 2.0 ** (4 - exponent) * (1 + mantissa / 2)
    positive = torch.where(exponent > 0, normal, mantissa * 2.0**-4)
    return torch.cat([positive, -positive]) / positive.max()


def integer_codebook(n_bits: int) -> Tensor:
    """Return evenly spaced levels, symmetric about zero: 2^n_bits - 1 of them, ascending.

    Args:
        n_bits: 2 to 8.

    Raises:
        ValueError: If ``n_bits`` is out of range.
    """
    check_count("n_bits", n_bits, at_least=2, at_most=8)
    largest = 2 ** (n_bits - 1) - 1
    return torch.arange(-largest, largest + 1) / largest


def dynamic_codebook() -> Tensor:
    """Return the 256 values of the dynamic 8-bit type, ascending.

    Seven decades, from 1e-6 up to 1; the decade next to 1 has 64 values and each one below it half
    as many. It stores the block scales in double quantisation (Dettmers, 2016, arXiv:1511.04561,
    section 2.2).
    """
    values = [torch.tensor([0.0, 1.0])]
    for decade in range(7):
        borders = torch.linspace(0.1, 1, 2**decade + 1)
        centres = 10.0 ** (decade - 6) * ((borders[:-1] + borders[1:]) / 2)
        values += [centres, -centres]
    return torch.cat(values).sort().values


def _normal_quantiles(n: int) -> Tensor:
    """Return the quantiles at n - 1 even steps from the offset down to above one half."""
    shares = torch.linspace(_NF4_OFFSET, 0.5, n)[:-1]
    return torch.special.ndtri(shares.double()).float()
