# SPDX-License-Identifier: Apache-2.0
"""System calls by number, without the package `ctypes`, which takes longer to import than a container's first mount.

That package is some thirty classes around the extension `_ctypes`; here are the two that a system call needs. Every argument
is a machine word: an integer, the address of the bytes given, or a null pointer for None.
"""

from __future__ import annotations

import os
from _ctypes import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    CFuncPtr,
    _SimpleCData,
    addressof,
    dlopen,
    dlsym,
    get_errno,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    _Simple = _SimpleCData[int]
    Path = str | bytes | None
else:
    _Simple = _SimpleCData

_IS_X86_64 = os.uname().machine in ("x86_64", "AMD64")
_FILL = (0, 0, 0, 0, 0, 0)  # a call has at most six arguments, and ignores more than it has


class _Word(_Simple):
    _type_ = "l"


class _Pointer(_Simple):
    _type_ = "P"  # takes what can be an argument: integers, bytes, None


class _Byte(_Simple):
    _type_ = "c"


class _Function(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
    _argtypes_ = (_Pointer,) * 7
    _restype_ = _Word


class _PythonFunction(CFuncPtr):
    _flags_ = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI  # keeps the interpreter's lock
    _restype_ = None


_program = dlopen(None, os.RTLD_NOW)  # type: ignore[arg-type]  # None: what this process has loaded
_syscall = _Function(dlsym(_program, "syscall"))
_after_fork_child = _PythonFunction(dlsym(_program, "PyOS_AfterFork_Child"))


def number(x86_64: int, generic: int) -> int:
    """Return which of two numbers a system call has here; `generic` is the table of aarch64 and riscv64."""
    return x86_64 if _IS_X86_64 else generic


def call(which: int, *arguments: int | bytes | None, path: Path = None) -> int:
    """Make the system call `which`; raises OSError(errno, text, path)."""
    result: int = _syscall(which, *arguments, *_FILL[len(arguments) :])
    if result < 0:
        code = get_errno()
        raise OSError(code, os.strerror(code), path)
    return result


def address(buffer: bytearray) -> int:
    """Return where a buffer is, for a call that writes into it; it must not change its size and outlive the call."""
    return addressof(_Byte.from_buffer(buffer))


def forked(pid: int) -> int:
    """Return `pid`, the result of a call that forks, after telling the interpreter that it runs in a child if it is 0."""
    if pid == 0:
        _after_fork_child()
    return pid
