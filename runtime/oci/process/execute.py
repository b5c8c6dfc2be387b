# SPDX-License-Identifier: Apache-2.0
"""From a process that already is the user to the user's program."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runtime.oci.process.prepared import Prepared


def execute(prepared: "Prepared") -> "NoReturn":
    """Close every descriptor but 0-2 and the preserved ones, reset signals, and become the program."""
    raise NotImplementedError
