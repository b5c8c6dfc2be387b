# SPDX-License-Identifier: Apache-2.0
"""Directories of 10 to 1,000,000 entries and trees of 50,000 files: listed, with attributes and without, cold and warm."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import cache

from bench.machine.client import Figures, MeasurementError, Place, Sample, expect, time_each
from bench.machine.layers import Build, Layers
from bench.targets.model import MANY
from bench.workloads.model import Figure, Workload

_COPIES_BELOW = (
    10_000  # smaller directories come in several copies: one cold listing of ten names says little
)
_COPIES = 5
_BIG = 100_000
_TREE = 50_000
_TREE_DIRECTORIES = 500


def _name(count: int, copy: int = 0) -> str:
    return f"entries{count}/c{copy}"


def _copies(count: int) -> int:
    return _COPIES if count < _COPIES_BELOW else 1


@cache  # the workloads of one size share their directories
def _build(count: int) -> Build:
    def build(layers: Layers) -> None:
        for copy in range(_copies(count)):
            name = _name(count, copy)
            directories = [layers.path(f"{name}/x", number).parent for number in range(len(layers.roots))]
            for number in range(count):
                os.mknod(directories[number % len(directories)] / f"entry{number:07d}")

    return build


def _names(path: str, attributes: bool) -> int:
    """List a directory, with the attributes of each entry if asked, and return how many different names it has."""
    with os.scandir(path) as entries:
        if not attributes:
            return len({entry.name for entry in entries})
        return len({entry.name for entry in entries if entry.stat(follow_symlinks=False).st_size == 0})


def _timed(place: Place, count: int, attributes: bool) -> Sample:
    found: list[int] = []
    sample = time_each(
        place,
        lambda copy: found.append(_names(place.path(_name(count, copy)), attributes)),
        count=_copies(count),
    )
    expect(set(found) == {count}, f"{found} entries were listed instead of {count}")
    return sample


def _list(count: int, kinds: tuple[str, ...], warm: bool) -> Callable[[Place], Figures]:
    def run(place: Place) -> Figures:
        found: Figures = {}
        for kind in kinds:
            place.drop_dentries()
            found[f"{kind}-{count}"] = _timed(place, count, kind == "list")
            if warm:
                found[f"{kind}-{count}-warm"] = _timed(place, count, kind == "list")
        place.drop_dentries()  # lest servers forget in the next one's time
        return found

    return run


def _figures(count: int, kinds: tuple[str, ...], warm: bool, note: str = "") -> tuple[Figure, ...]:
    found: list[Figure] = []
    for kind in kinds:
        for state in ("cold", "warm") if warm else ("cold",):
            program = {"list": "ls -l", "readdir": "readdir"}[kind]
            name = f"{kind}-{count}{'-warm' if state == 'warm' else ''}"
            shown = state + note
            found.append(
                Figure(
                    name, f"{program} of {count:,} entries", state=shown, curve=f"{program}, {state}", x=count
                )
            )
    return tuple(found)


def listing(
    count: int, suite: str, kinds: tuple[str, ...] = ("readdir", "list"), warm: bool = True
) -> Workload:
    """Return the workload that lists a directory of `count` entries, which all layers share."""
    big = count >= _BIG
    rounds = {100_000: 3, 1_000_000: 1}.get(count, 0)
    note = f"; {rounds} round{'s' if rounds > 1 else ''} at most" if rounds else ""
    seconds = 0.1 + len(kinds) * count * (60e-6 if count > _BIG else 40e-6)
    name = f"entries-{count}" if warm else f"list-{count}"
    return Workload(
        name, suite, _figures(count, kinds, warm, note), _list(count, kinds, warm), _build(count),
        size=count * _copies(count) * 512, limit=60 + count / 1500, group=f"{count}" if big else "", rounds=rounds,
        needs=frozenset({MANY}) if count > _BIG else frozenset(), seconds=seconds,
    )  # fmt: skip


# -- trees ------------------------------------------------------------------------------------------------------------


def tree_name(number: int) -> str:
    """Return the name of a file of the tree of 50,000."""
    directory = number % _TREE_DIRECTORIES
    return f"tree/p{directory % 20}/d{directory}/file{number:05d}"


def build_tree(layers: Layers) -> None:
    """Make the tree, each directory in all layers."""
    for directory in range(_TREE_DIRECTORIES):
        for layer in range(len(layers.roots)):
            layers.path(tree_name(directory), layer)
    for number in range(_TREE):
        layer = number // _TREE_DIRECTORIES % len(layers.roots)
        os.mknod(layers.roots[layer] / tree_name(number))


def _lines(place: Place, *words: str) -> list[bytes]:
    environment = os.environ | {"LC_ALL": "C"}
    done = subprocess.run(words, cwd=place.mount, capture_output=True, env=environment)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().split("\n")[-1][:160]
        raise MeasurementError("failed", f"{words[0]}: {said or done.returncode}")
    return done.stdout.split(b"\n")


def _walk(place: Place) -> Figures:
    place.drop_dentries()
    with place.timed() as finding:
        found = _lines(place, "find", "tree", "-type", "f")
    expect(len({line for line in found if line}) == _TREE, "find missed files or saw some twice")
    place.drop_dentries()
    with place.timed() as listing:
        listed = _lines(place, "ls", "-lR", "tree")
    names = {line.rsplit(b" ", 1)[1] for line in listed if line.startswith(b"-")}
    expect(len(names) == _TREE, f"ls -lR showed {len(names)} of {_TREE} files")
    with place.timed() as again:
        listed = _lines(place, "ls", "-lR", "tree")
    expect(sum(line.startswith(b"-") for line in listed) == _TREE, "ls -lR missed files")
    place.drop_dentries()
    return {
        f"{name}-{_TREE}{state}": Sample(timing.seconds, _TREE, timing.server_cpu)
        for name, state, timing in (("find", "", finding), ("ls-lR", "", listing), ("ls-lR", "-warm", again))
    }


TREE_FILES = _TREE
TREE_GROUP = "tree"
_WALK = Workload(
    "walk", "metadata", (
        Figure(f"find-{_TREE}", f"find in a tree of {_TREE:,} files", state="cold; 3 rounds at most"),
        Figure(f"ls-lR-{_TREE}", "ls -lR of it", state="cold; 3 rounds at most"),
        Figure(f"ls-lR-{_TREE}-warm", "ls -lR of it", state="warm; 3 rounds at most")),
    _walk, build_tree, size=_TREE * 512, limit=180, group=TREE_GROUP, rounds=3, seconds=8,
    programs=(("find", "findutils"), ("ls", "coreutils")),
)  # fmt: skip
QUICK = listing(10_000, "quick", kinds=("list",), warm=False)
WORKLOADS = (*(listing(count, "metadata") for count in (10, 100, 1000, 10_000)), _WALK)
SCALING = (listing(100_000, "scaling"),)
LARGE = (listing(1_000_000, "large", warm=False),)
