# SPDX-License-Identifier: Apache-2.0
"""JSON without the package `json`, whose regular expressions take longer to import than a container to start.

The interpreter's own scanner and encoder do the work; only the white space around a document is ours.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SPACE = " \t\n\r"


def _number(text: str) -> float | int:
    """Return a number with a point or an exponent; some writers write integers so."""
    value = float(text)
    return int(value) if value.is_integer() else value


class _Context:
    """What the scanner asks of `json.JSONDecoder`."""

    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = staticmethod(_number)
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  # the scanner clears it itself


_scan = _json.make_scanner(_Context())  # type: ignore[arg-type]  # stubs want a JSONDecoder


def loads(text: str) -> Any:
    """Return the value that `text` holds; ValueError says where it is malformed."""
    start = _skip(text, 0)
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"no JSON value at {_place(text, stop.value)}") from None
    except SystemError:  # it wants to raise json.JSONDecodeError, which nobody imported
        import json

        json.loads(text)
        raise
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:  # of int, with advice for programmers
        raise ValueError("a number has thousands of digits") from None
    end = _skip(text, end)
    if end != len(text):
        raise ValueError(f"more text after the JSON value at {_place(text, end)}")
    return value


def dumps(value: Any) -> str:
    """Return `value` as one line of JSON in ASCII; lone surrogates (undecodable bytes) survive a round trip."""
    encode = _json.make_encoder(
        None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True
    )
    return "".join(encode(value, 0))


def pretty(value: Any, indent: str = "\t", depth: int = 0) -> str:
    """Return `value` as indented JSON, for people."""
    inner, outer = "\n" + indent * (depth + 1), "\n" + indent * depth
    if isinstance(value, dict) and value:
        parts = (f"{dumps(str(key))}: {pretty(item, indent, depth + 1)}" for key, item in value.items())
        return "{" + inner + f",{inner}".join(parts) + outer + "}"
    if isinstance(value, list | tuple) and value:
        return "[" + inner + f",{inner}".join(pretty(item, indent, depth + 1) for item in value) + outer + "]"
    return dumps(value)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


def _place(text: str, position: int) -> str:
    line = text.count("\n", 0, position) + 1
    return f"line {line} column {position - text.rfind(chr(10), 0, position)}"


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")
