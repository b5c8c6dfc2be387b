# SPDX-License-Identifier: Apache-2.0
"""System calls that are newer than a profile answer ENOSYS, not the profile's error.

A profile with a list of what is allowed was written against some kernel. A C library that tries a later call first falls back
on ENOSYS, but gives up on EPERM. So a few instructions before the filter compare the call's number with the largest that the
profile names: system calls are numbered in the order in which they are added. runc does the same.
"""

from __future__ import annotations

import errno
import struct

from runtime.oci.seccomp.profile import ERRNO

_LOAD, _JUMP, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_X32_BIT = 0x40000000
AUDIT_ARCH_X86_64 = 0xC000003E


def prefix(largest: dict[int, int], largest_x32: int = 0) -> bytes:
    """Return instructions to stand before a filter. `largest` maps AUDIT_ARCH_* to the largest number the profile names.

    `largest_x32`, with its bit, is that of x32, which shares its AUDIT_ARCH with x86_64; 0 if the filter is not for x32.
    """
    sections = [_section(architecture, number, largest_x32) for architecture, number in largest.items()]
    length = 1 + sum(map(len, sections)) + 2
    instructions: list[tuple[int, int, int, int]] = [(_LOAD, 0, 0, _ARCHITECTURE)]
    for section in sections:
        for operation, if_true, if_false, value in section:
            here = len(instructions)
            targets = {_FILTER: length - here - 1, _REFUSE: length - here - 2}
            instructions.append(
                (operation, targets.get(if_true, if_true), targets.get(if_false, if_false), value)
            )
    instructions += [(_JUMP, 0, 0, 1), (_RETURN, 0, 0, ERRNO | errno.ENOSYS)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


_FILTER, _REFUSE = -1, -2  # jump targets to be resolved: past the prefix, its last instruction


def _section(architecture: int, largest: int, largest_x32: int) -> list[tuple[int, int, int, int]]:
    """Return (operation, if true, if false, value) of one architecture; the accumulator holds the call's one."""
    body = [(_LOAD, 0, 0, _NUMBER)]
    if architecture == AUDIT_ARCH_X86_64 and largest_x32:
        body += [(_AT_LEAST, 1, 0, _X32_BIT), (_GREATER, _REFUSE, _FILTER, largest)]
        body.append((_GREATER, _REFUSE, _FILTER, largest_x32))
    elif architecture == AUDIT_ARCH_X86_64:  # libseccomp's own code knows what to do with x32
        body += [(_AT_LEAST, _FILTER, 0, _X32_BIT), (_GREATER, _REFUSE, _FILTER, largest)]
    else:
        body.append((_GREATER, _REFUSE, _FILTER, largest))
    return [(_EQUAL, 0, len(body), architecture), *body]
