# SPDX-License-Identifier: Apache-2.0
"""The container's root: its mounts, devices, masks and the way into it.

`prepare` (parent, on the host) → `steps.build` (init, in its new namespaces, before the pivot) → `steps.enter` (pivot) →
`steps.finish` (after the console: sysctl, read-only mounts, masks). The module `plan` tells the same as lines, without doing it.
"""

from __future__ import annotations

from runtime.oci.rootfs.prepare import Prepared, prepare

__all__ = ["Prepared", "prepare"]
