# SPDX-License-Identifier: Apache-2.0
"""fuse-overlayfs' option string, read into branches and options of a union.

Owns the words of that program (`lowerdir=`, `upperdir=` …). What a union cannot do is refused by name.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from unionfs.branches.branch import Branch
from unionfs.errors import UsageError
from unionfs.kernel.paths import absolute
from unionfs.options.aufs import split, split_words, unescape, unquote
from unionfs.options.idmaps import parse_id, parse_ranges
from unionfs.options.table import FLAG_WORDS, MOUNT_VALUES, MOUNT_WORDS, OPPOSITE, IdRange, Options

_UPPER = frozenset(("ovl",))
_LOWER = frozenset(("wh", "ovl"))
# Set by containers-storage, which then expects AUFS' whiteout files in the upper directory and lays them in lower ones.
AUFS_FORM_VARIABLE = "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT"

# Tuning of another program's threads and caches, and overlay's own words, with no effect on what a union shows.
_IGNORED = frozenset(
    (
        "volatile", "clone_fd", "userxattr", "xino", "auto", "silent", "debug", "acl", "static_nlink", "lazytime",
        "big_writes", "writeback", "relatime", "splice_read", "splice_write", "splice_move", "noforget", "intr",
    )
)  # fmt: skip
_IGNORED_VALUES = frozenset(
    (
        "workdir", "max_idle_threads", "max_threads", "threaded", "timeout", "entry_timeout", "attr_timeout", "writeback",
        "ino_mode", "uuid", "max_background", "congestion_threshold", "max_readahead", "static_nlink", "x-gvfs-name",
    )
)  # fmt: skip
# Accepted with the one value that a union has anyway.
_FIXED = {
    "index": ("off",),
    "verity": ("off",),
    "nfs_export": ("off",),
    "xino": ("off", "auto", "on"),
    "noxattrs": ("0",),
    "xattr_permissions": ("0",),
    "plugins": ("",),
}
_REFUSED = frozenset(("squash_to_uid", "squash_to_gid", "noxattrs", "redirect_dir", "metacopy", "datadir+"))


@dataclass(frozen=True, slots=True)
class OverlayRequest:
    """What an option string asks for; `flag_words` keep their order for a remount."""

    branches: tuple[Branch, ...]
    options: Options
    flags: frozenset[str]
    flag_words: tuple[str, ...]
    fsname: str
    subtype: str | None
    remount: bool
    debug: bool


class _Reader:
    def __init__(self) -> None:
        self.lower: list[str] = []
        self.upper = ""
        self.words: list[str] = []
        self.fsync = True
        self.acl = True
        self.redirects = True
        self.metacopy = True
        self.uid_map: tuple[IdRange, ...] = ()
        self.gid_map: tuple[IdRange, ...] = ()
        self.squash_uid: int | None = None
        self.squash_gid: int | None = None
        self.squash_to_root = False
        self.stackable = False
        self.fsname = ""
        self.subtype: str | None = None
        self.remount = self.debug = self.share_rw = False

    def read(self, word: str) -> None:
        name, separator, value = word.partition("=")
        if separator:
            self._read_value(name, unquote(value))
        elif name in FLAG_WORDS:
            self.words.append(name)
        elif name in _REFUSED:
            raise UsageError(f"option {name} is not supported")
        elif name in ("remount", "debug", "noacl", "volatile", "share_rw", "stackable", "squash_to_root"):
            self._read_switch(name)
        elif name not in _IGNORED and name not in MOUNT_WORDS and not name.lower().startswith("x-"):
            raise UsageError(f"unknown option {word!r}")

    def _read_switch(self, name: str) -> None:
        self.remount |= name == "remount"
        self.debug |= name == "debug"
        self.share_rw |= name == "share_rw"
        self.acl &= name != "noacl"
        self.fsync &= name != "volatile"
        self.stackable |= name == "stackable"
        self.squash_to_root |= name == "squash_to_root"

    def _read_value(self, name: str, value: str) -> None:
        if name == "lowerdir":
            self.lower = [unescape(part) for part in split(value, ":")]
            if "" in self.lower[1:-1]:
                raise UsageError("lowerdir: data-only layers (written after ::) are not supported")
        elif name == "upperdir":
            self.upper = unescape(value)
        elif name == "fsname":
            self.fsname = unescape(value)
        elif name == "subtype":
            self.subtype = value
        elif name == "fsync":
            self.fsync = value != "0"
        elif name == "redirect_dir" and value in ("off", "follow", "nofollow"):
            self.redirects = value != "nofollow"
        elif name == "metacopy" and value in ("on", "off"):
            self.metacopy = value == "on"
        elif name == "uidmapping":
            self.uid_map = _ranges(name, value)
        elif name == "gidmapping":
            self.gid_map = _ranges(name, value)
        elif name == "squash_to_uid":
            self.squash_uid = _id(name, value)
        elif name == "squash_to_gid":
            self.squash_gid = _id(name, value)
        elif name in _FIXED:
            if value not in _FIXED[name]:
                raise UsageError(f"option {name}={value} is not supported")
        elif name in _REFUSED:
            raise UsageError(f"option {name}={value} is not supported")
        elif name not in _IGNORED_VALUES and name not in MOUNT_VALUES and not name.lower().startswith("x-"):
            raise UsageError(f"unknown option {name + '=' + value!r}")

    def squashed(self, asked: int | None) -> int | None:
        """Return whose all files look, None if everybody's own; a number goes before root."""
        return 0 if asked is None and self.squash_to_root else asked

    def branches(self) -> tuple[Branch, ...]:
        if self.remount:
            return ()
        if not self.lower or "" in self.lower:
            raise UsageError(
                "lowerdir is missing or has an empty name", "write -o lowerdir=DIR[:DIR...],upperdir=DIR"
            )
        upper = [Branch(absolute(self.upper), "rw", _UPPER)] if self.upper else []
        return (*upper, *(Branch(absolute(path), "ro", _LOWER) for path in self.lower))


def _ranges(name: str, value: str) -> tuple[IdRange, ...]:
    try:
        return parse_ranges(value)
    except ValueError:
        raise UsageError(f"option {name}: {value!r} is not a list of ID:ID:COUNT without overlaps") from None


def _id(name: str, value: str) -> int:
    try:
        return parse_id(value)
    except ValueError:
        raise UsageError(f"option {name}: {value!r} is not an id") from None


def parse(text: str, environment: Mapping[str, str] = os.environ) -> OverlayRequest:
    r"""Read `lowerdir=A:B,upperdir=U,workdir=W,...`; the leftmost lower directory is the upper one of them.

    `\:` and `\,` stand for the characters in a path. Relative paths are taken from the current directory. Without upperdir
    the union is read-only. Raises UserError that names an option nobody knows or that cannot be kept.
    """
    reader = _Reader()
    for word in split_words(text):
        if word:
            reader.read(word)
    flags: set[str] = set()
    for word in reader.words:
        flags.discard(OPPOSITE.get(word, ""))
        flags.add(word)
    if not reader.upper and not reader.remount:
        flags = (flags - {"rw"}) | {"ro"}
    options = replace(
        Options(),
        whiteout="aufs" if environment.get(AUFS_FORM_VARIABLE) else "overlay",
        udba="none",
        warn_perm=False,
        fsync=reader.fsync,
        acl=reader.acl,
        redirects=reader.redirects,
        metacopy=reader.metacopy,
        uid_map=reader.uid_map,
        gid_map=reader.gid_map,
        squash_uid=reader.squashed(reader.squash_uid),
        squash_gid=reader.squashed(reader.squash_gid),
        share_rw=reader.share_rw,
        stackable=reader.stackable,
        read_only="ro" in flags,
    )
    return OverlayRequest(
        branches=reader.branches(),
        options=options,
        flags=frozenset(flags),
        flag_words=tuple(reader.words),
        fsname=reader.fsname,
        subtype=reader.subtype,
        remount=reader.remount,
        debug=reader.debug,
    )
