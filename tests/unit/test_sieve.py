# SPDX-License-Identifier: Apache-2.0
"""The sieve never denies a name that was added, and seldom affirms one that was not."""

from unionfs.listing.bloom import Sieve


def test_sieve_knows_what_it_was_given_and_little_else() -> None:
    """With 100,000 names in it one answer in a thousand may be wrong; three in a hundred would be a bug."""
    sieve = Sieve()
    for number in range(100_000):
        sieve.add(b"in%d" % number)
    assert all(b"in%d" % number in sieve for number in range(100_000))
    assert sum(b"out%d" % number in sieve for number in range(10_000)) < 300
    assert b"in1" not in Sieve()
