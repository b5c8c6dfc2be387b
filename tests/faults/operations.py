# SPDX-License-Identifier: Apache-2.0
"""What is tried: every call that changes something, on every kind of name of the layout, each in one step that is old or new.

Those whose names begin with `synced` follow an fsync, whose data must be found afterwards by every name of the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from unionfs.kernel import syscalls

Act = Callable[[str], object]


@dataclass(frozen=True)
class Operation:
    """One operation in a directory; `before` is done without faults."""

    act: Act
    before: Act | None = None


def _write(name: str, offset: int = 10, data: bytes = b"NEW!") -> Act:
    def act(d: str) -> None:
        fd = os.open(f"{d}/{name}", os.O_RDWR)
        try:
            os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    return act


def _sync(*names: str) -> Act:
    def act(d: str) -> None:
        for name in names:
            fd = os.open(f"{d}/{name}", os.O_RDWR)
            os.pwrite(fd, b"SYNCED", 10)
            os.fsync(fd)
            os.close(fd)

    return act


def _open(name: str, flags: int) -> Act:
    return lambda d: os.close(os.open(f"{d}/{name}", flags, 0o604))


def _create(name: str) -> Act:
    return _open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def _rename(old: str, new: str, flags: int = 0) -> Act:
    def act(d: str) -> None:
        syscalls.renameat2(
            os.fsencode(f"{d}/{old}"), os.fsencode(f"{d}/{new}"),
            src_dir_fd=syscalls.AT_FDCWD, dst_dir_fd=syscalls.AT_FDCWD, flags=flags,
        )  # fmt: skip

    return act


def _link(old: str, new: str) -> Act:
    return lambda d: os.link(f"{d}/{old}", f"{d}/{new}", follow_symlinks=False)


def _link_unnamed(new: str) -> Act:
    def act(d: str) -> None:
        fd = os.open(d, os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(fd, b"tmp")
        os.link(f"/proc/self/fd/{fd}", f"{d}/{new}", follow_symlinks=True)
        os.close(fd)

    return act


def _as_user(act: Act) -> Act:
    def run(d: str) -> None:
        os.setegid(1000)
        os.seteuid(1000)
        act(d)

    return run


def _both(first: Act, second: Act) -> Act:
    def act(d: str) -> None:
        first(d)
        second(d)

    return act


def _unlink(name: str) -> Act:
    return lambda d: os.unlink(f"{d}/{name}")


def _mkdir(name: str) -> Act:
    return lambda d: os.mkdir(f"{d}/{name}", 0o705)


_RENAMES = (
    "f g", "f n/n2/g", "f both", "f uf", "uf f", "both g", "uf w", "f w", "uf g", "both w", "both f", "ud gd", "ud wd", "ud me",
    "ud e", "ud uw", "uw gd", "e gd", "uo gd", "uo wd", "me gd", "ud ue", "h1 g", "h1 uf", "s g", "p uf", "uh1 f", "n/n2/f g",
)  # fmt: skip
_EXCHANGES = ("f uf", "f n/n2/f", "both uf", "ud ue", "ud uf", "h1 f", "ud f", "ud both")
_LINKS = ("f g", "uf g", "h1 g", "f w", "uf w", "f n/n2/g", "s g", "h1 w")


def _name(word: str, *names: str) -> str:
    return "-".join((word, *names)).replace("/", ".")


def _table() -> dict[str, Operation]:
    acts: dict[str, Act] = {}
    for text in _RENAMES:
        old, new = text.split()
        acts[_name("rename", old, new)] = _rename(old, new)
    for text in _EXCHANGES:
        old, new = text.split()
        acts[_name("exchange", old, new)] = _rename(old, new, syscalls.RENAME_EXCHANGE)
    for text in ("f g", "f w", "uf w"):
        old, new = text.split()
        acts[_name("noreplace", old, new)] = _rename(old, new, syscalls.RENAME_NOREPLACE)
    for text in _LINKS:
        old, new = text.split()
        acts[_name("link", old, new)] = _link(old, new)
    for name in ("f", "both", "uf", "h1", "uh1", "n/n2/f"):
        acts[_name("unlink", name)] = _unlink(name)
    for name in ("e", "me", "ue", "uw"):
        acts[_name("rmdir", name)] = lambda d, name=name: os.rmdir(f"{d}/{name}")  # type: ignore[misc]
    for name in ("new", "w", "wd", "n/n2/new"):
        acts[_name("mkdir", name)] = _mkdir(name)
        acts[_name("create", name)] = _create(name)
        acts[_name("symlink", name)] = lambda d, name=name: os.symlink("to", f"{d}/{name}")  # type: ignore[misc]
        acts[_name("mkfifo", name)] = lambda d, name=name: os.mkfifo(f"{d}/{name}")  # type: ignore[misc]
    for name in ("tnew", "w"):
        acts[_name("tmpfile", name)] = _link_unnamed(name)
    for name in ("f", "big", "n/n2/f", "h1", "suid"):
        acts[_name("write", name)] = _write(name)
    acts["write-both"] = _write("both", 2)
    acts |= {
        "user-create": _as_user(_create("n/n2/new")),
        "user-mkdir": _as_user(_mkdir("n/n2/newd")),
        "open-trunc-f": _open("f", os.O_WRONLY | os.O_TRUNC),
        "open-trunc-uf": _open("uf", os.O_WRONLY | os.O_TRUNC),
        "truncate-f": lambda d: os.truncate(f"{d}/f", 100),
        "truncate-f-up": lambda d: os.truncate(f"{d}/f", 9000),
        "truncate-big": lambda d: os.truncate(f"{d}/big", 700_000),
        "chmod-f": lambda d: os.chmod(f"{d}/f", 0o600),
        "chmod-n.n2.f": lambda d: os.chmod(f"{d}/n/n2/f", 0o600),
        "chmod-n.n2": lambda d: os.chmod(f"{d}/n/n2", 0o700),
        "chmod-h1": lambda d: os.chmod(f"{d}/h1", 0o600),
        "chown-f": lambda d: os.chown(f"{d}/f", 7, 8),
        "chown-n": lambda d: os.chown(f"{d}/n", 7, 8),
        "chown-s": lambda d: os.lchown(f"{d}/s", 7, 8),
        "chown-p": lambda d: os.chown(f"{d}/p", 7, 8),
        "utime-f": lambda d: os.utime(f"{d}/f", (1_650_000_000, 1_650_000_000)),
        "utime-n.n2": lambda d: os.utime(f"{d}/n/n2", (1_650_000_000, 1_650_000_000)),
        "setxattr-f": lambda d: os.setxattr(f"{d}/f", "user.n", b"v"),
        "setxattr-n.n2": lambda d: os.setxattr(f"{d}/n/n2", "user.n", b"v"),
        "removexattr-f": lambda d: os.removexattr(f"{d}/f", "user.a"),
    }
    return {name: Operation(act) for name, act in acts.items()}


def _synced() -> dict[str, Operation]:
    cases: dict[str, tuple[Act, Act]] = {
        "rename-f-g": (_sync("f"), _rename("f", "g")),
        "rename-f-both": (_sync("f"), _rename("f", "both")),
        "rename-uf-f": (_sync("f", "uf"), _rename("uf", "f")),
        "exchange-f-uf": (_sync("f", "uf"), _rename("f", "uf", syscalls.RENAME_EXCHANGE)),
        "link-f-g": (_sync("f"), _link("f", "g")),
        "link-f-w": (_sync("f"), _link("f", "w")),
        "unlink-g": (_both(_sync("f"), _link("f", "g")), _unlink("g")),
        "chmod-h1": (_sync("h1"), lambda d: os.chmod(f"{d}/h1", 0o600)),
        "rename-h1-g": (_sync("h1"), _rename("h1", "g")),
        "rename-h2-g": (_sync("h1"), _rename("h2", "g")),
        "rename-uf-h2": (_sync("h1"), _rename("uf", "h2")),
        "exchange-h2-uf": (_sync("h1"), _rename("h2", "uf", syscalls.RENAME_EXCHANGE)),
        "unlink-h1": (_sync("h1"), _unlink("h1")),
        "unlink-h2": (_sync("h1"), _unlink("h2")),
        "unlink-h1-last": (_both(_sync("h1"), _unlink("h2")), _unlink("h1")),
        "link-h2-g": (_sync("h1"), _link("h2", "g")),
        "write-h2": (_sync("h1"), _write("h2", 30)),
        "create-gone": (_unlink("f"), _create("f")),
        "mkdir-gone": (_unlink("f"), _mkdir("f")),
        "rename-gone": (_unlink("f"), _rename("uf", "f")),
    }
    return {f"synced-{name}": Operation(act, before) for name, (before, act) in cases.items()}


OPERATIONS = _table() | _synced()
