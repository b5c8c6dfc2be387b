# SPDX-License-Identifier: Apache-2.0
"""A source tree: unpack and remove it, and search, pack and remove one that is in the layers."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.machine.client import Figures, Place, expect
from bench.machine.layers import Layers, pattern
from bench.workloads.model import Figure, MiB, Workload
from bench.workloads.realwork.command import command, sample, timed
from bench.workloads.realwork.files import count_files, expect_files, prepared, size_of

FILES = 4000
_QUICK_FILES = 300


def tree_files(count: int = FILES) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files of a source tree."""
    for number in range(count):
        name = f"part{number % 7}/module{number % 59}/file{number}.c"
        yield name, pattern(number, size_of(number))


def tarball(scratch: Path, count: int = FILES) -> Path:
    """Return a tar of the tree below `source/`."""

    def make(directory: Path) -> None:
        with tarfile.open(directory / "source.tar", "w") as archive:
            for name, data in tree_files(count):
                member = tarfile.TarInfo(f"source/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    return prepared(scratch, f"tarball{count}", make) / "source.tar"


def _unpack_and_remove(count: int, suffix: str) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        archive = tarball(place.scratch, count)
        with timed(place) as unpacking:
            command(place, "tar", "xf", archive, "--no-same-owner")
        expect_files(place, "source", tree_files(count))
        expect(count_files(place.mount / "source") == count, "tar unpacked too many files")
        with timed(place) as removing:
            command(place, "rm", "-rf", "source")
        expect(not (place.mount / "source").exists(), "the removed tree is still there")
        expect(
            not (place.upper / "source").is_dir(), "the removed tree is still in the branch"
        )  # a whiteout may be
        return {f"untar{suffix}": sample(unpacking, count), f"remove-tree{suffix}": sample(removing, count)}

    return run


def _unpack(count: int, suite: str, suffix: str) -> Workload:
    figures = (
        Figure(f"untar{suffix}", f"tar x of a tree of {count:,} files", state="page cache"),
        Figure(f"remove-tree{suffix}", "rm -rf of that tree", state="warm"),
    )
    return Workload(
        f"tree{suffix}", suite, figures, _unpack_and_remove(count, suffix), size=count * 16384,
        programs=(("tar", "tar"),), limit=60 + count / 50, prepare=partial(tarball, count=count),
        seconds=0.2 + count / 1500,
    )  # fmt: skip


def _build_tree(layers: Layers) -> None:
    """Make the tree in the layers: a directory's files come from several."""
    for number, (name, data) in enumerate(tree_files()):
        layers.write(f"tree/{name}", data, number // 59)


def _search(place: Place) -> Figures:
    total = sum(map(size_of, range(FILES)))
    place.drop_dentries()
    with timed(place) as finding:
        found = command(place, "find", "tree", "-type", "f", "-size", "+0")
    expect(
        len(set(found.splitlines())) == found.count(b"\n") == FILES, "find missed files, or saw some twice"
    )
    with timed(place) as searching:
        hits = command(place, "grep", "-rlF", "unionbench 000000000007 ", "tree")
    expect(hits == b"tree/part0/module7/file7.c\n", "grep found a wrong file")
    with timed(place) as packing:
        # Into a pipe: tar reads nothing when it sees that its output is /dev/null.
        packed = command(place, "tar", "cf", "-", "tree")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        sizes = [member.size for member in archive if member.isfile()]
    expect(len(sizes) == FILES and sum(sizes) == total, "tar packed a wrong tree")
    return {
        "find": sample(finding, FILES),
        "grep": sample(searching, FILES),
        "tar-create": sample(packing, FILES),
    }


def _remove_lower(place: Place) -> Figures:
    with timed(place) as timing:
        command(place, "rm", "-rf", "tree")
    expect(not (place.mount / "tree").exists(), "the removed tree is still there")
    return {"remove-lower-tree": sample(timing, FILES)}


_SEARCHES = (
    Figure("find", f"find in a tree of {FILES:,} lower files", state="dentries dropped"),
    Figure("grep", "grep -r in it", state="warm"),
    Figure("tar-create", "tar c of it", state="warm"),
)
_REMOVAL = Figure("remove-lower-tree", f"rm -rf of a tree of {FILES:,} lower files", state="warm")

QUICK = _unpack(_QUICK_FILES, "quick", "")
WORKLOADS = (
    _unpack(FILES, "realwork", f"-{FILES}"),
    Workload("search", "realwork", _SEARCHES, _search, _build_tree, size=80 * MiB, seconds=1.5,
             programs=(("find", "findutils"), ("grep", "grep"), ("tar", "tar"))),
    Workload("remove-lower", "realwork", (_REMOVAL,), _remove_lower, _build_tree, size=80 * MiB, seconds=1,
             needs=frozenset({"whiteout"})),
)  # fmt: skip
