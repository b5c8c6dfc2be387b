# SPDX-License-Identifier: Apache-2.0
"""Signals of a process in the foreground: it starts without the caller's peculiarities, and gets what its parent is sent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.oci import Bundle, Result, wait_until

# A caller that blocks all signals and ignores many, as nohup, cron and careless service managers do.
PECULIAR = """
import os, signal, sys
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD, signal.SIGUSR1):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
os.execv(sys.argv[1], sys.argv[1:])
"""
WAITING = "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done"


def _peculiar(bundle: Bundle, *arguments: str) -> Result:
    """Run `unionrt ARGUMENTS` for that caller."""
    bundle.prefix = [sys.executable, "-c", PECULIAR]
    try:
        return bundle.call(*arguments)
    finally:
        bundle.prefix = []


def _masks(text: str) -> set[int]:
    lines = [line.split() for line in text.splitlines()]
    return {int(words[1], 16) for words in lines if words[:1] in (["SigBlk:"], ["SigIgn:"], ["SigCgt:"])}


def _in_foreground(bundle: Bundle, *arguments: str) -> subprocess.Popen[bytes]:
    with (bundle.directory / "up").open("w") as out:
        return subprocess.Popen(
            bundle.command(*arguments), cwd=bundle.directory, stdin=subprocess.DEVNULL, stdout=out
        )


def test_exec_and_run_start_with_no_signal_blocked_or_ignored(bundle: Bundle) -> None:
    """Whatever the caller has; and we hear of the end of our children all the same."""
    bundle.process["args"] = ["cat", "/proc/self/status"]
    bundle.save()
    assert _masks(_peculiar(bundle, "run", bundle.id).stdout) == {0}
    bundle.detach()
    assert _masks(_peculiar(bundle, "exec", bundle.id, "cat", "/proc/self/status").stdout) == {0}


def test_hooks_and_helpers_end_for_a_caller_that_ignores_the_end_of_children(bundle: Bundle) -> None:
    """create waits for the intermediate process and for hooks, whose exit status counts."""
    bundle.linux["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        bundle.linux[key] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["hooks"] = {"prestart": [{"path": "/bin/true"}]}
    bundle.process["args"] = ["true"]
    bundle.save()
    _peculiar(bundle, "create", bundle.id)
    _peculiar(bundle, "start", bundle.id)


@pytest.mark.parametrize("number, status", [(signal.SIGUSR1, 9), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_exec_hands_signals_on(bundle: Bundle, number: signal.Signals, status: int) -> None:
    """To its process, whose answer is ours."""
    bundle.detach()
    process = _in_foreground(bundle, "exec", bundle.id, "sh", "-c", WAITING)
    wait_until((bundle.directory / "up").read_text, "the process runs")
    process.send_signal(number)
    assert process.wait(timeout=30) == status


def test_exec_hands_on_what_comes_before_its_process_runs(bundle: Bundle) -> None:
    """A signal that arrives while the process is still made waits for it: here until the container is resumed."""
    bundle.detach()
    bundle.call("pause", bundle.id)
    process = _in_foreground(bundle, "exec", "--ignore-paused", bundle.id, "sleep", "1000")
    status = Path(f"/proc/{process.pid}/status")
    wait_until(lambda: "SigBlk:\t0000000000000000" not in status.read_text(), "exec holds signals")
    process.send_signal(signal.SIGTERM)
    bundle.call("resume", bundle.id)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM


def test_descriptors_announced_to_another_process_are_not_passed(bundle: Bundle, tmp_path: Path) -> None:
    """LISTEN_FDS counts for the process of LISTEN_PID, for `exec` as for `run`."""
    (tmp_path / "a").write_text("first")
    script = "cat <&3; echo; echo $LISTEN_FDS:$((LISTEN_PID == $$))"
    bundle.detach()
    bundle.shell(script)
    bundle.save()
    other = f"{bundle.id}-other"  # with the same group, which is taken: no matter whose it is
    bundle.options = ["--cgroup-manager", "disabled"]
    for words in (["exec", bundle.id, "sh", "-c", script], ["run", other]):
        for pid, wanted in (("$$", ["first", "1:1"]), (str(os.getpid()), ["", ":0"])):
            shell = f'LISTEN_PID={pid} LISTEN_FDS=1 exec "$@" 3<{tmp_path}/a'
            command = ["sh", "-c", shell, "sh", *bundle.command(*words)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=bundle.directory)
            assert done.stdout.splitlines() == wanted
