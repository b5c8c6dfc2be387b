# SPDX-License-Identifier: Apache-2.0
"""Handing a filter's listener to the agent at `listenerPath`. The parent does it: the container's process may not any more."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.seccomp.filter import Filter


def send(seccomp: "Filter", state: "dict[str, Any]", pid: int, listener: int) -> None:
    """Send the container process state and the descriptor `listener` to the agent; closes neither.

    `state` is the state JSON, `pid` the process that loaded the filter, as the caller sees it. Raises OSError with the
    agent's path.
    """
    raise NotImplementedError
