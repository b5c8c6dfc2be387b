# SPDX-License-Identifier: Apache-2.0
"""The container's root: its mounts, devices, masks and the way into it.

`prepare` (parent, on the host) → `build` (init, in its new namespaces, before the pivot) → `enter` (pivot) → `finish`
(after the console: sysctl, read-only mounts, masks). The module `plan` tells
the same steps as lines, without doing them.
"""

from __future__ import annotations

from runtime.oci.rootfs.prepare import Prepared, prepare
from runtime.oci.rootfs.steps import build, enter, finish

__all__ = ["Prepared", "build", "enter", "finish", "prepare"]
