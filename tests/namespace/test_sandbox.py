# SPDX-License-Identifier: Apache-2.0
"""`.ci/sandbox`, in which the tests run: what is interrupted has a moment to tell what it knows, and leaves nothing."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.union import DEADLINE, eventually

SANDBOX = Path(__file__).parents[2] / ".ci/sandbox"
TELLS = """trap 'echo told; exit 3' INT; touch $TMPDIR/mine; mkdir $TMPDIR/m; mount -t tmpfs none $TMPDIR/m
sleep 1000 & touch "$0"; while :; do sleep 0.05; done"""


@pytest.mark.skipif(os.geteuid() != 0, reason="private namespaces need root")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_command_tells_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    """The signal goes to the sandbox alone, as from make(1); its status is the command's."""
    started, place = tmp_path / "started", tmp_path / "place"
    place.mkdir()
    process = subprocess.Popen(
        [SANDBOX, "sh", "-c", TELLS, started],
        env=os.environ | {"TMPDIR": str(place)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(started.exists, "the command has started")
    process.send_signal(number)
    output, said = process.communicate(timeout=DEADLINE)
    assert (process.returncode, output) == (3, "told\n")
    assert said.startswith("interrupted")
    assert list(place.iterdir()) == []
