# SPDX-License-Identifier: Apache-2.0
"""The few functions of libseccomp that turn rules into a program. Loaded only when a profile is not in the cache."""

from __future__ import annotations

import ctypes
import errno
import os

_LIBRARY = "libseccomp.so.2"
_ERROR = -1  # __NR_SCMP_ERROR; other negative numbers are system calls that only other architectures have
_OPTIMIZE = 8  # SCMP_FLTATR_CTL_OPTIMIZE
_BINARY_TREE = 2
_MOST_COMPARISONS = 6

ARCH_NATIVE = 0
ARCH_X32 = 0x4000003E


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class Library:
    """libseccomp. Raises OSError when it is not installed."""

    def __init__(self) -> None:
        library = ctypes.CDLL(_LIBRARY)
        self._init = library.seccomp_init
        self._init.argtypes, self._init.restype = [ctypes.c_uint32], ctypes.c_void_p
        self._release = library.seccomp_release
        self._release.argtypes, self._release.restype = [ctypes.c_void_p], None
        self._arch_native = library.seccomp_arch_native
        self._arch_native.argtypes, self._arch_native.restype = [], ctypes.c_uint32
        self._arch_resolve = library.seccomp_arch_resolve_name
        self._arch_resolve.argtypes, self._arch_resolve.restype = [ctypes.c_char_p], ctypes.c_uint32
        self._arch_add = library.seccomp_arch_add
        self._arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
        self._resolve = library.seccomp_syscall_resolve_name_arch
        self._resolve.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
        self._attribute = library.seccomp_attr_set
        self._attribute.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
        self._rule = library.seccomp_rule_add_array
        self._rule.argtypes = [
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Comparison),
        ]
        self._export = library.seccomp_export_bpf
        self._export.argtypes = [ctypes.c_void_p, ctypes.c_int]

    def native(self) -> int:
        """Return the token of the architecture that this process runs on."""
        return int(self._arch_native())

    def architecture(self, name: str) -> int:
        """Return the token of an architecture, which but for x32 is its AUDIT_ARCH; 0 if unknown."""
        return int(self._arch_resolve(name.encode("utf-8", "surrogateescape")))

    def number(self, name: str, architecture: int = ARCH_NATIVE) -> int | None:
        """Return the number of a system call; negative if only other architectures have it, None if nobody knows it."""
        number = int(self._resolve(architecture, name.encode("utf-8", "surrogateescape")))
        return None if number == _ERROR else number

    def open(self, default_action: int) -> Rules:
        """Begin a filter for the native architecture."""
        return Rules(self, _valid(self._init(default_action)))


class Rules:
    """A filter being written. `close` it when done."""

    def __init__(self, library: Library, context: int) -> None:
        self._library = library
        self._context = context

    def close(self) -> None:
        """Free it."""
        self._library._release(self._context)

    def add_architecture(self, token: int) -> None:
        """Filter the system calls of another architecture too."""
        _check(self._library._arch_add(self._context, token), allowed=errno.EEXIST)

    def search_by_tree(self) -> None:
        """Emit a tree instead of a list: a call then costs the filter some nine comparisons, not hundreds."""
        self._library._attribute(
            self._context, _OPTIMIZE, _BINARY_TREE
        )  # before libseccomp 2.5 it stays a list

    def add(self, action: int, number: int, comparisons: list[tuple[int, int, int, int]]) -> None:
        """Add a rule: `action` if all of `comparisons` (argument, operator, value, second value) hold."""
        if len(comparisons) > _MOST_COMPARISONS:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        array = (_Comparison * len(comparisons))(*(_Comparison(*values) for values in comparisons))
        # EEXIST: the very same rule is there already
        _check(
            self._library._rule(self._context, action, number, len(comparisons), array), allowed=errno.EEXIST
        )

    def program(self) -> bytes:
        """Return the filter as struct sock_filter[]."""
        with open(os.memfd_create("seccomp", os.MFD_CLOEXEC), "rb") as stream:
            _check(self._library._export(self._context, stream.fileno()))
            stream.seek(0)
            return stream.read()


def _check(result: int, allowed: int = 0) -> None:
    if result < 0 and -result != allowed:
        raise OSError(-result, os.strerror(-result))


def _valid(context: int | None) -> int:
    if not context:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return context
