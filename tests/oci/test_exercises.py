# SPDX-License-Identifier: Apache-2.0
"""The classic exercises on namespaces and control groups (docs/tour/09–14): what must be seen, through `unionrt` and raw."""

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.oci import Bundle, wait_until

TOUR = Path(__file__).parents[2] / "docs/tour"
LOOP = "while :; do :; done"
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "uts")


def _v1(controller: str) -> Path:
    """Return where a controller of v1 is mounted; skips on v2."""
    directory = Path("/sys/fs/cgroup") / controller
    if not (directory / "cgroup.procs").exists() or not (directory / "tasks").exists():
        pytest.skip(f"no {controller} hierarchy of v1")
    return directory


def _spaces(pid: int) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in (*KINDS, "user", "time")}


def _used(bundle: Bundle) -> int:
    """Return the processor time that a container has used, in nanoseconds."""
    stats = json.loads(bundle.call("events", "--stats", bundle.id).stdout)["data"]
    return int(stats["cpu"]["usage"]["total"])


def test_exercise_9_a_container_has_other_namespaces(bundle: Bundle) -> None:
    """Exercise 9: the six of the configuration are new, user and time are ours; exec sees the container's processes."""
    pid = bundle.detach()["pid"]
    mine, its = _spaces(os.getpid()), _spaces(pid)
    assert {kind for kind in mine if mine[kind] != its[kind]} == set(KINDS)
    assert "sleep 1000" in bundle.exec("ps").stdout.splitlines()[1]
    assert "LOOPBACK,UP" in bundle.exec("ip", "addr").stdout
    entered = subprocess.run(["nsenter", "-t", str(pid), "-u", "hostname"], capture_output=True, text=True)
    assert entered.stdout.strip() == bundle.config["hostname"]


def test_exercise_9_a_namespace_is_joined_by_its_path(make_bundle: Callable[[], Bundle]) -> None:
    """Exercise 9: two containers with one network namespace and different others."""
    first, second = make_bundle(), make_bundle()
    one = first.detach()["pid"]
    for namespace in second.linux["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = f"/proc/{one}/ns/net"
    two = second.detach()["pid"]
    a, b = _spaces(one), _spaces(two)
    assert a["net"] == b["net"]
    assert all(a[kind] != b[kind] for kind in KINDS if kind != "net")


def test_exercise_10_the_three_calls_of_the_page() -> None:
    """Exercise 10: the page's own program shows process 1 with another name, and the way back."""
    page = (TOUR / "10-three-calls.md").read_text()
    found = re.search(r"<<'EOF'\n(.*?)\nEOF\n", page, re.DOTALL)
    assert found
    done = subprocess.run([sys.executable, "-c", found[1]], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["child: 1 inner", f"parent: {os.uname().nodename}"], done.stderr


def test_exercise_10_steps_are_printed_in_order(bundle: Bundle) -> None:
    """Exercise 10: namespaces before mounts, the root before masks, capabilities before the program; nothing is made."""
    steps = bundle.run("--dry-run").stdout
    places = [steps.index(text) for text in ("namespaces", "mount proc", "as /", "capabilities", "execute")]
    assert places == sorted(places)
    assert bundle.leftovers() == []


def test_exercise_11_a_quota_holds_while_running(bundle: Bundle) -> None:
    """Exercise 11: with 10 ms of 100 ms a loop gets a tenth, and the counters say how often it was stopped."""
    bundle.detach(args=("/bin/sh", "-c", LOOP))
    bundle.call("update", "--cpu-period", "100000", "--cpu-quota", "10000", bundle.id)

    def throttled() -> int:
        stats = json.loads(bundle.call("events", "--stats", bundle.id).stdout)["data"]
        return int(stats["cpu"]["throttling"]["throttledPeriods"])

    wait_until(lambda: throttled() >= 3, "the loop was stopped")
    start, used = time.monotonic(), _used(bundle)
    wait_until(lambda: time.monotonic() > start + 2, "two seconds have passed")
    share = (_used(bundle) - used) / 1e9 / (time.monotonic() - start)
    assert 0.03 < share < 0.17


def test_exercise_12_shares_divide_one_processor(make_bundle: Callable[[], Bundle]) -> None:
    """Exercise 12: on the same processor 2048 shares get about twice what 1024 get."""
    _v1("cpu")
    bundles = [make_bundle(), make_bundle()]
    for bundle, shares in zip(bundles, (2048, 1024), strict=True):
        processor = str(min(os.sched_getaffinity(0)))
        bundle.linux["resources"]["cpu"] = {"shares": shares, "cpus": processor}
        bundle.detach(args=("/bin/sh", "-c", LOOP))
    before = [_used(bundle) for bundle in bundles]
    wait_until(lambda: _used(bundles[1]) - before[1] > 700_000_000, "the lighter one has used 0.7 s")
    used = [_used(bundle) - start for bundle, start in zip(bundles, before, strict=True)]
    assert 1.5 < used[0] / used[1] < 2.7


def test_exercise_13_memory_limit_kills_inside_only(make_bundle: Callable[[], Bundle]) -> None:
    """Exercise 13: the one that wants more than 32 MiB is killed (137), the other lives on."""
    eater, other = make_bundle(), make_bundle()
    other.detach()
    eater.linux["resources"]["memory"] = {"limit": 32 << 20}
    eater.shell("x=0123456789; while :; do x=$x$x; done")
    assert eater.run(check=False).returncode == 137
    assert other.status()["status"] == "running"


def test_exercise_14_the_other_controllers(bundle: Bundle) -> None:
    """Exercise 14: no sixth process, no node of a disk."""
    bundle.linux["resources"]["pids"] = {"limit": 5}
    bundle.shell("mknod /tmp/disk b 8 0; for i in 1 2 3 4 5 6; do sleep 1 & done; wait")
    done = bundle.run(check=False)
    assert "mknod: /tmp/disk: Operation not permitted" in done.stderr
    assert "can't fork: Resource temporarily unavailable" in done.stderr


def test_exercise_14_freezer_stops_and_goes_on(bundle: Bundle) -> None:
    """Exercise 14: while paused no processor time is used; resumed, it is."""
    bundle.detach(args=("/bin/sh", "-c", LOOP))
    bundle.call("pause", bundle.id)
    assert bundle.status()["status"] == "paused"
    used = _used(bundle)
    assert bundle.exec("true", check=False).returncode == 255
    assert _used(bundle) == used
    bundle.call("resume", bundle.id)
    wait_until(lambda: _used(bundle) > used, "it goes on")


@pytest.mark.parametrize("controller", ["net_cls", "hugetlb"])
def test_exercise_14_what_is_absent_is_named(bundle: Bundle, controller: str) -> None:
    """Exercise 14: a limit without its controller is refused in one line that names the key; nothing is made."""
    if (Path("/sys/fs/cgroup") / controller / "tasks").exists():
        pytest.skip(f"{controller} is there")
    keys = {
        "net_cls": ("network", {"classID": 1}),
        "hugetlb": ("hugepageLimits", [{"pageSize": "7MB", "limit": 0}]),
    }
    key, value = keys[controller]
    bundle.linux["resources"][key] = value
    done = bundle.run(args=["true"], check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert key in done.stderr
    assert bundle.leftovers() == []


def test_pages_are_what_a_learner_can_paste() -> None:
    """Each page has a raw part and ours, and every heredoc in it is Python that compiles."""
    for number in range(9, 15):
        (page,) = TOUR.glob(f"{number:02}-*.md")
        text = page.read_text()
        assert "## By hand" in text and "unionrt" in text
        for program in re.findall(r"<<'EOF'\n(.*?)\nEOF\n", text, re.DOTALL):
            compile(textwrap.dedent(program), page.name, "exec")
