# SPDX-License-Identifier: Apache-2.0
"""Say which errno a call must fail with."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refused(*allowed: str) -> Iterator[None]:
    """Fail unless the block raises an OSError with one of these errno names."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode[error.errno or 0]
        assert name in allowed, f"{error}: expected {' or '.join(allowed)}"
    else:
        raise AssertionError(f"nothing raised, expected {' or '.join(allowed)}")
