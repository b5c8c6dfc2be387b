# SPDX-License-Identifier: Apache-2.0
"""Targets in a real run: rootless ones are unprivileged, pinned ones stay on their processor, requests are counted."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from bench.machine import syscalls, unprivileged
from bench.machine.client import Figures, Sample, call
from bench.results.results import Results, load, summarize
from unionfs.kernel import syscalls as mounts

CAN_MOUNT = os.geteuid() == 0 and Path("/dev/fuse").exists()
pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")


def _command(tmp_path: Path, suites: str, targets: str, *more: str) -> list[str]:
    words = ["run", "--suite", suites, "--targets", targets, "--rounds", "1", "--directory", str(tmp_path)]
    return [sys.executable, "-m", "bench.cli", *words, "-o", str(tmp_path / "r.jsonl"), *more]


def _run(tmp_path: Path, suites: str, targets: str, *more: str) -> Results:
    done = subprocess.run(
        _command(tmp_path, suites, targets, *more), capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return load(tmp_path / "r.jsonl")


def _inside(devices: Path) -> Figures:
    """Enter an unprivileged user's namespaces and tell who this process is, inside and outside."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    mounts.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    with unprivileged.user(devices) as user:
        return call(lambda: _who(user), 10)


def _who(user: unprivileged.User) -> Figures:
    maps = Path(f"/proc/{user.holder}/uid_map").read_text().split()
    user.enter()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("2")
        dropped = 1.0
    except PermissionError:
        dropped = 0.0
    return {"inside": Sample(os.getuid()), "outside": Sample(int(maps[1])), "dropped": Sample(dropped)}


@pytest.mark.skipif(bool(unprivileged.missing()), reason="no user namespaces here")
def test_user_client_is_root_inside_and_nobody_special_outside(tmp_path: Path) -> None:
    """In the namespaces it is uid 0, outside an ordinary user who may not drop the kernel's caches."""
    found = call(lambda: _inside(tmp_path / "devices"), 20)
    assert found["inside"].value == 0 and found["outside"].value > 0
    assert found["dropped"].value == 0


@pytest.mark.skipif(bool(unprivileged.missing()), reason="no user namespaces here")
def test_rootless_targets_are_measured_against_rootless_overlay() -> None:
    """Mounts, cold caches and copy-up work without privilege, and the ratio is to overlay2 without privilege."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own directories are closed to others
        open_path = Path(place)
        open_path.chmod(0o755)
        targets = "overlay2,overlay2-rootless,unionfs-rootless"
        results = _run(open_path, "metadata/stat,copyup/copy-up-64KiB", targets)
        assert [path.name for path in open_path.iterdir()] == ["r.jsonl"]
    assert not results.failures
    for row in summarize(results):
        if row[0].figure.suite != "mount":
            assert all(cell.value for cell in row) and row[2].ratio is not None
    assert [t["baseline"] for t in results.run["targets"]] == ["overlay2", "overlay2", "overlay2-rootless"]


def test_requests_are_counted_for_every_server(tmp_path: Path) -> None:
    """The kernel counts what it sends: a stat of a name it does not know is a LOOKUP, whoever serves it."""
    peers = ["fuse-overlayfs"] if shutil.which("fuse-overlayfs") else []
    results = _run(tmp_path, "cost/requests", ",".join(["unionfs", "unionfs-pyfuse3", *peers]))
    if results.failures:
        pytest.skip(results.failures[0]["message"])
    found = {s["target"]: s for s in results.samples if s["figure"] == "requests-stat"}
    assert found.keys() == {"unionfs", "unionfs-pyfuse3", *peers}
    assert all(0.9 < s["value"] < 2.5 and s["details"]["LOOKUP"] >= 450 for s in found.values())


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor only")
def test_pinned_server_has_all_threads_on_the_last_processor(tmp_path: Path) -> None:
    """With --pin every thread of a server may run on one processor only."""
    words = _command(tmp_path, "cost/cost", "unionfs", "--pin")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seen: set[str] = set()
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        seen |= _processors_of_servers(tmp_path)
        time.sleep(0.005)
    assert process.communicate()[1] is not None and process.returncode == 0
    assert seen == {str(max(os.sched_getaffinity(0)))}


def _processors_of_servers(directory: Path) -> set[str]:
    found: set[str] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
            if b"unionfs.cli.main" not in words[:4] or not any(
                os.fsencode(directory) in word for word in words
            ):
                continue
            for status in path.parent.glob("task/*/status"):
                lines = dict(
                    line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line
                )
                found.add(lines["Cpus_allowed_list"])
        except (OSError, KeyError):
            continue
    return found
