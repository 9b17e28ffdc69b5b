"""Philox4x32-10: random numbers that depend on (seed, position, purpose) and on nothing else.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). A request that is
generated alone, in a batch, or on another device therefore draws the same numbers.
"""

import torch
from torch import Tensor

# Purposes keep the draws of different decisions at one position apart (csrc/core/philox.h).
PURPOSE_SAMPLE_TOKEN = 0
PURPOSE_SELECT_TOKEN = 1
PURPOSE_TRIGGER = 16  # from 16 on: policy in Python, no kernel draws it

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _multiply(multiplier: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32 x 32 bit product, in halves so that int64 never overflows."""
    low_part = multiplier * (value & 0xFFFF)
    high_part = multiplier * (value >> 16) + (low_part >> 16)
    return high_part >> 16, ((high_part & 0xFFFF) << 16) | (low_part & 0xFFFF)


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Four 32-bit words (held in int64) for a 128-bit counter and a 64-bit key, ten rounds."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + _KEY_STEPS[0]) & _MASK
        k1 = (k1 + _KEY_STEPS[1]) & _MASK
    return c0, c1, c2, c3


def _words(seed: Tensor, position: Tensor, purpose: int) -> tuple[Tensor, ...]:
    """Key = seed; counter = (position low, position high, purpose, 0)."""
    counter = (
        position & _MASK,
        (position >> 32) & _MASK,
        torch.full_like(position, purpose),
        torch.zeros_like(position),
    )
    return philox4x32(counter, (seed & _MASK, (seed >> 32) & _MASK))


def uniform24(seed: Tensor, position: Tensor, purpose: int) -> Tensor:
    """A multiple of 2^-24 in [0, 1) per row, exact in float32: int64 [batch] -> float64 [batch]."""
    return (_words(seed, position, purpose)[0] >> 8).double() * 2.0**-24


def uniform53(seed: Tensor, position: Tensor, purpose: int) -> Tensor:
    """A multiple of 2^-53 in [0, 1) per row, fine enough for a choice among a whole vocabulary."""
    words = _words(seed, position, purpose)
    return ((words[0] << 21) | (words[1] >> 11)).double() * 2.0**-53
