# SPDX-License-Identifier: Apache-2.0
"""Namespaces: which ones a container gets."""

from runtime.engine.spec import ContainerSpec
from runtime.oci import syscalls


def flags(spec: ContainerSpec) -> int:
    """Return the CLONE_NEW* flags of `spec`, all but the user namespace, which must come first and alone."""
    wanted = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS
    wanted |= syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWCGROUP
    return wanted if spec.host_network else wanted | syscalls.CLONE_NEWNET
