# SPDX-License-Identifier: Apache-2.0
"""The suites: which workloads there are, and which of them are the quick twelve."""

from __future__ import annotations

from bench.machine import programs
from bench.workloads import (
    classic,
    concurrency,
    containers,
    copyup,
    cost,
    data,
    density,
    listing,
    metadata,
    realwork,
    scaling,
)
from bench.workloads.model import Workload
from unionfs.errors import UserError

_ALL = (
    *classic.WORKLOADS,
    data.BASIC,
    *data.WORKLOADS,
    *metadata.WORKLOADS,
    *listing.WORKLOADS,
    *copyup.WORKLOADS,
    *realwork.WORKLOADS,
    *concurrency.WORKLOADS,
    *cost.WORKLOADS,
    *containers.WORKLOADS,
    *density.WORKLOADS,
    *scaling.WORKLOADS,
    *listing.LARGE,
    *copyup.LARGE,
)
_QUICK = {
    "basic": ("sequential-read", "sequential-write", "random-read", "random-write"),
    "stat": ("stat-cold", "stat-warm"),
    "negative": ("negative-lookup-warm",),
    "open-read": ("open-read-close",),
    "create": ("create-write-close",),
    "list-10000": ("list-10000",),
    "tree": ("untar",),
    "copy-up-64KiB": ("copy-up-64KiB",),
}
SUITES: dict[str, str] = {
    "quick": "the figures that matter, in under three minutes",
    "classic": "sequential and random I/O: the four bars of the VM and container reports",
    "data": "file data with more block sizes and engines",
    "metadata": "names and attributes, cold and warm",
    "copyup": "the first write to a file of a read-only layer, against its size",
    "realwork": "tar, rm, find, grep, git, pip, npm, apt-get, make, SQLite",
    "concurrency": "1 to 16 clients, and latency beside a busy one",
    "cost": "processor time and memory of the server",
    "containers": "container runtimes: start, memory and disk of 1, 10 and 100 containers",
    "scaling": "1 to 500 layers, directories of 100,000 entries",
    "large": "a million entries, files of 1 and 4 GiB: once or twice only",
}


def workloads_of(suite: str) -> list[Workload]:
    """Return the workloads of one suite; UserError names the known ones."""
    if suite == "quick":
        known = {workload.name: workload for workload in (*_ALL, listing.QUICK, realwork.QUICK_TREE)}
        return [known[name].showing(figures) for name, figures in _QUICK.items()]
    if suite not in SUITES:
        raise UserError(f"unknown suite {suite!r}", f"known: {', '.join(SUITES)}", status=2)
    return [workload for workload in _ALL if workload.suite == suite]


def parse_suites(text: str) -> list[Workload]:
    """Read `SUITE,…` or `SUITE/WORKLOAD,…` into workloads, each once; UserError names what is unknown."""
    found: dict[str, Workload] = {}
    for word in text.split(","):
        suite, _, only = word.partition("/")
        known = {workload.name: workload for workload in workloads_of(suite)}
        if only and only not in known:
            raise UserError(f"unknown workload {word!r}", f"known: {', '.join(known)}", status=2)
        found |= {only: known[only]} if only else known
    return list(found.values())


def check_programs(workloads: list[Workload]) -> None:
    """UserError that names a missing program and the package that brings it, if none of the workloads can run without."""
    lacking = [programs.missing(workload.programs) for workload in workloads]
    if lacking and lacking[0] and all(lacking):
        program, package = lacking[0]
        raise UserError(f"{workloads[0].name} needs {program}", f"apt-get install {package}", status=2)
