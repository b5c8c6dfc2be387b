# SPDX-License-Identifier: Apache-2.0
"""Millions of mixed operations on one direct mount; fails if the server's memory or descriptors grow after warm-up.

    make soak SOAK_OPERATIONS=10000000        or:  .ci/sandbox python -m tests.soak --seconds 600

Every ten seconds one line: operations so far, operations per second, RSS, descriptors, nodes, open files.
"""

import argparse
import ctypes
import errno
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawArray
from pathlib import Path
from typing import NamedTuple

from tests.soak.client import LOWER_FILES, MAPPED, Client, Shared
from tests.support import tree
from tests.support.union import Union, Workshop, eventually, unionfs

INTERVAL = 10.0  # seconds
WARM_UP = 0.3  # of the samples; the rest is compared in halves
TOLERANCE = 1.05
SLACK = {"rss_kib": 1024, "descriptors": 32}


class Sample(NamedTuple):
    """What one line shows."""

    seconds: float
    operations: int
    rss_kib: int
    descriptors: int
    nodes: int
    handles: int


def measure(union: Union, began: float, operations: int) -> Sample:
    """Look at the server from outside, and ask it for its counters."""
    status = Path(f"/proc/{union.pid}/status").read_text()
    rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    descriptors = len(os.listdir(f"/proc/{union.pid}/fd"))
    counters = union.status()["counters"]
    return Sample(
        time.monotonic() - began, operations, rss, descriptors, counters["nodes"], counters["handles"]
    )


def growth(samples: list[Sample]) -> list[str]:
    """Return what grew: the medians of the two halves after the warm-up."""
    warm = samples[int(len(samples) * WARM_UP) :]
    if len(warm) < 6:
        return []
    half = len(warm) // 2
    found = []
    for what, slack in SLACK.items():
        first, second = (
            sorted(getattr(s, what) for s in part)[half // 2] for part in (warm[:half], warm[half:])
        )
        if second > first * TOLERANCE + slack:
            found.append(f"{what} grew from {first} to {second}")
    return found


def work(client: Client, counts: Shared, slot: int, stop: Shared) -> None:
    """Run one client in a process of its own."""
    client.run(counts, slot, stop)
    errors = ", ".join(f"{name} {count}" for name, count in client.errors.most_common())
    print(f"client {slot}: {counts[slot]:,} operations; {errors}", flush=True)


def soak(shop: Workshop, operations: int, seconds: float, clients: int) -> list[str]:
    """Run the whole thing; return what went wrong."""
    files = {f"room{c}/f{n}": f"{c} {n}" * (n * 7 % 1500) for c in range(clients) for n in range(LOWER_FILES)}
    rooms: tree.Tree = {**files, **{f"room{c}/{MAPPED}": "mapped" * 1000 for c in range(clients)}}
    union = shop.mount(
        B0=shop.filesystem("B0", {f"room{c}": tree.Dir() for c in range(clients)}),
        B1=shop.filesystem("B1", rooms),
    )
    empty = union.status()["counters"]
    context = multiprocessing.get_context("fork")
    counts, stop = RawArray(ctypes.c_uint64, clients), RawArray(ctypes.c_int, 1)
    processes: list[BaseProcess] = [
        context.Process(target=work, args=(Client(union.mnt, union.branch(0), n, clients), counts, n, stop))
        for n in range(clients)
    ]
    for process in processes:
        process.start()
    samples = watch(union, processes, counts, operations, seconds)
    stop[0] = 1
    for process in processes:
        process.join()
    problems = [f"client {n} ended with {p.exitcode}" for n, p in enumerate(processes) if p.exitcode]
    eventually(lambda: emptied(union.mnt), "the removal of all rooms")
    # Not pseudo-links: a name that was taken away directly is not counted, and the flush at umount puts that right.
    left = {name: union.status()["counters"][name] - empty[name] for name in ("nodes", "handles")}
    if any(left.values()):
        problems.append(f"left after everything was removed: {left}")
    union.stop()
    done = unionfs("check", union.branch(0), check=False)
    if done.returncode:
        problems.append(f"unionfs check: {done.stdout}{done.stderr}")
    return problems + growth(samples)


def emptied(mountpoint: Path) -> bool:
    """Remove everything; false if a name was still cached (for a second) whose copy was taken away directly."""
    try:
        for room in os.listdir(mountpoint):
            shutil.rmtree(mountpoint / room)
    except OSError as error:
        if error.errno not in (errno.ESTALE, errno.ENOENT):
            raise
        return False
    return True


def watch(
    union: Union,
    processes: list[BaseProcess],
    counts: Shared,
    operations: int,
    seconds: float,
) -> list[Sample]:
    """Print a line each interval until there were enough operations, the time is over, or a client ended."""
    began = time.monotonic()
    samples: list[Sample] = []
    last = 0
    print("seconds  operations      /s   RSS KiB  descriptors  nodes  open", flush=True)
    while sum(counts) < operations and all(process.is_alive() for process in processes):
        processes[0].join(INTERVAL)
        now = measure(union, began, sum(counts))
        samples.append(now)
        rate = (now.operations - last) / INTERVAL
        last = now.operations
        print(
            f"{now.seconds:7.0f} {now.operations:11,} {rate:7,.0f} {now.rss_kib:9,} {now.descriptors:12,}"
            f" {now.nodes:6,} {now.handles:5}",
            flush=True,
        )
        if now.seconds >= seconds:
            break
    return samples


def main() -> int:
    """Parse the arguments, make the branches, soak."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=10_000_000)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="end after this time at the latest"
    )
    parser.add_argument("--clients", type=int, default=4)
    arguments = parser.parse_args()
    os.umask(0o022)
    root = Path(tempfile.mkdtemp(prefix="unionfs-soak-"))
    shop = Workshop(root, "direct")
    try:
        problems = soak(shop, arguments.operations, arguments.seconds, arguments.clients)
    finally:
        try:
            shop.close()
        finally:
            tree.remove_tree(root)
    for problem in problems:
        print(problem)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
