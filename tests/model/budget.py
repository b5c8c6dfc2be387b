# SPDX-License-Identifier: Apache-2.0
"""How many random examples are run, and for how long: UNIONFS_FUZZ_SECONDS makes each test go on for so many (`make fuzz`)."""

import os
import time
from collections.abc import Callable

from hypothesis import HealthCheck, settings

FUZZ_SECONDS = float(os.environ.get("UNIONFS_FUZZ_SECONDS", "0"))
SETTINGS = settings(
    max_examples=200,
    deadline=None,
    derandomize=not FUZZ_SECONDS,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)


def repeat(run: Callable[[], None]) -> None:
    """Run once, and again and again while there is time to fuzz."""
    end = time.monotonic() + FUZZ_SECONDS
    while True:
        run()
        if time.monotonic() >= end:
            break
