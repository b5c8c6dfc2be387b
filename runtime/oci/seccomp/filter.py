# SPDX-License-Identifier: Apache-2.0
"""The filter of one container: what the child loads, and who listens to it."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Filter:
    """A compiled profile: `program` (struct sock_filter[]), `flags` of seccomp(2), and the agent's socket, if any."""

    __slots__ = ("flags", "listener_metadata", "listener_path", "optional_flags", "program")

    def __init__(self, program: bytes, flags: int, optional_flags: int, path: str, metadata: str) -> None:
        self.program = program
        self.flags = flags
        self.optional_flags = optional_flags  # dropped where the kernel does not know them
        self.listener_path = path
        self.listener_metadata = metadata

    @property
    def listener(self) -> bool:
        """Whether some rule asks an agent."""
        return bool(self.listener_path)


def prepare(
    config: "dict[str, Any]", cache: str, debug: "Callable[[str], None]" = lambda _text: None
) -> Filter | None:
    """Return the filter of a container, None if its config.json has none. Called in the parent.

    `cache` is the directory of compiled profiles, made when missing; `debug` hears of system calls nobody knows.
    Raises Failure with the name of the key that is wrong.
    """
    raise NotImplementedError
