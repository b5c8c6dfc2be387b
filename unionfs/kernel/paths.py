# SPDX-License-Identifier: Apache-2.0
"""Paths that people give, made independent of the working directory without changing what they mean."""

import os


def absolute(path: str) -> str:
    """Return `path` from the root.

    `..` stays where it is: behind a symbolic link it does not lead back, so it must not be cut as text. The kernel follows it.
    """
    joined = os.path.join(os.getcwd(), path) if not path.startswith("/") else path
    parts = [part for part in joined.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)
