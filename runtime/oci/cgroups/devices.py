# SPDX-License-Identifier: Apache-2.0
"""Which devices a container may open or make: the rules of `linux.resources.devices` and the default ones, in order."""

from __future__ import annotations

from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    # allow, type ("a", "b" or "c"), major and minor (-1: any), access (of "rwm")
    Rule = tuple[bool, str, int, int, str]

ANY = -1
ALL = "rwm"
_TYPES = ("a", "b", "c", "u")
_NOTHING: Rule = (False, "a", ANY, ANY, ALL)
# Every container gets these, whatever its own rules say: any node may be made, few opened.
DEFAULT: tuple[Rule, ...] = (
    (True, "c", ANY, ANY, "m"),
    (True, "b", ANY, ANY, "m"),
    (True, "c", 1, 3, ALL),  # null
    (True, "c", 1, 5, ALL),  # zero
    (True, "c", 1, 7, ALL),  # full
    (True, "c", 1, 8, ALL),  # random
    (True, "c", 1, 9, ALL),  # urandom
    (True, "c", 5, 0, ALL),  # tty
    (True, "c", 5, 2, ALL),  # ptmx
    (True, "c", 136, ANY, ALL),  # pts
)


def rules(given: list[dict[str, Any]]) -> list[Rule]:
    """Return the rules in their order, beginning with the last one that says all: deny all, the given ones, the default ones.

    Failure for a type or an access that there is not; letters beside those that mean something are dropped, as by the peers.
    """
    result = [_NOTHING]
    for number, entry in enumerate(given):
        kind = entry.get("type") or "a"
        access = "".join(letter for letter in entry.get("access") or ALL if letter in ALL)
        for key, wrong in (("type", kind not in _TYPES), ("access", not access)):
            if wrong:
                raise Failure(f"linux.resources.devices[{number}].{key}: {entry[key]!r} is not valid")
        major, minor = entry.get("major"), entry.get("minor")
        rule: Rule = (
            bool(entry["allow"]),
            {"u": "c"}.get(kind, kind),
            ANY if major is None else major,
            ANY if minor is None else minor,
            access,
        )
        if rule[1:4] == ("a", ANY, ANY) and set(rule[4]) >= set(ALL):
            result = [rule]
        else:
            result.append(rule)
    if not result[0][0] or len(result) > 1:
        result += DEFAULT
    return result
