# SPDX-License-Identifier: Apache-2.0
"""What a user wants of a container, as plain values: read from a command line, turned into config.json by bundle.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdMap:
    """One line of uid_map or gid_map: `size` ids from `inside` on stand for those from `outside` on."""

    inside: int
    outside: int
    size: int

    def has(self, number: int) -> bool:
        """Tell whether an id of the container is one of these."""
        return self.inside <= number < self.inside + self.size


@dataclass(frozen=True, slots=True)
class Wish:
    """A container to be. `memory` is in bytes, `cpus` in CPUs, `pids` in processes; None means no limit."""

    arguments: tuple[str, ...]
    environment: tuple[str, ...] = ()  # NAME=VALUE
    directory: str = "/"
    user: str = "0"  # USER[:GROUP], names or numbers
    terminal: bool = False
    window: tuple[int, int] | None = None  # rows, columns
    stdin: bool = False
    init: bool = False
    no_new_privileges: bool = False
    hostname: str = ""  # empty: the container's id
    host_network: bool = False
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    uid_map: tuple[IdMap, ...] = ()  # empty: no user namespace
    gid_map: tuple[IdMap, ...] = ()
    plain_rootfs: str | None = None  # a directory to bind instead of a union

    @property
    def user_namespace(self) -> bool:
        """Tell whether the container has a user namespace of its own."""
        return bool(self.uid_map)
