# SPDX-License-Identifier: Apache-2.0
"""What is mounted in this namespace, as /proc/self/mountinfo tells it."""

from __future__ import annotations

from runtime.oci import files


class Line:
    """One mount: the `root` of `kind` that is mounted at `path`; `options` are the filesystem's, not the mount's."""

    __slots__ = ("kind", "options", "path", "root")

    def __init__(self, text: str) -> None:
        left, _, right = text.partition(" - ")
        fields = left.split(" ")
        self.root, self.path = _unescape(fields[3]), _unescape(fields[4])
        kind, _, rest = right.partition(" ")
        self.kind = kind
        self.options = rest.partition(" ")[2].split(",")


def read() -> list[Line]:
    """Return the mounts in the order they were made."""
    return [Line(line) for line in files.lines("/proc/self/mountinfo")]


def _unescape(text: str) -> str:
    """Undo the kernel's `\\ooo` (octal) for space, tab, newline and backslash."""
    if "\\" not in text:
        return text
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
