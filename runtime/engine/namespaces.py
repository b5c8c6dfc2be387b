# SPDX-License-Identifier: Apache-2.0
"""Namespaces: which ones a container gets, and their id maps."""

import os
from collections.abc import Sequence

from runtime.engine.spec import ContainerSpec, IdMap
from runtime.oci import files, syscalls


def flags(spec: ContainerSpec) -> int:
    """Return the CLONE_NEW* flags of `spec`, all but the user namespace, which must come first and alone."""
    wanted = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS
    wanted |= syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWCGROUP
    return wanted if spec.host_network else wanted | syscalls.CLONE_NEWNET


def write_id_maps(pid: int, uid_map: Sequence[IdMap], gid_map: Sequence[IdMap]) -> None:
    """Give the new user namespace of `pid` its ids; to be called from the parent namespace.

    Without CAP_SETGID the kernel wants setgroups denied before gid_map (user_namespaces(7)).
    """
    if os.geteuid() != 0:
        files.write(f"/proc/{pid}/setgroups", "deny")
    files.write(f"/proc/{pid}/gid_map", _lines(gid_map))
    files.write(f"/proc/{pid}/uid_map", _lines(uid_map))


def _lines(maps: Sequence[IdMap]) -> str:
    return "".join(f"{m.inside} {m.outside} {m.size}\n" for m in maps)
