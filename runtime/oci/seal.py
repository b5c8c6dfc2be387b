# SPDX-License-Identifier: Apache-2.0
"""The final exec, by way of a tiny sealed program, so that /proc/self/exe in a container never is the host's interpreter."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from runtime.oci.seccomp import Filter


def execute(
    path: str,
    arguments: "Sequence[str]",
    environment: "Mapping[str, str]",
    *,
    report: int,
    gate: int = -1,
    seccomp: "Filter | None" = None,
) -> "NoReturn":
    """Become the program at `path`; what fails from here on goes to the descriptor `report` (see `reported`).

    With `gate`, wait until a byte can be read there; its end instead of a byte ends the process. With `seccomp`, load that
    filter just before (needs no_new_privs; not for one with a listener). Raises OSError if not even the stub runs.
    """
    raise NotImplementedError


def reported(data: bytes, path: str) -> OSError | None:
    """Return the error that was read from `report` until its end; None if the program runs."""
    raise NotImplementedError
