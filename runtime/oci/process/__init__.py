# SPDX-License-Identifier: Apache-2.0
"""The process of a container, from `process` of config.json to the user's program.

The parent calls `prepare` before it forks and `limit` once the child exists; the child calls `become` when its root is
final, and `execute` after `start`. Between `become` and `execute` the child is the user, without a way back.
"""

from runtime.oci.process.launch import execute
from runtime.oci.process.prepared import Prepared, announced_descriptors, become, limit, prepare

__all__ = ["Prepared", "announced_descriptors", "become", "execute", "limit", "prepare"]
