# SPDX-License-Identifier: Apache-2.0
"""Where tests run the programs as people do: two branches and a mount point, and what a refusal must look like."""

import subprocess
from pathlib import Path

from tests.support import syscalls
from tests.support.union import is_mounted


class Place:
    """Two branches and a mount point, unmounted at the end whatever happened."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rw, self.ro, self.mnt = root / "rw", root / "ro", root / "mnt"
        for path in (self.rw, self.ro, self.mnt):
            path.mkdir()
            path.chmod(0o755)
        (self.ro / "file").write_text("low\n")
        self.options = f"br:{self.rw}=rw:{self.ro}=ro+wh"

    def clean(self) -> None:
        """Detach whatever is still mounted."""
        while is_mounted(self.mnt):
            syscalls.umount2(str(self.mnt), syscalls.MNT_DETACH)


def refused(done: subprocess.CompletedProcess[str], words: str, status: int = 1) -> None:
    """Fail unless the program ended with one line that holds `words` and with this exit code."""
    assert done.returncode == status, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
