# SPDX-License-Identifier: Apache-2.0
"""Targets without a server: a plain directory, a full copy of the layers, and the kernel's overlayfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.machine.client import MeasurementError
from bench.machine.layers import build_plain
from bench.targets.model import MANY, REPLACE, Mounted, Room, Target, unmount


class Plain(Target):
    """A directory without any union, filled by the same writes as the layers."""

    name = "native"
    title = "plain directory"
    features = frozenset({MANY, REPLACE})

    def mount(self, room: Room) -> Iterator[Mounted]:
        directory = room.kept or room.make("plain")
        if not directory.exists() or room.kept is None:
            directory.mkdir(parents=True, exist_ok=True)
            build_plain(directory, room.builds)
        yield Mounted(directory, directory, "plain directory")


class Copied(Target):
    """The `vfs` storage driver of container engines: every container gets a full copy of its layers."""

    name = "vfs"
    title = "full copy of all layers"
    package = "coreutils"
    features = frozenset({REPLACE})

    def mount(self, room: Room) -> Iterator[Mounted]:
        directory = room.kept or room.make("copy")
        if not directory.exists() or room.kept is None:
            directory.mkdir(parents=True, exist_ok=True)
            for layer in reversed(room.layers.roots):
                subprocess.run(["cp", "-a", f"{layer}/.", directory], check=True)
        yield Mounted(directory, directory, "cp -a of each layer")


class Overlay(Target):
    """The kernel's overlayfs."""

    title = "kernel overlayfs"
    package = "the kernel (CONFIG_OVERLAY_FS)"

    def __init__(self, name: str, extra: str = "") -> None:
        self.name = name
        self.variant = bool(extra)
        self.features = Target.features - {MANY} if extra else Target.features
        self._extra = extra

    def missing(self) -> str:
        known = "\toverlay\n" in Path("/proc/filesystems").read_text()
        if not known:
            subprocess.run(["modprobe", "overlay"], capture_output=True)
            known = "\toverlay\n" in Path("/proc/filesystems").read_text()
        return "" if known else f"this kernel has no overlayfs; it comes with {self.package}"

    def version(self) -> str:
        return f"Linux {os.uname().release}"

    def mount(self, room: Room) -> Iterator[Mounted]:
        upper, work, target = room.make("upper"), room.make("work"), room.make("mount")
        # Relative, as container engines do it: mount(2) takes one page of options, too little for 128 full paths.
        lower = ":".join(layer.name for layer in room.layers.roots)
        above = os.path.relpath(room.directory, room.layers.roots[0].parent)
        options = f"{self._extra}lowerdir={lower},upperdir={above}/upper,workdir={above}/{work.name}"
        inside = ("env", "-C", room.layers.roots[0].parent)
        done = subprocess.run(
            room.command(*inside, "mount", "-t", "overlay", "overlay", "-o", options, target),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise MeasurementError("failed", done.stderr.strip().partition("\n")[0])
        try:
            said = f"{self._extra}lowerdir=…×{len(room.layers.roots)}"
            yield Mounted(target, upper, said, user=room.user)
        finally:
            unmount(room, target)
