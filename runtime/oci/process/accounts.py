# SPDX-License-Identifier: Apache-2.0
"""A user given by name, as engines' callers give him: found in the files of the container's root, by our own parser.

The C library's name service would load shared objects of the container into a privileged process.
"""

from __future__ import annotations

from runtime.oci.failure import Failure
from runtime.oci.process.user import User, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from runtime.oci.process.prepared import Prepared

    Ranges = list[dict[str, Any]]  # linux.uidMappings

ANNOTATION = "unionrt.user"  # USER[:GROUP], names or numbers; counts instead of process.user's uid, gid and additionalGids
_HINT = "give --user UID:GID"
_ALONE = (
    "an ordinary user's has root alone, unless newuidmap is installed (package uidmap) and /etc/subuid and /etc/subgid "
    "grant 65536 ids: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 NAME"
)


class Account:
    """What was asked for, and the ids that the container has."""

    __slots__ = ("_gids", "_has_groups", "_text", "_uids")

    def __init__(self, text: str, linux: dict[str, Any], *, has_groups: bool) -> None:
        self._text = text
        self._has_groups = has_groups  # whether the user namespace lets supplementary groups be set
        self._uids: Ranges = linux.get("uidMappings") or []
        self._gids: Ranges = linux.get("gidMappings") or []

    def find(self, process: Prepared) -> None:
        """Make the process this user's, with his groups and his HOME, by the present root's files.

        Failure for one whom they do not know, or who has no id in the user namespace.
        """
        user, home = resolve(self._text, process.user.umask)
        if not (_has(self._uids, user.uid) and _has(self._gids, user.gid)):
            alone = len(self._uids) == 1 == self._uids[0]["size"]
            raise Failure(
                f"user {self._text} ({user.uid}:{user.gid}) has no id in the container's user namespace",
                _ALONE if alone else "it ends before that",
            )
        if not self._has_groups:
            user.groups = []
        process.user = user
        process.environment.setdefault(b"HOME", home.encode("utf-8", "surrogateescape"))


def named(text: str, linux: dict[str, Any], *, own_users: bool) -> Account:
    """Return the account `text` of a container; `own_users` tells that its user namespace is made for it."""
    from runtime.oci import mappings

    return Account(text, linux, has_groups=not (own_users and mappings.forbids_groups(linux)))


def _has(ranges: Ranges, number: int) -> bool:
    return not ranges or any(
        entry["containerID"] <= number < entry["containerID"] + entry["size"] for entry in ranges
    )


def resolve(text: str, umask: int) -> tuple[User, str]:
    """Return the user `USER[:GROUP]` and his home directory; Failure says what is unknown.

    What looks like a number is one, whatever names an image has (CVE-2026-46680); one that is too big is nobody.
    """
    name, _, group = text.partition(":")
    account = _find("/etc/passwd", name, columns=7)
    if account is not None:
        uid, gid, home, login = int(account[2]), int(account[3]), _home(account[5]), account[0]
    elif _is_id(name):
        uid, gid, home, login = int(name), 0, "/", ""
    else:
        raise Failure(f"no user {name!r} in /etc/passwd of the container", _HINT)
    if group:
        gid = _group_id(group)
        return User(uid, gid, [gid], umask), home
    return User(uid, gid, [gid, *sorted(_memberships(login) - {gid})], umask), home


def _home(field: str) -> str:
    return field if field and "\0" not in field else "/"  # which no variable can hold


def _group_id(name: str) -> int:
    entry = _find("/etc/group", name, columns=4)
    if entry is not None:
        return int(entry[2])
    if _is_id(name):
        return int(name)
    raise Failure(f"no group {name!r} in /etc/group of the container", _HINT)


def _is_id(text: str) -> bool:
    """Tell whether this is a number that the kernel takes for a user or group; 2³²−1 means "leave it"."""
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) < 0xFFFFFFFF


def _memberships(login: str) -> set[int]:
    lines = _entries("/etc/group", columns=4)
    return {int(line[2]) for line in lines if login and login in line[3].split(",")}


def _find(path: str, name: str, *, columns: int) -> list[str] | None:
    """Return the first entry called `name`, or of that number if it is one."""
    column = 2 if name.isascii() and name.isdigit() else 0
    return next((line for line in _entries(path, columns=columns) if line[column] == name), None)


def _entries(path: str, *, columns: int) -> Iterator[list[str]]:
    for line in read_file(path).decode("utf-8", "surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) >= columns and _is_id(fields[2]) and (columns < 7 or _is_id(fields[3])):
            yield fields
