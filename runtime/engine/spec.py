# SPDX-License-Identifier: Apache-2.0
"""What a container is to be, as plain values: decided by the caller, executed by the other modules of this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.oci.seccomp import Filter

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a container's cgroup; None means none. `memory` is in bytes, `cpus` in CPUs, `pids` in processes."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None

    def any(self) -> bool:
        """Tell whether at least one limit is asked for."""
        return (self.memory, self.cpus, self.pids) != (None, None, None)


@dataclass(frozen=True, slots=True)
class IdMap:
    """One line of uid_map or gid_map: `size` ids from `inside` on stand for those from `outside` on."""

    inside: int
    outside: int
    size: int


@dataclass(frozen=True, slots=True)
class Process:
    """The program that runs in the container."""

    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    directory: str = "/"
    user: str = "0"
    terminal: bool = False
    window: tuple[int, int] | None = None  # rows, columns
    stdin: bool = False
    no_new_privileges: bool = False


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything that the container's init has to do."""

    id: str
    process: Process
    hostname: str
    limits: Limits = field(default_factory=Limits)
    host_network: bool = False
    uid_map: tuple[IdMap, ...] = ()  # empty: no user namespace
    gid_map: tuple[IdMap, ...] = ()
    hidden: tuple[str, ...] = ()  # directories that an empty one covers, if they exist
    plain_rootfs: str | None = None  # a directory to bind instead of mounting a union
    filter: Filter | None = None  # of system calls, for every process of the container

    @property
    def user_namespace(self) -> bool:
        """Tell whether the container has a user namespace of its own."""
        return bool(self.uid_map)
