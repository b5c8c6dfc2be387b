# SPDX-License-Identifier: Apache-2.0
"""config.json: read, checked once, and from then on relied on.

A key that nobody knows is ignored, as the specification demands; one that we know and cannot obey is refused by name. Keys
that are null are removed, so that a key that is there has its type.
"""

from __future__ import annotations

import os

from runtime.oci import files, jsontext, schema
from runtime.oci.failure import Failure, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Config = dict[str, Any]

_NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
_COMPILED = "run.oci.seccomp_bpf_data"  # annotation that comes instead of linux.seccomp, or of compiling it
_CLOCKS = ("monotonic", "boottime")
_PROPAGATIONS = (
    "",
    "shared",
    "slave",
    "private",
    "unbindable",
    "rshared",
    "rslave",
    "rprivate",
    "runbindable",
)
_DEVICE_TYPES = ("c", "b", "u", "p")
_CALLED = "config.json: "
_WORDS = {str: "a string", bool: "true or false"}


def load(path: str, terminal_check: Callable[[bool], None] | None = None) -> Config:
    """Return the checked configuration in the file `path`.

    `terminal_check` gets process.terminal and looks at the command line: what is wrong there is told first.
    """
    with Step(
        "read the configuration", "give --bundle the directory that holds it, or make one with `unionrt spec`"
    ):
        text = files.read(path)
    with naming(path):
        config = parse(text, path, terminal_check)
        check(config)
    return config


class naming:
    """Around checks of what was read from the file `path`: failures name it, whatever it is called."""

    __slots__ = ("_name",)

    def __init__(self, path: str) -> None:
        self._name = "standard input" if path == "-" else os.path.basename(path)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, Failure) and error.message.startswith(_CALLED):
            message = f"{self._name}: {error.message.removeprefix(_CALLED)}"
            raise Failure(message, error.hint, status=error.status) from None


def parse(text: str, path: str, terminal_check: Callable[[bool], None] | None = None) -> Config:
    """Return the object that `text` holds, that conforms to the schema."""
    try:
        config = jsontext.loads(text)
    except ValueError as error:
        raise Failure(f"read the configuration: {path}: {error}") from None
    process = config.get("process") if isinstance(config, dict) else None
    if terminal_check is not None and isinstance(process, dict):
        terminal_check(process.get("terminal") is True)
    conform(config, schema.CONFIG, "")
    value: Config = config
    return value


def conform(value: Any, wanted: Any, place: str) -> None:
    """Raise a Failure that names the first key that is missing or of the wrong type; removes keys that are null."""
    if wanted is int:
        wanted = schema.ANY_INTEGER
    if isinstance(wanted, type):
        if not isinstance(value, wanted):
            raise Failure(f"config.json: {place} is not {_WORDS[wanted]}")
        if isinstance(value, str):
            _check_text(value, place)
    elif isinstance(wanted, schema.Number):
        if not isinstance(value, int) or isinstance(value, bool):
            raise Failure(f"config.json: {place} is not an integer")
        if not wanted.least <= value <= wanted.most:
            raise Failure(f"config.json: {place} {value} is out of range")
    elif isinstance(wanted, list):
        if not isinstance(value, list):
            raise Failure(f"config.json: {place} is not a list")
        for index, item in enumerate(value):
            conform(item, wanted[0], f"{place}[{index}]")
    else:
        _conform_object(value, wanted, place)


def _check_text(text: str, place: str) -> None:
    """Refuse what no system call takes: it would be cut at a NUL, and another path used than the one that was checked."""
    if "\0" in text and not place.startswith("annotations"):
        raise Failure(f"config.json: {place} has a NUL in it")
    if not text.isascii():
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise Failure(f"config.json: {place} is not Unicode text") from None


def _conform_object(value: Any, wanted: Any, place: str) -> None:
    if not isinstance(value, dict):
        raise Failure(f"config.json: {place or 'the whole'} is not an object")
    any_key = isinstance(wanted, schema.Map)
    shapes = wanted.keys if isinstance(wanted, schema.Whole) else wanted
    for key in list(value):
        if any_key:
            _check_text(key, place)
        if any_key or key in shapes:
            if value[key] is None:
                del value[key]
            else:
                conform(value[key], wanted.value if any_key else shapes[key], f"{place}.{key}".lstrip("."))
    if isinstance(wanted, schema.Whole):
        for key in wanted.needed:
            if key not in value:
                raise Failure(f"config.json: {place}.{key} is missing")


def has_filter(config: Config) -> bool:
    """Tell whether every process of the container is to have a seccomp filter."""
    return bool(config.get("linux", {}).get("seccomp")) or _COMPILED in config.get("annotations", {})


def check(config: Config) -> None:
    """Raise a Failure for what cannot be: missing keys, contradictions, what we do not support."""
    version = config.get("ociVersion", "")
    if not version:
        raise Failure("config.json: ociVersion is missing")
    if not version.startswith("1."):
        raise Failure(f"config.json: ociVersion {version!r} is not supported", "use 1.x")
    if not config.get("root", {}).get("path"):
        raise Failure("config.json: root.path is missing")
    _check_unions(config)
    _check_process(config)
    config.setdefault("mounts", [])
    linux = config.setdefault("linux", {})
    _check_namespaces(config, linux)
    _check_linux(linux)


def _check_unions(config: Config) -> None:
    """A union without a socket has nobody who serves it."""
    root = config["root"]
    if root.get("type", "") not in ("", "unionfs"):
        raise Failure(
            f"config.json: root.type {root['type']!r} is not known", "leave it out, or give unionfs"
        )
    places = [
        ("root", root),
        *((f"mounts[{at}]", entry) for at, entry in enumerate(config.get("mounts", ()))),
    ]
    for place, entry in places:
        if entry.get("type") == "unionfs" and not entry.get("source"):
            raise Failure(
                f"config.json: {place}.source is missing", "it names the socket of the union's server"
            )


def _check_process(config: Config) -> None:
    process = config.get("process")
    if process is None:
        raise Failure("config.json: process is missing")
    process.setdefault("user", {})
    if not process.get("args"):
        raise Failure("config.json: process.args must not be empty")
    if not process.get("cwd", "").startswith("/"):
        raise Failure(f"config.json: process.cwd {process.get('cwd', '')!r} is not an absolute path")


def _check_namespaces(config: Config, linux: Config) -> None:
    entries = linux.setdefault("namespaces", [])
    kinds = [entry.get("type", "") for entry in entries]
    for kind in kinds:
        if kind not in _NAMESPACES:
            raise Failure(
                f"config.json: linux.namespaces: unknown type {kind!r}", f"known are {', '.join(_NAMESPACES)}"
            )
        if kinds.count(kind) > 1:
            raise Failure(f"config.json: linux.namespaces has {kind!r} twice")
    new = {entry["type"] for entry in entries if not entry.get("path")}
    for key in ("hostname", "domainname"):
        if config.get(key) and "uts" not in kinds:
            raise Failure(
                f"config.json: {key} needs a uts namespace", "add one, or it would change the host's"
            )
    offsets = linux.get("timeOffsets", {})
    if offsets and "time" not in new:
        raise Failure("config.json: linux.timeOffsets needs a new time namespace")
    for clock in offsets:
        if clock not in _CLOCKS:
            raise Failure(
                f"config.json: linux.timeOffsets: unknown clock {clock!r}", "known are " + ", ".join(_CLOCKS)
            )
    if "user" not in kinds and (linux.get("uidMappings") or linux.get("gidMappings")):
        raise Failure("config.json: linux.uidMappings and gidMappings need a user namespace")
    if linux.get("netDevices") and "network" not in kinds:
        raise Failure("config.json: linux.netDevices needs a network namespace")


def _check_linux(linux: Config) -> None:
    if linux.get("intelRdt"):
        raise Failure("config.json: linux.intelRdt is not supported", "remove it")
    if linux.get("rootfsPropagation", "") not in _PROPAGATIONS:
        raise Failure(f"config.json: linux.rootfsPropagation: unknown word {linux['rootfsPropagation']!r}")
    for index, device in enumerate(linux.get("devices", ())):
        _check_device(device, f"linux.devices[{index}]")
    for key in ("maskedPaths", "readonlyPaths"):
        for path in linux.get(key, ()):
            if not path.startswith("/"):
                raise Failure(f"config.json: linux.{key}: {path!r} is not an absolute path")


def _check_device(device: Config, place: str) -> None:
    if device.get("type") not in _DEVICE_TYPES:
        raise Failure(
            f"config.json: {place}.type {device.get('type')!r} is none of {', '.join(_DEVICE_TYPES)}"
        )
    if not device.get("path"):
        raise Failure(f"config.json: {place}.path is missing")
