# SPDX-License-Identifier: Apache-2.0
"""System call filters: from `linux.seccomp` of config.json to a program that the kernel has accepted.

The parent calls `prepare`, which compiles a profile once and reads it from a cache from then on; the child calls `load`.
A listener's descriptor comes back to the parent, which hands it to the agent with `notify.send`.
"""

from runtime.oci.seccomp.filter import Filter, prepare
from runtime.oci.seccomp.load import load

__all__ = ["Filter", "load", "prepare"]
