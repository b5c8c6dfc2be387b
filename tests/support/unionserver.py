# SPDX-License-Identifier: Apache-2.0
"""Serves the unions of containers that `unionrt` mounts: what a bundle's `source` names."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.oci import channel, jsontext
from tests.support.oci import PATIENCE, ROOT
from unionfs.branches.branch import Branch
from unionfs.filesystem import UnionFilesystem
from unionfs.options.table import Options
from unionfs.server.process import Server


@contextmanager
def serving(socket: Path, count: int, *branches: str, status: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Serve `count` mounts of a union of `branches` (DIR=PERM) at `socket`; its output tells what is mounted where.

    At the end the server must have ended, with `status`.
    """
    command = [sys.executable, "-m", __name__, str(socket), str(count), *branches]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None and server.stdout.readline() == "listening\n"
        try:
            yield server
            assert server.wait(PATIENCE) == status
        finally:
            server.kill()


def main(socket: str, count: str, *branches: str) -> None:
    """Take so many descriptors and serve each until its mount has gone."""
    signal.alarm(100)
    listener = channel.listen(socket)
    print("listening", flush=True)
    server = Server()
    for _ in range(int(count)):
        word, text, descriptors = channel.receive(channel.accept(listener))
        assert word == "fuse"
        print(jsontext.loads(text)["destination"], flush=True)
        filesystem = UnionFilesystem.open(
            [Branch.parse(branch) for branch in branches], Options(), overlap_ok=True
        )
        server.add(filesystem, descriptors[0], mountpoint=None, control=False)
    server.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
