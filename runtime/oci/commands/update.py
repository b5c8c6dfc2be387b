# SPDX-License-Identifier: Apache-2.0
"""`unionrt update`: change the limits of a container."""

from __future__ import annotations

import os

from runtime.oci import config as configuration
from runtime.oci import jsontext, log, schema
from runtime.oci.failure import Failure, Step
from runtime.oci.options import Command, Option, Options
from runtime.oci.state import open_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.settings import Settings

# Option, section and key of linux.resources, kind of the value
_FIELDS = (
    ("blkio-weight", "blockIO", "weight", "number"),
    ("cpu-period", "cpu", "period", "number"),
    ("cpu-quota", "cpu", "quota", "number"),
    ("cpu-burst", "cpu", "burst", "number"),
    ("cpu-share", "cpu", "shares", "number"),
    ("cpu-rt-period", "cpu", "realtimePeriod", "number"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", "number"),
    ("cpuset-cpus", "cpu", "cpus", "text"),
    ("cpuset-mems", "cpu", "mems", "text"),
    ("cpu-idle", "cpu", "idle", "number"),
    ("memory", "memory", "limit", "size"),
    ("memory-reservation", "memory", "reservation", "size"),
    ("memory-swap", "memory", "swap", "size"),
    ("kernel-memory", "memory", "kernel", "size"),
    ("kernel-memory-tcp", "memory", "kernelTCP", "size"),
    ("pids-limit", "pids", "limit", "number"),
)
_REFUSED = ("l3-cache-schema", "mem-bw-schema")
_HELP = {
    "number": "set {}.{}",
    "text": "set {}.{}",
    "size": "set {}.{} (bytes, or with K, M, G; -1: no limit)",
}

COMMAND = Command(
    "update",
    "change the limits of a container",
    "ID",
    (
        Option("resources", "r", "FILE", "take linux.resources from this file, - for standard input"),
        *(
            Option(name, "", kind.upper(), _HELP[kind].format(section, key))
            for name, section, key, kind in _FIELDS
        ),
        *(Option(name, "", "TEXT", "not supported") for name in _REFUSED),
    ),
)

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def run(settings: Settings, options: Options) -> int:
    """Write what is given and leave all other limits. With --resources the other options are ignored."""
    for name in _REFUSED:
        if options.text(name):
            raise Failure(f"--{name}: Intel RDT is not supported")
    path = options.text("resources")
    resources = _read(path) if path else from_options(options)
    container = open_container(settings.root, options.arguments[0])
    with container.lock():
        status = container.status()
        if status == "stopped":
            raise Failure(f"cannot update the container {container.id}: it is stopped")
        group = container.group()
        group.update(resources)
        for warning in group.warnings:
            log.warning(warning)
    return 0


def from_options(options: Options) -> dict[str, Any]:
    """Return the part of linux.resources that the options ask for."""
    resources: dict[str, Any] = {}
    for name, section, key, kind in _FIELDS:
        text = options.text(name)
        if text:
            value: object = text
            if kind == "number":
                value = options.number(name)
            elif kind == "size":
                value = size(name, text)
            resources.setdefault(section, {})[key] = value
    with configuration.naming("the options"):
        configuration.conform(resources, schema.RESOURCES, "linux.resources")
    return resources


def size(name: str, text: str) -> int:
    """Return a number of bytes such as 512M, 64m, 1GB or -1. Another negative one is a slip, and must not lift a limit."""
    if text == "-1":
        return -1
    upper = text.upper().removesuffix("IB").removesuffix("B")
    factor = _UNITS.get(upper[-1:], 1)
    number = upper[:-1] if factor > 1 else upper
    try:
        value = int(number) * factor if number.isdecimal() else round(float(number) * factor)
    except (ValueError, OverflowError):
        value = -1
    if not 0 <= value < 1 << 63:
        raise Failure(f"--{name}: {text!r} is not a size", "write 1048576, 512M or -1")
    return value


def _read(path: str) -> dict[str, Any]:
    with Step("read the resources"):
        fd = 0 if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with open(fd, encoding="utf-8", closefd=fd != 0) as stream:
            text = stream.read()
    try:
        resources = jsontext.loads(text)
    except ValueError as error:
        raise Failure(f"the resources in {path} are not JSON: {error}") from None
    if not isinstance(resources, dict):
        raise Failure(
            f"the resources in {path} are no JSON object", "give what linux.resources holds in config.json"
        )
    with configuration.naming(path):
        configuration.conform(resources, schema.RESOURCES, "linux.resources")
    return resources
