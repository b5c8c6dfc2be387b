# SPDX-License-Identifier: Apache-2.0
"""A target mounted by an unprivileged user, for whom the clients work too."""

from __future__ import annotations

from collections.abc import Iterator

from bench.machine import unprivileged
from bench.targets.model import MANY, Mounted, Room, Target

SUFFIX = "-rootless"


class Rootless(Target):
    """Another target, in a user namespace: `room.user` says in whose."""

    rootless = True
    variant = True

    def __init__(self, inner: Target, name: str = "") -> None:
        self.name = (name or inner.name) + SUFFIX
        self.title = f"{inner.title}, unprivileged"
        self.package = inner.package
        self.features = inner.features - {MANY}
        self._inner = inner

    def missing(self) -> str:
        return self._inner.missing() or unprivileged.missing()

    def version(self) -> str:
        return self._inner.version()

    def mount(self, room: Room) -> Iterator[Mounted]:
        assert room.user is not None
        return self._inner.mount(room)
