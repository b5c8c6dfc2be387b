# SPDX-License-Identifier: Apache-2.0
"""The process of a container, from `process` of config.json to the user's program.

The parent calls `prepare` before it forks and `limit` once the child exists. The child calls `become.become` when its root is
final, and `launch.execute` after `start`; between the two it is the user, without a way back.
"""

from runtime.oci.process.prepared import Prepared, announced_descriptors, limit, prepare

__all__ = ["Prepared", "announced_descriptors", "limit", "prepare"]
