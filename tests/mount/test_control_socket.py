# SPDX-License-Identifier: Apache-2.0
"""Whom a command reaches: the union it names, whichever servers come and go."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.union import Union, Workshop, eventually, program
from unionfs.kernel import mount_table


def _device(u: Union) -> str:
    found = mount_table.find(str(u.mnt))
    assert found is not None
    return found.device


def _is_answered_or_waits(client: subprocess.Popen[bytes]) -> bool:
    """Tell whether a client has ended or sleeps with a connection open."""
    if client.poll() is not None:
        return True
    try:
        links = [os.readlink(link) for link in Path(f"/proc/{client.pid}/fd").iterdir()]
        state = Path(f"/proc/{client.pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return False
    return state == "S" and any(link.startswith("socket:") for link in links)


@pytest.mark.parametrize(
    "turn", range(4)
)  # which of the two servers a client meets first is decided by their ids
def test_command_passes_over_a_server_whose_mount_is_gone(union: Workshop, turn: int) -> None:
    """The kernel gives its device number to the next mount while it may still be listening."""
    old = union.mount(B0={"f": "old"})
    number = _device(old)
    old.status()  # its server has nothing left to do at its start, which would keep the mount busy
    assert old.process is not None
    old.process.send_signal(signal.SIGSTOP)
    try:
        syscalls.umount2(str(old.mnt))
        for attempt in range(4):
            new = union.mount(branches={f"new{attempt}": {"f": "new"}})
            if _device(new) == number:
                break
        else:
            pytest.skip("the number went to somebody else's mount")
        client = subprocess.Popen([*program(), "status", "--json", str(new.mnt)], stdout=subprocess.PIPE)
        eventually(lambda: _is_answered_or_waits(client), "the client's connection")
    finally:
        old.process.send_signal(signal.SIGCONT)
    said = client.communicate()[0]
    assert client.returncode == 0
    assert json.loads(said)["mountpoint"] == str(new.mnt)
