# SPDX-License-Identifier: Apache-2.0
"""Work as people do it: unpack and remove a source tree, search it, pack it, git, SQLite, compile."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from bench.client import Figures, MeasurementError, Place, Sample, Timing, expect
from bench.layers import Layers, pattern
from bench.workloads.model import Figure, MiB, Workload

_NAME = "source"
_QUICK_FILES = 300
_FULL_FILES = 4000


def _size_of(number: int) -> int:
    """Return sizes spread like those of a source tree: many small, few big (median near 4 KiB)."""
    return 200 + (number * 7919 % 101) ** 2 * (1 + number % 3)


def _tree_name(number: int) -> str:
    return f"{_NAME}/part{number % 7}/module{number % 59}/file{number}.c"


def tarball(scratch: Path, files: int) -> Path:
    """Return a tar of `files` files; it is made once and kept."""
    path = scratch / f"source{files}.tar"
    if not path.exists():
        with tarfile.open(path.with_suffix(".new"), "w") as archive:
            for number in range(files):
                member = tarfile.TarInfo(_tree_name(number))
                member.size = _size_of(number)
                archive.addfile(member, io.BytesIO(pattern(number, member.size)))
        path.with_suffix(".new").rename(path)
    return path


def _command(place: Place, *words: str, codes: tuple[int, ...] = (0,)) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(place.scratch)}
    done = subprocess.run(words, cwd=place.mount, capture_output=True, env=environment)
    if done.returncode not in codes:
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1][:160]
        raise MeasurementError("failed", f"{words[0]}: {said or done.returncode}")
    return done


def _sample(timing: Timing, operations: int) -> Sample:
    return Sample(timing.seconds, operations, timing.server_cpu)


def _expect_tree(root: Path, files: int) -> None:
    sizes = {p.name: p.stat().st_size for p in root.rglob("*.c")}
    expect(len(sizes) == files, f"{len(sizes)} of {files} files are in {root}")
    for number in range(0, files, 50):
        path = root / Path(_tree_name(number)).relative_to(_NAME)
        expect(path.read_bytes() == pattern(number, _size_of(number)), f"{path} has a wrong content")


def _unpack_and_remove(files: int, suffix: str) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        archive = tarball(place.scratch, files)
        archive.read_bytes()
        with place.timed() as unpacking:
            _command(place, "tar", "xf", str(archive), "--no-same-owner")
        _expect_tree(place.mount / _NAME, files)
        _expect_tree(place.upper / _NAME, files)
        place.settle()
        with place.timed() as removing:
            _command(place, "rm", "-rf", _NAME)
        expect(not (place.mount / _NAME).exists(), "the removed tree is still there")
        return {f"untar{suffix}": _sample(unpacking, files), f"remove-tree{suffix}": _sample(removing, files)}

    return run


def _unpack(files: int, suite: str, suffix: str) -> Workload:
    figures = (
        Figure(f"untar{suffix}", f"tar x of a tree of {files:,} files", state="page cache"),
        Figure(f"remove-tree{suffix}", "rm -rf of that tree", state="warm"),
    )
    return Workload(
        f"tree{suffix}", suite, figures, _unpack_and_remove(files, suffix), size=files * 16384,
        programs=(("tar", "tar"),), limit=60 + files / 50,
    )  # fmt: skip


def build_tree(layers: Layers) -> None:
    """Make the source tree in the layers, half of it in one and half in another."""
    for number in range(_FULL_FILES):
        layers.write(
            _tree_name(number).replace(_NAME, "tree", 1), pattern(number, _size_of(number)), number // 59
        )


def _search(place: Place) -> Figures:
    total = sum(_size_of(number) for number in range(_FULL_FILES))
    place.drop_dentries()
    with place.timed() as finding:
        found = _command(place, "find", "tree", "-type", "f", "-size", "+0").stdout
    expect(found.count(b"\n") == _FULL_FILES, "find missed files")
    with place.timed() as searching:
        hits = _command(place, "grep", "-rlF", "unionbench 000000000007 ", "tree").stdout
    expect(hits.count(b"\n") == 1, "grep found a wrong number of files")
    with place.timed() as packing:
        packed = len(_command(place, "tar", "cf", "-", "tree").stdout)
    expect(packed > total, "tar packed too little")
    return {
        "find": _sample(finding, _FULL_FILES),
        "grep": _sample(searching, _FULL_FILES),
        "tar-create": _sample(packing, _FULL_FILES),
    }


def _remove_lower(place: Place) -> Figures:
    with place.timed() as timing:
        shutil.rmtree(place.path("tree"))
    expect(not os.path.exists(place.path("tree")), "the removed tree is still there")
    return {"remove-lower-tree": _sample(timing, _FULL_FILES)}


def _sqlite(place: Place) -> Figures:
    rows = 5000
    database = sqlite3.connect(place.path("test.db"), isolation_level=None)
    try:
        database.execute("pragma journal_mode=wal")
        database.execute("create table t (k integer primary key, v blob)")
        with place.timed() as timing:
            for start in range(0, rows, 50):
                database.execute("begin")
                database.executemany(
                    "insert into t values (?, ?)", ((k, bytes(200)) for k in range(start, start + 50))
                )
                database.execute("commit")
            for key in range(0, rows, 5):
                expect(
                    database.execute("select length(v) from t where k = ?", (key,)).fetchone() == (200,),
                    "a row is lost",
                )
        expect(database.execute("pragma integrity_check").fetchone() == ("ok",), "the database is damaged")
    finally:
        database.close()
    return {"sqlite-wal": _sample(timing, rows)}


def _git(place: Place) -> Figures:
    shutil.copytree(place.path("tree/part1"), place.path("repo"))
    git = (
        "git",
        "-c",
        "user.name=b",
        "-c",
        "user.email=b@example.org",
        "-c",
        "safe.directory=*",
        "-c",
        "gc.auto=0",
    )
    _command(place, *git, "init", "-q", "repo")
    inside = (*git, "-C", "repo")
    _command(place, *inside, "add", ".")
    _command(place, *inside, "commit", "-qm", "all")
    with place.timed() as cloning:
        _command(place, *git, "clone", "-q", "--no-hardlinks", "repo", "clone")
    with place.timed() as asking:
        status = _command(place, *git, "-C", "clone", "status", "--porcelain").stdout
    expect(not status, "git status sees changes in a fresh clone")
    with place.timed() as packing:
        _command(place, *git, "-C", "clone", "gc", "-q")
    _command(place, *git, "-C", "clone", "fsck", "--strict")
    return {"git-clone": _sample(cloning, 1), "git-status": _sample(asking, 1), "git-gc": _sample(packing, 1)}


def _source(number: int) -> str:
    calls = "\n".join(f"int f{number}_{i}(int x) {{ return x * {i} + {number}; }}" for i in range(60))
    return f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{calls}\n"


def _build_sources(layers: Layers) -> None:
    for number in range(40):
        layers.write(f"csource/m{number}.c", _source(number).encode(), number)
    layers.write(
        "csource/main.c",
        b'#include <stdio.h>\nint f7_3(int);\nint main(void) { printf("%d\\n", f7_3(5)); }\n',
    )


def _compile(place: Place) -> Figures:
    with place.timed() as timing:
        for number in range(40):
            _command(place, "gcc", "-O0", "-c", f"csource/m{number}.c", "-o", f"csource/m{number}.o")
        objects = [f"csource/m{number}.o" for number in range(40)]
        _command(place, "gcc", "csource/main.c", *objects, "-o", "csource/program")
    expect(_command(place, place.path("csource/program")).stdout == b"22\n", "the compiled program is wrong")
    return {"compile": _sample(timing, 41)}


def _one(name: str, title: str, state: str = "warm") -> tuple[Figure, ...]:
    return (Figure(name, title, state=state),)


QUICK_TREE = _unpack(_QUICK_FILES, "quick", "")
WORKLOADS = (
    _unpack(_FULL_FILES, "real", f"-{_FULL_FILES}"),
    Workload("search", "real", (
        *_one("find", "find in a tree of 4,000 lower files", "dentries dropped"),
        *_one("grep", "grep -r in it"), *_one("tar-create", "tar c of it")), _search, build_tree, size=80 * MiB),
    Workload("sqlite", "real", _one("sqlite-wal", "SQLite, WAL: 5,000 inserts, 1,000 selects", "to the disk"), _sqlite),
    Workload("git", "real", (*_one("git-clone", "git clone of a local repository"), *_one("git-status", "git status"),
             *_one("git-gc", "git gc")), _git, build_tree, size=96 * MiB, programs=(("git", "git"),)),
    Workload("compile", "real", _one("compile", "compile 41 C files"), _compile, _build_sources,
             programs=(("gcc", "gcc"),)),
    Workload("remove-lower", "real", _one("remove-lower-tree", "remove a tree of 4,000 lower files"), _remove_lower,
             build_tree, size=80 * MiB, needs=frozenset({"whiteout"})),
)  # fmt: skip
