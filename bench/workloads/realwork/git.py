# SPDX-License-Identifier: Apache-2.0
"""git: clone a repository of 4,000 files, ask for its status, commit changes, pack them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.machine.client import Figures, MeasurementError, Place, expect
from bench.workloads.model import Figure, MiB, Workload
from bench.workloads.realwork.command import command, sample, timed
from bench.workloads.realwork.files import expect_files, prepared
from bench.workloads.realwork.tree import FILES, tree_files

_CHANGED = 10  # one file in so many is changed and committed
_GIT = (
    "git", "-c", "user.name=unionbench", "-c", "user.email=unionbench@localhost", "-c", "safe.directory=*",
    "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "advice.detachedHead=false",
)  # fmt: skip


def _origin(scratch: Path) -> Path:
    """Return a bare repository whose one commit is the tree, in one pack."""
    return prepared(scratch, "origin.git", _make_origin)


def _make_origin(directory: Path) -> None:
    """Feed fast-import: no work tree of 4,000 files is needed."""
    stream = [b"commit refs/heads/main\ncommitter unionbench <unionbench@localhost> 0 +0000\ndata 4\ntree\n"]
    for name, data in tree_files():
        stream.append(b"M 644 inline %s\ndata %d\n%s\n" % (name.encode(), len(data), data))
    for words, fed in (
        (("init", "-q", "--bare", "-b", "main"), b""),
        (("fast-import", "--quiet"), b"".join(stream)),
    ):
        done = subprocess.run([*_GIT, *words], cwd=directory, input=fed, capture_output=True)
        if done.returncode:
            raise MeasurementError("failed", f"git: {done.stderr.decode(errors='replace').strip()[-160:]}")


def _run(place: Place) -> Figures:
    origin = _origin(place.scratch)
    inside = (*_GIT, "-C", "clone")
    with timed(place) as cloning:
        # --no-local: with a pack and a checkout, as from a server, not with links to the files of the origin.
        command(place, *_GIT, "clone", "-q", "--no-local", origin, "clone")
    expect_files(place, "clone", tree_files())
    expect(not command(place, *inside, "status", "--porcelain"), "git status sees changes in a fresh clone")
    place.drop_dentries()
    with timed(place) as asking:
        status = command(place, *inside, "status", "--porcelain")
    expect(not status, "git status sees changes in a fresh clone")
    changed = _change(place)
    with timed(place) as committing:
        command(place, *inside, "add", "-A")
        command(place, *inside, "commit", "-qm", "changes")
    listed = command(place, *inside, "diff", "--name-only", "HEAD~1", "HEAD").decode().splitlines()
    expect(sorted(listed) == sorted(changed), "git committed other files than were changed")
    with timed(place) as packing:
        command(place, *inside, "gc", "-q", "--prune=now")
    _expect_sound(place, inside)
    return {
        "git-clone": sample(cloning, FILES),
        "git-status": sample(asking, FILES),
        "git-commit": sample(committing, len(changed)),
        "git-gc": sample(packing, 1),
    }


def _change(place: Place) -> list[str]:
    changed = [name for name, _ in tree_files()][::_CHANGED]
    for name in changed:
        with (place.mount / "clone" / name).open("ab") as stream:
            stream.write(b"changed\n")
    return changed


def _expect_sound(place: Place, inside: tuple[str, ...]) -> None:
    """Everything is in one pack, nothing is lost."""
    command(place, *inside, "fsck", "--strict")
    counts = dict(
        line.split(": ") for line in command(place, *inside, "count-objects", "-v").decode().splitlines()
    )
    expect(counts["count"] == "0" and counts["packs"] == "1", "git gc left loose objects")
    expect(not command(place, *inside, "status", "--porcelain"), "git status sees changes after the commit")


WORKLOADS = (
    Workload("git", "realwork", (
        Figure("git-clone", f"git clone of {FILES:,} files", state="page cache"),
        Figure("git-status", "git status in it", state="dentries dropped"),
        Figure("git-commit", f"git add, commit of {FILES // _CHANGED} changed files", state="warm"),
        Figure("git-gc", "git gc", state="warm")), _run, size=128 * MiB,
        programs=(("git", "git"),), limit=180, seconds=5, prepare=_origin),
)  # fmt: skip
