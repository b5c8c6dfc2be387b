# SPDX-License-Identifier: Apache-2.0
"""`make demo` goes through; what takes long in it is left out."""

import subprocess
import sys

from tests.support.box import ROOT, Box


def test_demo_shows_what_it_says_and_leaves_nothing(box: Box) -> None:
    """The container changes its own root and not the machine's, and the branch tells what changed."""
    done = subprocess.run(
        [sys.executable, "-m", "runtime.demo", "--short"],
        cwd=ROOT, env=box.environment(), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "/etc/apt:    still here",
        "unchanged",
        "removed  /usr/share/doc",
        "Nothing is left of it.",
    ):
        assert words in done.stdout
