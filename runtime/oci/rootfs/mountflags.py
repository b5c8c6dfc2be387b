# SPDX-License-Identifier: Apache-2.0
"""The option words of a mount: which attributes, which propagation, how it is made; the rest is for the filesystem."""

from __future__ import annotations

from runtime.oci.rootfs.syscalls import (
    ATTR_ATIME,
    ATTR_NOATIME,
    ATTR_NODEV,
    ATTR_NODIRATIME,
    ATTR_NOEXEC,
    ATTR_NOSUID,
    ATTR_NOSYMFOLLOW,
    ATTR_RDONLY,
    ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SHARED,
    MS_SLAVE,
    MS_UNBINDABLE,
)

# word: attributes to add, attributes to drop. Each has a recursive twin that begins with "r".
_ATTRIBUTES = {
    "ro": (ATTR_RDONLY, 0),
    "rw": (0, ATTR_RDONLY),
    "nosuid": (ATTR_NOSUID, 0),
    "suid": (0, ATTR_NOSUID),
    "nodev": (ATTR_NODEV, 0),
    "dev": (0, ATTR_NODEV),
    "noexec": (ATTR_NOEXEC, 0),
    "exec": (0, ATTR_NOEXEC),
    "nosymfollow": (ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, ATTR_NOSYMFOLLOW),
    "nodiratime": (ATTR_NODIRATIME, 0),
    "diratime": (0, ATTR_NODIRATIME),
    # One of three, and relatime is the one without a bit; what only says "not that one" means relatime.
    "relatime": (0, ATTR_ATIME),
    "noatime": (ATTR_NOATIME, ATTR_ATIME),
    "strictatime": (ATTR_STRICTATIME, ATTR_ATIME),
    "atime": (0, ATTR_ATIME),
    "nostrictatime": (0, ATTR_ATIME),
    "norelatime": (0, 0),
}

# word: parameter of the filesystem to set, to drop
_SUPERBLOCK = {
    "sync": ("sync", ""),
    "async": ("", "sync"),
    "dirsync": ("dirsync", ""),
    "lazytime": ("lazytime", ""),
    "nolazytime": ("", "lazytime"),
    "mand": ("mand", ""),
    "nomand": ("", "mand"),
    "ro": ("ro", ""),
    "rw": ("", "ro"),
    "iversion": ("iversion", ""),
    "noiversion": ("", "iversion"),
}

PROPAGATION = {
    "private": MS_PRIVATE,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}

_NOTHING = frozenset({"defaults", "silent", "loud", "acl", "noacl"})

# word: attribute of Options that it switches on
_SWITCHES = {
    "bind": "bind",
    "rbind": "recursive",
    "remount": "remount",
    "tmpcopyup": "copy_up",
    "copy-symlink": "copy_symlink",
    "src-nofollow": "source_nofollow",
    "dest-nofollow": "target_nofollow",
    "idmap": "idmap",
    "ridmap": "recursive_idmap",
}


class Options:
    """The words of one mount, sorted. `add` and `drop` are ATTR_* of the mount, `add_all` and `drop_all` of all below it too."""

    __slots__ = (
        "add", "add_all", "bind", "copy_symlink", "copy_up", "data", "drop", "drop_all", "idmap", "idmap_text",
        "propagation", "recursive", "recursive_idmap", "remount", "source_nofollow", "superblock",
        "target_nofollow",
    )  # fmt: skip

    def __init__(self, words: list[str]) -> None:
        self.add = self.drop = self.add_all = self.drop_all = 0
        self.propagation: list[tuple[int, bool]] = []  # (MS_*, recursively)
        self.superblock: list[str] = []
        self.data: list[str] = []
        self.bind = self.recursive = self.remount = self.copy_up = False
        self.copy_symlink = self.source_nofollow = self.target_nofollow = False
        self.idmap = self.recursive_idmap = False
        self.idmap_text = ""
        for word in words:
            self._take(word)
        self.bind = self.bind or self.recursive
        self.idmap = self.idmap or self.recursive_idmap

    def _take(self, word: str) -> None:
        if word in _ATTRIBUTES:
            self.add, self.drop = _merge(self.add, self.drop, *_ATTRIBUTES[word])
            if word in _SUPERBLOCK:
                self._take_superblock(word)
        elif word in _SUPERBLOCK:
            self._take_superblock(word)
        elif word in PROPAGATION:
            self.propagation.append((PROPAGATION[word], False))
        elif word in _SWITCHES:
            setattr(self, _SWITCHES[word], True)
        elif word[:1] == "r" and word[1:] in PROPAGATION:
            self.propagation.append((PROPAGATION[word[1:]], True))
        elif word[:1] == "r" and word[1:] in _ATTRIBUTES:
            self.add_all, self.drop_all = _merge(self.add_all, self.drop_all, *_ATTRIBUTES[word[1:]])
        elif word.startswith(("idmap=", "ridmap=")):
            self.idmap, self.recursive_idmap = True, word[0] == "r"
            self.idmap_text = word.partition("=")[2]
        elif word not in _NOTHING:
            self.data += [part for part in word.split(",") if part]

    def _take_superblock(self, word: str) -> None:
        add, drop = _SUPERBLOCK[word]
        if drop in self.superblock:
            self.superblock.remove(drop)
        if add and add not in self.superblock:
            self.superblock.append(add)


def _merge(add: int, drop: int, more: int, less: int) -> tuple[int, int]:
    """Let a later word win over an earlier one."""
    return add & ~less | more, drop & ~more | less


# Words that are known although they are no attribute, for `features`.
def words() -> list[str]:
    """Return every option word that is not passed to the filesystem."""
    plain = {*_ATTRIBUTES, *_SUPERBLOCK, *_SWITCHES, *_NOTHING, *PROPAGATION}
    twins = {"r" + word for word in (*_ATTRIBUTES, *PROPAGATION)}
    return sorted(plain | twins)
