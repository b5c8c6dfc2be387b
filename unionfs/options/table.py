# SPDX-License-Identifier: Apache-2.0
"""The table of option words: what each one changes in `Options`, with its aliases and limits.

Owns names and ranges, one word at a time; `options` reads whole strings with it.
Source of the table: aufs(5); options without a meaning in user space are checked and then dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from unionfs.errors import UsageError

IdRange = tuple[int, int, int]  # first id on branches, first id in the union, how many


@dataclass(frozen=True, slots=True)
class Options:
    """What the filesystem must know; every default is AUFS' own, but for `dirperm1`."""

    create: str = "tdp"
    create_low: int = 0
    create_seconds: int = 30
    copy_up: str = "tdp"
    udba: str = "reval"
    plink: bool = True
    sum: bool = False
    dirwh: int = 3
    diropq: str = "w"
    dirperm1: bool = True
    shwh: bool = False
    warn_perm: bool = True
    verbose: bool = False
    acl: bool = True
    whiteout: str = "aufs"
    fsync: bool = True
    passthrough: bool = True
    stackable: bool = False  # the kernel's overlayfs may have the union as a layer
    coherence: str = ""  # whose promise to old readers holds: "aufs", "overlay", or what is fast here
    rdcache: int = 10
    read_only: bool = False
    share_rw: bool = False  # a branch that another live union writes to is taken as a writable one
    xino: str = ""
    # What a kernel overlay's layers say of other places is followed, as with its redirect_dir=follow and metacopy=on.
    redirects: bool = True
    metacopy: bool = True
    # Ids that differ between the branches (first) and the union (second); empty: none do.
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    squash_uid: int | None = None  # the owner that every file shows
    squash_gid: int | None = None
    unmapped: int = 65534  # what both maps show for other ids; containers of ordinary users have but one


Change = Callable[[Options], Options]


SWITCHES: dict[str, Change] = {
    "plink": lambda o: replace(o, plink=True),
    "noplink": lambda o: replace(o, plink=False),
    "sum": lambda o: replace(o, sum=True),
    "nosum": lambda o: replace(o, sum=False),
    "dirperm1": lambda o: replace(o, dirperm1=True),
    "nodirperm1": lambda o: replace(o, dirperm1=False),
    "shwh": lambda o: replace(o, shwh=True),
    "noshwh": lambda o: replace(o, shwh=False),
    "warn_perm": lambda o: replace(o, warn_perm=True),
    "nowarn_perm": lambda o: replace(o, warn_perm=False),
    "acl": lambda o: replace(o, acl=True),
    "noacl": lambda o: replace(o, acl=False),
    "fsync": lambda o: replace(o, fsync=True),
    "nofsync": lambda o: replace(o, fsync=False),
    "volatile": lambda o: replace(o, fsync=False),
    "passthrough": lambda o: replace(o, passthrough=True),
    "nopassthrough": lambda o: replace(o, passthrough=False),
    "share_rw": lambda o: replace(o, share_rw=True),
    "noshare_rw": lambda o: replace(o, share_rw=False),
    "stackable": lambda o: replace(o, stackable=True),
    "nostackable": lambda o: replace(o, stackable=False),
    "noxino": lambda o: replace(o, xino=""),
    "ro": lambda o: replace(o, read_only=True),
    "rw": lambda o: replace(o, read_only=False),
    "ephemeral": lambda o: _drop_level(3)(o),
    **dict.fromkeys(("verbose", "v"), lambda o: replace(o, verbose=True)),
    **dict.fromkeys(("noverbose", "quiet", "q", "silent"), lambda o: replace(o, verbose=False)),
}

# Words that kernel AUFS needs and a user-space union does not.
IGNORED = frozenset(
    (
        "trunc_xino",
        "notrunc_xino",
        "trunc_xib",
        "notrunc_xib",
        "clean_plink",
        "list_plink",
        "dirren",
        "nodirren",
        "dio",
        "nodio",
        "wsum",
        "zxino",
        "nowsum",
        "relatime",
        "nodlgt",
        "dlgt",
    )
)
# unionfs' own words of twenty years ago: ignored with a warning, as AUFS does.
ANCIENT = frozenset(("debug", "delete", "imap"))

# mount(8)'s words that become flags of the mount; the last of a pair wins.
_PAIRS = {
    "ro": "rw",
    "nosuid": "suid",
    "nodev": "dev",
    "noexec": "exec",
    "noatime": "atime",
    "nodiratime": "diratime",
    "sync": "async",
    "nosymfollow": "symfollow",
}
OPPOSITE = {**_PAIRS, **{value: key for key, value in _PAIRS.items()}}
FLAG_WORDS = frozenset((*OPPOSITE, "dirsync", "allow_other", "allow_root", "default_permissions"))
# Words of mount(8), fstab and libfuse that say nothing to a union.
MOUNT_WORDS = frozenset(
    (
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "_netdev",
        "nofail",
        "remount",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "mand",
        "nomand",
        "iversion",
        "noiversion",
        "loud",
        "nonempty",
        "auto_unmount",
        "bg",
        # Propagation, which mount(8) sets by itself; podman and buildah append it to a mount program's options.
        "shared",
        "rshared",
        "private",
        "rprivate",
        "slave",
        "rslave",
        "unbindable",
        "runbindable",
    )
)
MOUNT_VALUES = frozenset(
    (
        "comment",
        "subtype",
        "max_read",
        "blksize",
        "max_write",
        "context",
        "fscontext",
        "defcontext",
        "rootcontext",
        "uid",
        "gid",
        "user_id",
        "group_id",
    )
)

_CREATE_NAMES = {
    "top-down-parent": "tdp",
    "round-robin": "rr",
    "most-free-space": "mfs",
}
_CREATE_NEEDS_LOW = frozenset(("mfsrr", "pmfsrr", "tdmfs"))
_CREATE_TIMED = frozenset(("mfs", "pmfs"))
_COPY_UP = {"top-down-parent": "tdp", "bottom-up-parent": "bup", "bottom-up": "bu"}
_UDBA = {"fsnotify": "notify", "inotify": "notify"}
SECONDS_MAX = 3600
_BLOCK_MIN, _BLOCK_MAX = 255, 4 << 20
_MOST_DIGITS = 20  # Python refuses to read numbers of some thousand


def _number(text: str, option: str, low: int, high: int) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not digits or not low <= int(text) <= high:
        raise UsageError(f"option {option}: {text!r} is not a number from {low} to {high}")
    return int(text)


def _choice(text: str, option: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        raise UsageError(f"option {option}: {text!r} is none of {', '.join(choices)}")
    return text


def _create(text: str) -> Change:
    name, *numbers = text.split(":")
    policy = _CREATE_NAMES.get(name, name)
    _choice(policy, "create", ("tdp", "rr", "mfs", "mfsrr", "pmfs", "pmfsrr", "tdmfs"))
    wanted = 2 if policy in _CREATE_NEEDS_LOW else 1 if policy in _CREATE_TIMED else 0
    if len(numbers) > wanted:
        raise UsageError(f"option create: {policy} takes at most {wanted} numbers, not {text!r}")
    low = 0
    if policy in _CREATE_NEEDS_LOW:
        if not numbers:
            raise UsageError(
                f"option create: {policy} needs a number of bytes", f"write create={policy}:BYTES"
            )
        low = _number(numbers.pop(0), "create", 0, (1 << 63) - 1)
    seconds = _number(numbers[0], "create", 0, SECONDS_MAX) if numbers else Options().create_seconds
    return lambda o: replace(o, create=policy, create_low=low, create_seconds=seconds)


def _copy_up(text: str) -> Change:
    policy = _choice(_COPY_UP.get(text, text), "cpup", ("tdp", "bup", "bu"))
    return lambda o: replace(o, copy_up=policy)


def _udba(text: str) -> Change:
    level = _choice(_UDBA.get(text, text), "udba", ("none", "reval", "notify"))
    return lambda o: replace(o, udba=level)


def _diropq(text: str) -> Change:
    mark = _choice({"whiteouted": "w", "always": "a"}.get(text, text), "diropq", ("w", "a"))
    return lambda o: replace(o, diropq=mark)


def _whiteout(text: str) -> Change:
    form = _choice(text, "whiteout", ("aufs", "overlay"))
    return lambda o: replace(o, whiteout=form)


def _coherence(text: str) -> Change:
    promise = _choice(text, "coherence", ("aufs", "overlay"))
    return lambda o: replace(o, coherence=promise)


def _dirwh(text: str) -> Change:
    count = _number(text, "dirwh", 0, (1 << 31) - 1)
    return lambda o: replace(o, dirwh=count)


def _rdcache(text: str) -> Change:
    seconds = _number(text, "rdcache", 0, SECONDS_MAX)
    return lambda o: replace(o, rdcache=seconds)


def _xino(text: str) -> Change:
    return lambda o: replace(o, xino=text)


def _fsync(text: str) -> Change:
    return SWITCHES["fsync" if _number(text, "fsync", 0, 1) else "nofsync"]


def _drop_level(level: int) -> Change:
    """Return mount.aufs' bundle: 1 trusts caches, 3 drops pseudo-links too; negative ones undo."""
    udba, plink = ("none", False) if level > 0 else ("reval", True)

    def change(options: Options) -> Options:
        options = replace(options, udba=udba, dirperm1=True)
        return replace(options, plink=plink) if abs(level) == 3 else options

    return change


def _droplvl(text: str) -> Change:
    return _drop_level(int(_choice(text, "droplvl", ("1", "2", "3", "-1", "-2", "-3"))))


VALUES: dict[str, Callable[[str], Change]] = {
    **dict.fromkeys(("create", "create_policy"), _create),
    **dict.fromkeys(("cpup", "copyup", "copyup_policy"), _copy_up),
    "udba": _udba,
    "diropq": _diropq,
    "whiteout": _whiteout,
    "coherence": _coherence,
    "dirwh": _dirwh,
    "rdcache": _rdcache,
    "xino": _xino,
    "fsync": _fsync,
    "droplvl": _droplvl,
}


def _check_block(text: str, option: str) -> None:
    if text not in ("def", "0"):
        _number(text, option, _BLOCK_MIN, _BLOCK_MAX)


def _check_hash(text: str, option: str) -> None:
    if text != "def":
        _number(text, option, 0, _BLOCK_MAX)


IGNORED_VALUES: dict[str, Callable[[str, str], object]] = {
    "rdblk": _check_block,
    "rdhash": _check_hash,
    "fhsm_sec": lambda text, option: _number(text, option, 0, SECONDS_MAX),
    "itrunc_xino": lambda text, option: _number(text, option, 0, (1 << 31) - 1),
    "trunc_xino": lambda text, option: None,
    "si": lambda text, option: None,
}


def shown(options: Options, si: str) -> list[str]:
    """Return the words of AUFS' mount table line: what differs from AUFS' defaults, in AUFS' order."""
    default = Options()
    words = [f"si={si}"] if si else []
    words += [f"udba={options.udba}"] if options.udba != default.udba else []
    words += ["shwh"] if options.shwh else []
    words += [] if options.plink else ["noplink"]
    words += ["dirperm1"] if options.dirperm1 else []
    words += [f"create={_shown_create(options)}"] if options.create != default.create else []
    words += [f"cpup={options.copy_up}"] if options.copy_up != default.copy_up else []
    words += ["diropq=a"] if options.diropq == "a" else []
    words += [f"dirwh={options.dirwh}"] if options.dirwh != default.dirwh else []
    words += [f"rdcache={options.rdcache}"] if options.rdcache != default.rdcache else []
    words += ["sum"] if options.sum else []
    words += [] if options.warn_perm else ["nowarn_perm"]
    words += ["verbose"] if options.verbose else []
    words += [] if options.acl else ["noacl"]
    words += [f"whiteout={options.whiteout}"] if options.whiteout != default.whiteout else []
    words += [] if options.fsync else ["nofsync"]
    words += [f"coherence={options.coherence}"] if options.coherence else []
    words += [] if options.passthrough else ["nopassthrough"]
    words += ["share_rw"] if options.share_rw else []
    words += ["stackable"] if options.stackable else []
    return words


def _shown_create(options: Options) -> str:
    parts = [options.create]
    if options.create in _CREATE_NEEDS_LOW:
        parts.append(str(options.create_low))
    if options.create not in ("tdp", "rr") and options.create_seconds != Options().create_seconds:
        parts.append(str(options.create_seconds))
    return ":".join(parts)
