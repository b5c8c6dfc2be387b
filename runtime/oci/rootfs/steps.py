# SPDX-License-Identifier: Apache-2.0
"""The steps of init that make the container's root."""

from __future__ import annotations

from runtime.oci.rootfs.prepare import Prepared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


def build(config: Config, prepared: Prepared) -> None:
    """Mount everything below the root and make the devices. Leaves the root as the current directory. Raises `Failure`."""
    raise NotImplementedError


def enter(config: Config, prepared: Prepared, *, no_pivot: bool = False) -> None:
    """Make what `build` made the root of this process (and forget the host's). Raises `Failure`."""
    raise NotImplementedError


def finish(config: Config, prepared: Prepared) -> None:
    """Set sysctls, then make read-only and hide what the config names. Nothing in the root can be changed after it."""
    raise NotImplementedError
