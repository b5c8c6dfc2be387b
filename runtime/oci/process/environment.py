# SPDX-License-Identifier: Apache-2.0
"""The environment of a process, as bytes, and where its program lies by PATH."""

from __future__ import annotations

from runtime.oci.failure import Failure

DEFAULT_PATH = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def encode(text: str, key: str) -> bytes:
    """Return `text` of a JSON document as the kernel wants it; undecodable bytes travel as lone surrogates."""
    data = text.encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise Failure(f"{key}: a NUL cannot be passed to a program")
    return data


def lower(variables: list[str] | None, key: str = "process.env") -> dict[bytes, bytes]:
    """Return NAME=VALUE lines as a dictionary; of a name that comes twice the last counts."""
    result: dict[bytes, bytes] = {}
    for line in variables or ():
        name, equals, value = encode(line, key).partition(b"=")
        if not equals or not name:
            raise Failure(f"{key}: {line!r} is not NAME=VALUE")
        result[name] = value
    return result


def candidates(name: bytes, variables: dict[bytes, bytes]) -> list[bytes]:
    """Return the paths to try for the program `name`; one with a slash is a path itself."""
    if b"/" in name:
        return [name]
    search = variables.get(b"PATH", DEFAULT_PATH)
    return [(directory or b".") + b"/" + name for directory in search.split(b":")] if name else []
