# SPDX-License-Identifier: Apache-2.0
"""The filter of one container: what the child loads, and who listens to it."""

from __future__ import annotations

import sys

from runtime.oci.failure import Failure
from runtime.oci.seccomp import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ANNOTATION = "run.oci.seccomp_bpf_data"  # a program compiled elsewhere, in base64
_STRICT = "run.oci.seccomp_fail_unknown_syscall"

_LOG, _SPEC_ALLOW, _NEW_LISTENER, _WAIT_KILLABLE_RECV = 2, 4, 8, 32
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # for the other threads of a process; ours has one
    "SECCOMP_FILTER_FLAG_LOG": _LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": _SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": _WAIT_KILLABLE_RECV,
}
_INSTRUCTION, _LONGEST = 8, 4096
_VERSION = 1  # of the programs that compiler.py makes: to be counted up when it changes

_TARGET = getattr(sys.implementation, "_multiarch", sys.platform)  # of the interpreter: what "native" means


class Filter:
    """A compiled profile: `program` (struct sock_filter[]), `flags` of seccomp(2), and the agent's socket, if any."""

    __slots__ = ("flags", "listener_metadata", "listener_path", "program")

    def __init__(self, program: bytes, flags: int, path: str = "", metadata: str = "") -> None:
        self.program = program
        self.flags = flags
        self.listener_path = path
        self.listener_metadata = metadata

    @property
    def listener(self) -> bool:
        """Whether some rule asks an agent."""
        return bool(self.listener_path)


def prepare(
    config: dict[str, Any], directory: str, debug: Callable[[str], None] = lambda _text: None
) -> Filter | None:
    """Return the filter of a container, None if its config.json has none. Called in the parent.

    `directory` is that of compiled profiles, made when missing; `debug` hears of system calls nobody knows.
    Raises Failure with the name of the key that is wrong.
    """
    section = (config.get("linux") or {}).get("seccomp")
    compiled = (config.get("annotations") or {}).get(ANNOTATION)
    if section is None and compiled is None:
        return None
    if section is not None and not isinstance(section, dict):
        raise Failure("linux.seccomp is not an object")
    section = section or {}
    path, metadata = _listener(section)
    flags = _flags(section, listener=bool(path))
    debug(f"seccomp filter flags: {flags}")
    if (config.get("annotations") or {}).get(_STRICT) in ("1", "true"):
        directory, debug = "", _refuse
    program = _decode(compiled) if compiled is not None else _compile(section, directory, debug)
    return Filter(program, flags, path, metadata)


def check(config: dict[str, Any]) -> None:
    """Raise what `prepare` would, without asking libseccomp."""
    section = (config.get("linux") or {}).get("seccomp")
    compiled = (config.get("annotations") or {}).get(ANNOTATION)
    if section is not None:
        from runtime.oci.seccomp import profile

        _flags(section, listener=bool(_listener(section)[0]))
        if compiled is None:
            profile.read(section)
    if compiled is not None:
        _decode(compiled)


def _compile(section: dict[str, Any], directory: str, debug: Callable[[str], None]) -> bytes:
    names = ("defaultAction", "defaultErrnoRet", "architectures", "syscalls")
    name = cache.key(_VERSION, _TARGET, [section.get(name) for name in names])
    program = cache.load(directory, name) if directory else None
    if program is None:
        # Checked and compiled before, else it were in the cache.
        from runtime.oci.seccomp import compiler, profile

        program = compiler.compile_profile(profile.read(section), debug)
        if directory:
            cache.store(directory, name, program)
    return program


def _refuse(text: str) -> None:
    raise Failure(f"linux.seccomp: {text.removesuffix(' ignored')}", f"the annotation {_STRICT} forbids it")


def _listener(section: dict[str, Any]) -> tuple[str, str]:
    path, metadata = section.get("listenerPath") or "", section.get("listenerMetadata") or ""
    if not isinstance(path, str) or not isinstance(metadata, str):
        raise Failure("linux.seccomp.listenerPath and listenerMetadata are text")
    actions = [rule.get("action") for rule in section.get("syscalls") or [] if isinstance(rule, dict)]
    if "SCMP_ACT_NOTIFY" not in (section.get("defaultAction"), *actions):
        if metadata and not path:
            raise Failure("linux.seccomp.listenerMetadata is set, but not listenerPath")
        return "", ""
    if not path:
        raise Failure("linux.seccomp.listenerPath is missing, but SCMP_ACT_NOTIFY is used")
    return path, metadata


def _flags(section: dict[str, Any], *, listener: bool) -> int:
    words = section.get("flags")
    if words is None:
        # The mitigation of speculative store bypass costs every program of the container, and few runtimes ask for it.
        words = ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"]
    flags = _NEW_LISTENER if listener else 0
    for word in words:
        if word not in FLAGS:
            raise Failure(f"linux.seccomp.flags: {word!r} is not known")
        flags |= FLAGS[word]
    return flags if listener else flags & ~_WAIT_KILLABLE_RECV  # which the kernel takes with a listener only


def _decode(text: object) -> bytes:
    import binascii

    try:
        program = binascii.a2b_base64(text if isinstance(text, str) else "", strict_mode=True)
    except ValueError as error:
        raise Failure(f"annotation {ANNOTATION}: {error}") from None
    if not program or len(program) % _INSTRUCTION or len(program) > _LONGEST * _INSTRUCTION:
        raise Failure(f"annotation {ANNOTATION} is not a BPF program of 1 to {_LONGEST} instructions")
    return program
