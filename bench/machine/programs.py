# SPDX-License-Identifier: Apache-2.0
"""Programs that workloads use: where they are, and which package brings one that is missing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path


def find(program: str) -> str | None:
    """Return the path of a program: on PATH, or beside our interpreter, as pip is in a virtual environment."""
    beside = Path(sys.executable).parent
    return shutil.which(program, path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")


def missing(needed: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Return the first of the (program, package) pairs whose program is missing, or None."""
    return next((pair for pair in needed if find(pair[0]) is None), None)


def missing_text(needed: Iterable[tuple[str, str]]) -> str:
    """Return the same as a sentence for people, or nothing."""
    pair = missing(needed)
    return f"{pair[0]} is not installed; apt-get install {pair[1]}" if pair else ""
