# SPDX-License-Identifier: Apache-2.0
"""Processes in control groups: who may join, who is stopped, who is killed, and what goes with a group."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.oci.cgroups import Group, open_group
from runtime.oci.failure import Failure
from tests.support.groups import Make, can_group, running, spend, start, used
from tests.support.oci import wait_until

pytestmark = pytest.mark.skipif(not can_group(), reason="cgroups need root")

ROOT = Path(__file__).parents[2]


SPREADING = """
i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i+1)); done
while :; do sleep 100 & kill $!; done
"""


ENTER = """
import os, sys
from runtime.oci import jsontext
from runtime.oci.cgroups import Group
group = Group.from_state(jsontext.loads(sys.argv[1]))
pid = group.fork()
if pid == 0:
    group.enter()
    sys.stdout.write(open("/proc/self/cgroup").read())
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_create_refuses_a_group_in_use(make_group: Make) -> None:
    """Two containers do not share a group."""
    group = make_group()
    same = Group.from_state(group.to_state())
    with running(group, "sleep 100"), pytest.raises(Failure, match="not empty, processes in it"):
        same.create()


def test_create_refuses_a_frozen_group(make_group: Make) -> None:
    """In a frozen group the container would hang; what was made for it is removed again."""
    group = make_group()
    group.freeze()
    config = {"linux": {"cgroupsPath": f"/{os.path.basename(group.directories()[0])}/inner"}}
    inner = open_group(config, "unused")
    with pytest.raises(Failure, match="is frozen"):
        inner.create()
    assert [path for path in inner.directories() if os.path.exists(path)] == []
    group.thaw()


def test_join_and_below_for_exec(make_group: Make) -> None:
    """A process can be put into the group, and into one below it, but not above."""
    group = make_group()
    for directory in group.directories():
        os.mkdir(f"{directory}/sub")
    below = group.below("/sub")
    if "cpuset" in below.v1:  # empty it takes nobody
        for file in ("cpuset.cpus", "cpuset.mems"):
            (Path(below.v1["cpuset"]) / file).write_text("0")
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            below.join(process.pid)
            assert below.processes() == group.processes() == [process.pid]
        finally:
            process.kill()
    with pytest.raises(Failure, match="leaves"):
        group.below("../other")
    with pytest.raises(Failure, match="no such file"):
        group.below("absent")


def test_fork_and_enter_join_every_hierarchy(make_group: Make) -> None:
    """A child that came out of fork is in the group everywhere after enter."""
    from runtime.oci import jsontext

    group = make_group()
    state = jsontext.dumps(group.to_state())
    output = subprocess.run(
        [sys.executable, "-c", ENTER, state], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    name = os.path.basename(group.directories()[0])
    assert len(re.findall(rf":/{re.escape(name)}$", output, re.MULTILINE)) == len(group.directories())


def test_freezer_stops(make_group: Make) -> None:
    """A frozen loop takes no CPU; thawed it goes on."""
    group = make_group()
    with running(group, "while :; do :; done"):
        assert not group.frozen()
        group.freeze()
        assert group.frozen()
        before = used(group)
        spend(0.5)
        assert used(group) - before < 0.005
        group.thaw()
        assert not group.frozen()
        wait_until(lambda: used(group) > before + 0.05, "the loop goes on")


def test_freezer_holds_what_forks_all_the_time(make_group: Make) -> None:
    """Forking processes are stopped too, again and again."""
    group = make_group({"pids": {"limit": 40}})
    with running(group, "while :; do (:) & (:) & wait; done"):
        for _ in range(10):
            group.freeze()
            assert group.frozen()
            group.thaw()


def test_kill_leaves_nobody(make_group: Make) -> None:
    """Of many processes, one of which always forks, none escapes."""
    group = make_group({"pids": {"limit": 2000}})
    with start(group, SPREADING) as process:
        wait_until(lambda: len(group.processes()) > 50, "there are many")
        group.kill()
        assert process.wait(20) == -9
        wait_until(lambda: group.processes() == [], "all have gone")


def test_kill_ends_a_frozen_group(make_group: Make) -> None:
    """Frozen processes die too."""
    group = make_group()
    with start(group, "sleep 100") as process:
        wait_until(lambda: process.pid in group.processes(), "it has joined")
        group.freeze()
        group.kill()
        assert process.wait(20) == -9


def test_signal_reaches_all_and_leaves_the_group_thawed(make_group: Make) -> None:
    """Any signal can be sent to all."""
    group = make_group()
    with running(group, "trap 'echo got; exit 3' USR1; echo ready; while :; do read line; done") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        group.kill(10)
        assert process.stdout.readline() == "got\n"
        assert process.wait(20) == 3
        assert not group.frozen()


def test_destroy_takes_groups_made_inside(make_group: Make) -> None:
    """What the container made below its group goes with it, and who is in there."""
    group = make_group()
    for directory in group.directories():
        os.makedirs(f"{directory}/a/b")
    with start(group, "sleep 100") as process:
        wait_until(lambda: process.pid in group.processes(), "it has joined")
        group.destroy()
        assert process.wait(20) == -9
    assert [path for path in group.directories() if os.path.exists(path)] == []
