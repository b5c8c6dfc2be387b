# SPDX-License-Identifier: Apache-2.0
"""An interrupt that comes in a callback, where Python drops what is raised."""

import subprocess
import sys

SCRIPT = """
import os, signal, weakref
from bench.machine import interrupt

class Thing:
    pass

interrupt.check()
interrupt.expect()
thing = Thing()
reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
del thing
print("went on")
interrupt.check()
print("was lost")
"""


def test_interrupt_in_a_callback_is_raised_at_the_next_check() -> None:
    """The exception itself is dropped there."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.stdout == "went on\n" and done.returncode != 0
    assert done.stderr.rstrip().endswith("KeyboardInterrupt") and "ignored" not in done.stderr
