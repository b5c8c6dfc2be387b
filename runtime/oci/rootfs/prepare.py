# SPDX-License-Identifier: Apache-2.0
"""What the parent does for the root, on the host and with its rights, before the container's namespaces exist."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


class Prepared:
    """The checked mounts of a container and the descriptors that only the parent can open."""

    __slots__ = ("root",)

    def __init__(self, root: str) -> None:
        self.root = root  # absolute path on the host

    def close(self) -> None:
        """Close what `prepare` opened (in the parent, after the fork)."""


def prepare(config: Config, bundle: str, *, rootless: bool) -> Prepared:
    """Check the mounts and open what needs the parent's rights. Raises `Failure`."""
    raise NotImplementedError
