# SPDX-License-Identifier: Apache-2.0
"""Where this machine's cgroup hierarchies are mounted: v1, v2, or hybrid.

Hybrid is v1 with a v2 hierarchy beside it. Controllers that no v1 hierarchy claims (often hugetlb) are then v2's, and
limits for them are written there; all the rest goes to v1, except the kill of all processes, which only v2 has.
"""

from __future__ import annotations

from runtime.oci import files

_USUAL = "/sys/fs/cgroup"


class Layout:
    """`v1` maps a controller, or "name=..." of a hierarchy without one, to its mount point; `v2` is v2's or empty."""

    __slots__ = ("v1", "v2")

    def __init__(self, v1: dict[str, str], v2: str) -> None:
        self.v1 = v1
        self.v2 = v2

    @property
    def unified(self) -> bool:
        """Tell whether there is v2 alone."""
        return bool(self.v2) and not self.v1

    @property
    def hybrid(self) -> bool:
        """Tell whether both versions are mounted."""
        return bool(self.v2) and bool(self.v1)


def detect(mountinfo: str | None = None) -> Layout:
    """Return the layout that /proc/self/mountinfo (or the given text of one) shows.

    A mount below /sys/fs/cgroup wins over one elsewhere, a later one over an earlier one on the same place.
    """
    if mountinfo is None:
        mountinfo = files.read("/proc/self/mountinfo")
    v1: dict[str, str] = {}
    v2 = ""
    for line in mountinfo.split("\n"):  # other line ends may be part of a name
        if " - cgroup" not in line:
            continue
        left, _, right = line.partition(" - ")
        kind, _source, options = right.split(" ", 2)
        path = _unescape(left.split(" ", 5)[4])
        if kind == "cgroup2":
            v2 = _better(v2, path)
        elif kind == "cgroup":
            for word in _controllers(options):
                v1[word] = _better(v1.get(word, ""), path)
    if v2 == _USUAL:  # mounted over a v1 tree, it hides all of it
        v1 = {word: path for word, path in v1.items() if not path.startswith(_USUAL + "/")}
    return Layout(v1, v2)


def _better(old: str, new: str) -> str:
    return old if old.startswith(_USUAL) and not new.startswith(_USUAL) else new


def _controllers(options: str) -> list[str]:
    """Return the controllers and the name among the super block's options."""
    return [
        word
        for word in options.split(",")
        if word.startswith("name=") or ("=" not in word and word not in _FLAGS)
    ]


_FLAGS = (
    "rw",
    "ro",
    "xattr",
    "noprefix",
    "clone_children",
    "cpuset_v2_mode",
    "favordynmods",
    "none",
    "seclabel",
)


def _unescape(path: str) -> str:
    """Undo mountinfo's octal escapes of white space and backslash."""
    if "\\" not in path:
        return path
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, character)
    return path
