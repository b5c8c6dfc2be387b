# SPDX-License-Identifier: Apache-2.0
"""The root's steps as lines for people (`run --dry-run`)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Config = dict[str, Any]


def plan(config: Config) -> list[str]:
    """Return what `build`, `enter` and `finish` will do, in order."""
    raise NotImplementedError
