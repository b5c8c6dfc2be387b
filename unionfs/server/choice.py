# SPDX-License-Identifier: Apache-2.0
"""Which session serves a mount."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from unionfs.errors import UserError

SESSIONS = ("auto", "direct", "pyfuse3")
# What the direct session takes for granted (FUSE 7.31), and what it speaks of more than that, came with this kernel.
_DIRECT_SINCE = (5, 4)


def choose_session(wanted: str) -> tuple[str, str]:
    """Return (session, why); UserError for one that cannot run here."""
    if wanted not in SESSIONS:
        raise UserError(f"unknown session {wanted!r}", f"choose one of {', '.join(SESSIONS)}")
    if wanted != "auto":
        return wanted, "asked for"
    preset = os.environ.get("UNIONFS_SESSION", "auto")
    if preset in SESSIONS and preset != "auto":
        return preset, "set in UNIONFS_SESSION"
    release = os.uname().release
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in (*release.split("."), "0")[:2])
    if (major, minor) >= _DIRECT_SINCE:
        return "direct", f"the faster one, and Linux {release} has what it needs"
    return "pyfuse3", f"Linux {release} is too old for the direct session, which needs 5.4"


def load_session(name: str) -> ModuleType:
    """Import the module of a session, if that was not done before."""
    return importlib.import_module(f"unionfs.session.{name}")
