# SPDX-License-Identifier: Apache-2.0
"""What a server may answer: the shape of each command's result, against which a client checks what comes over the socket.

Root asks the servers of other users, which may be any program: an answer of another shape is an error, never a traceback.
"""

from __future__ import annotations

import json
import math
from typing import Any

_MOST_ERRNO = 4095


class Each:
    """A dictionary with any names, all of whose values have one shape."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


class Maybe:
    """A value of one shape, or null, or no such name at all."""

    def __init__(self, shape: Any) -> None:
        self.shape = shape


# A shape is a type, [shape of the elements], (shapes of the elements), {name: shape of the value}, Each or Maybe.
_BRANCH = {"index": int, "id": int, "branch": str, "lost": Maybe(str)}
_PASSTHROUGH = {"on": bool, "reason": str, "opens": int, "fallbacks": int, "registered": int}
_STATUS = {
    "mountpoint": str,
    "id": str,
    "run_directory": str,
    "pid": int,
    "session": str,
    "session_reason": str,
    "options": [str],
    "branches": [_BRANCH],
    "counters": Each(int),
    "passthrough": Maybe(_PASSTHROUGH),
}
_KIND = {"count": int, "seconds": float, "p50_us": float, "p90_us": float, "p99_us": float}
_ROW = {
    "index": int,
    "branch": str,
    "path": str,
    "present": bool,
    "kind": Maybe(str),
    "whiteout": bool,
    "opaque": bool,
    "visible": bool,
    "lost": Maybe(str),
}
_NOTHING = type(None)
_SHAPES: dict[str, Any] = {
    "status": _STATUS,
    "stats": Each(_KIND),
    "busy": [(int, str)],
    "which": [_ROW],
    "flush": int,
    "move_down": str,
    "folded": str,
    **dict.fromkeys(("add", "delete", "modify", "refresh", "set_options"), _NOTHING),
    **dict.fromkeys(("commit_begins", "freeze_begins", "commit_ended"), _NOTHING),
}


def read(command: str, line: bytes) -> Any:
    """Return the result in the answer to `command`; OSError if it is a refusal, ValueError if it is no answer at all."""
    try:
        reply = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), bool):
        raise ValueError("it does not say whether it was done")
    if not reply["ok"]:
        number, message = reply.get("errno"), reply.get("message")
        if isinstance(number, int) and 0 < number <= _MOST_ERRNO and isinstance(message, str):
            raise OSError(number, message)
        raise ValueError("an error without number or text")
    result = reply.get("result")
    if not fits(result, _SHAPES[command]):
        raise ValueError(f"not what {command} returns")
    return result


def fits(value: Any, shape: Any) -> bool:
    """Tell whether a value from JSON has a shape; names beyond those of the shape do not matter."""
    if isinstance(shape, Maybe):
        return value is None or fits(value, shape.shape)
    if isinstance(shape, Each):
        return isinstance(value, dict) and all(fits(each, shape.shape) for each in value.values())
    if isinstance(shape, dict):
        return isinstance(value, dict) and all(fits(value.get(name), part) for name, part in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(each, shape[0]) for each in value)
    if isinstance(shape, tuple):
        pairs = zip(value, shape, strict=True) if isinstance(value, list) and len(value) == len(shape) else ()
        return bool(pairs) and all(fits(each, part) for each, part in pairs)
    return _is(value, shape)


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
