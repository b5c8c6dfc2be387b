# SPDX-License-Identifier: Apache-2.0
"""The device rules of a v2 group: a small BPF program that the kernel asks at every open and mknod of a device node.

The program keeps the requested accesses that no rule has decided yet. From the last rule to the first, each rule that
fits the device decides those it names: a denied one ends it, allowed ones are struck off; when none is left, the access is
granted.
"""

from __future__ import annotations

import errno
import os
import struct

from runtime.oci.cgroups.devices import ANY
from runtime.oci.cgroups.syscalls import (
    attach_device_program,
    attached_device_programs,
    load_device_program,
    open_program,
    program_name,
)
from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.cgroups.devices import Rule
    from runtime.oci.cgroups.directories import Directories

_NAME = b"unionrt_devices"

# What the kernel passes (struct bpf_cgroup_dev_ctx): u32 type | access << 16, u32 major, u32 minor.
_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERY_ACCESS = 7

_LOAD_U32, _MOVE, _MOVE_NUMBER, _AND_NUMBER, _SHIFT_RIGHT = 0x61, 0xBF, 0xB7, 0x57, 0x77
_JUMP, _JUMP_IF_NOT, _JUMP_IF_ANY_BIT, _EXIT = 0x05, 0x55, 0x45, 0x95
_RESULT, _CONTEXT, _LEFT, _TYPE, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def restrict(group: Directories, rules: list[Rule]) -> None:
    """Attach the program for the rules to the group, in place of an earlier one of ours; there is no moment without one.

    Without the right to load one nothing is done if the user is an ordinary one; else it is a Failure.
    """
    try:
        _attach(group.v2, rules)
    except OSError as error:
        if error.errno == errno.EPERM and group.rootless:
            return
        raise Failure(
            f"linux.resources.devices: cannot load the program that checks devices: {(error.strerror or '').lower()}",
            "this needs CAP_BPF and CAP_NET_ADMIN in the initial user namespace",
        ) from None


def _attach(directory: str, rules: list[Rule]) -> None:
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    program, old = -1, -1
    try:
        program = load_device_program(assemble(rules), _NAME)
        old = find(group)
        attach_device_program(group, program, old)
    finally:
        for fd in (group, program, old):
            if fd >= 0:
                os.close(fd)


def find(group: int) -> int:
    """Return a descriptor of the program of ours that is attached to the group behind a descriptor, -1 if there is none."""
    for identifier in attached_device_programs(group):
        program = open_program(identifier)
        if program_name(program) == _NAME:
            return program
        os.close(program)
    return -1


def assemble(rules: list[Rule]) -> bytes:
    """Return the program for rules in their order, the first of which says all."""
    code = [
        _instruction(_LOAD_U32, _LEFT, _CONTEXT, 0),
        _instruction(_MOVE, _TYPE, _LEFT),
        _instruction(_AND_NUMBER, _TYPE, number=0xFFFF),
        _instruction(_SHIFT_RIGHT, _LEFT, number=16),
        _instruction(_LOAD_U32, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_U32, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(rules[1:]):
        code += _rule(rule)
    code += _answer(rules[0][0])
    return b"".join(code)


def _rule(rule: Rule) -> list[bytes]:
    allow, kind, major, minor, access = rule
    bits = sum(_ACCESS[word] for word in set(access))
    if allow:
        decision = [_instruction(_AND_NUMBER, _LEFT, number=_EVERY_ACCESS & ~bits)]
        decision += [_instruction(_JUMP_IF_NOT, _LEFT, offset=2), *_answer(True)]
    else:
        decision = [
            _instruction(_JUMP_IF_ANY_BIT, _LEFT, offset=1, number=bits),
            _instruction(_JUMP, offset=2),
        ]
        decision += _answer(False)
    conditions = [(_MAJOR, major), (_MINOR, minor)]
    if kind != "a":
        conditions.insert(0, (_TYPE, _TYPES[kind]))
    conditions = [(register, number) for register, number in conditions if number != ANY]
    beyond = len(decision) + len(conditions)
    checks = [
        _instruction(_JUMP_IF_NOT, register, offset=beyond - place, number=number)
        for place, (register, number) in enumerate(conditions, 1)
    ]
    return checks + decision


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_MOVE_NUMBER, _RESULT, number=int(allow)), _instruction(_EXIT)]


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, *, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, target | source << 4, offset, number)
