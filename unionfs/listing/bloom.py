# SPDX-License-Identifier: Apache-2.0
"""A set of names in two mebibytes, however many there are: it knows for sure which names are *not* in it (a Bloom filter)."""

_SLOTS = 1 << 24  # of one bit each: with a million names about one answer in seventy is wrongly yes
_MASK = _SLOTS - 1


class Sieve:
    """Names are added, never removed; `name in sieve` may say yes wrongly, never no."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self._bits = bytearray(_SLOTS >> 3)

    def add(self, name: bytes) -> None:
        """Add a name."""
        number = hash(name)
        first, second = number & _MASK, number >> 24 & _MASK
        self._bits[first >> 3] |= 1 << (first & 7)
        self._bits[second >> 3] |= 1 << (second & 7)

    def __contains__(self, name: bytes) -> bool:
        number = hash(name)
        first, second = number & _MASK, number >> 24 & _MASK
        bits = self._bits
        return bool(bits[first >> 3] >> (first & 7) & bits[second >> 3] >> (second & 7) & 1)
