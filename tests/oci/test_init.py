# SPDX-License-Identifier: Apache-2.0
"""`--init`, users by name, and limits that suit the program: what engines want of a runtime beyond the specification."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.oci import Bundle, wait_for_end, wait_until

ORPHAN = """
    (sh -c 'echo $$ >/orphan' &)
    while [ ! -s /orphan ]; do usleep 1000; done
    i=0
    while [ -d /proc/$(cat /orphan) ] && [ $i -lt 3000 ]; do usleep 1000; i=$((i+1)); done
    [ -d /proc/$(cat /orphan) ] && echo left || echo reaped
"""


def test_init_is_pid_one_and_the_program_its_child(bundle: Bundle) -> None:
    """It has a name of its own, holds no descriptor, cannot be looked into, and the exit status is the program's."""
    bundle.shell(
        "echo $$; cat /proc/1/comm; ls /proc/1/fd | wc -l; readlink /proc/1/exe || echo no exe; exit 7"
    )
    result = bundle.run("--init", check=False)
    assert (result.returncode, result.lines()) == (7, ["2", "init", "0", "no exe"])
    assert bundle.leftovers() == []


def test_init_reaps_orphans(bundle: Bundle) -> None:
    """A process whose parent has gone leaves no zombie."""
    bundle.shell(ORPHAN)
    assert bundle.run("--init").stdout == "reaped\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGQUIT])
def test_init_hands_signals_on(bundle: Bundle, number: signal.Signals) -> None:
    """What a pid 1 without a handler would ignore ends the program, as outside of a container."""
    state = bundle.detach("--init", args=["sleep", "1000"])
    wait_until(lambda: _comm(state["pid"]) == "init", "init is at work")
    wait_until(lambda: _children(state["pid"]), "the program is there")
    bundle.kill(number.name.removeprefix("SIG"))
    wait_for_end(state["pid"])


def test_program_is_pid_one_without_an_init(bundle: Bundle) -> None:
    """As in Docker, with what the kernel does for that."""
    bundle.shell("echo $$; cat /proc/1/comm; exit 0")
    assert bundle.run().lines() == ["1", "sh"]


@pytest.mark.parametrize(
    ("script", "status"), [("kill -9 $$", 137), ("kill -TERM $$", 143), ("exit 255", 255)]
)
def test_init_gives_the_status_of_the_program(bundle: Bundle, script: str, status: int) -> None:
    """128 + n for one that a signal has killed."""
    bundle.shell(script)
    assert bundle.run("--init", check=False).returncode == status


def test_init_tells_that_the_program_cannot_be_executed(bundle: Bundle) -> None:
    """The child's failure is `start`'s, as without an init."""
    (bundle.rootfs / "program").write_text("#!/no/such/interpreter\n")
    (bundle.rootfs / "program").chmod(0o755)
    result = bundle.run("--init", args=["/program"], check=False)
    assert (result.returncode, "no such file or directory" in result.stderr) == (127, True)
    assert bundle.leftovers() == []


def test_init_runs_the_program_with_clean_signals_and_the_filter(bundle: Bundle) -> None:
    """Nothing that init needs for itself is the program's; both have the seccomp filter."""
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]}  # fmt: skip
    bundle.shell("grep -hE 'Sig(Blk|Ign)|Seccomp:' /proc/self/status; grep Seccomp: /proc/1/status")
    lines = [line.split()[1] for line in bundle.run("--init").lines()]
    assert lines == ["0" * 16, "0" * 16, "2", "2"]


def test_init_gives_the_program_the_foreground_of_the_terminal(bundle: Bundle) -> None:
    """The program's group is the one that Ctrl-C goes to, once: init does not get it too."""
    bundle.process["terminal"] = True
    bundle.shell("[ $(cut -d' ' -f5 /proc/$$/stat) = $(cut -d' ' -f8 /proc/$$/stat) ] && tty")
    assert bundle.run("--init").stdout.strip() == "/dev/pts/0"


def test_terminal_that_cannot_be_copied_ends_the_container(bundle: Bundle) -> None:
    """A full disk behind our output is told in one line, and nothing is left."""
    bundle.process.update(terminal=True, args=["sh", "-c", "echo x; sleep 1000"])
    bundle.save()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            bundle.command("run", bundle.id), cwd=bundle.directory, env=bundle.environment,
            stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "unionrt: standard output: no space left on device\n")
    assert bundle.leftovers() == []


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("user", "uid=1000(user) gid=1000(user) groups=7(more),1000(user)"),
        ("user:root", "uid=1000(user) gid=0(root) groups=0(root)"),
        ("1234:5678", "uid=1234 gid=5678 groups=5678"),
        ("0", "uid=0(root) gid=0(root) groups=0(root)"),
    ],
)
def test_user_by_name_is_found_in_the_container(bundle: Bundle, user: str, shown: str) -> None:
    """The annotation takes names and numbers, and sets groups and HOME."""
    (bundle.rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\nmore:x:7:other,user\n")
    bundle.config["annotations"] = {"unionrt.user": user}
    bundle.shell("id; echo $HOME")
    lines = bundle.run().lines()
    assert lines[0] == shown
    assert lines[1] == {"user": "/home", "0": "/root"}.get(user.partition(":")[0], "/")


@pytest.mark.parametrize(
    ("user", "words"),
    [("nobody-here", "no user 'nobody-here' in /etc/passwd"), ("0:nogroup-here", "no group 'nogroup-here'")],
)
def test_user_who_is_not_in_the_container_is_refused(bundle: Bundle, user: str, words: str) -> None:
    """One line, and nothing is left."""
    bundle.config["annotations"] = {"unionrt.user": user}
    result = bundle.run(check=False)
    assert (result.returncode, words in result.stderr) == (1, True), result.stderr
    assert bundle.leftovers() == []


def test_memory_limit_suits_the_program(bundle: Bundle) -> None:
    """Our interpreter's memory is not counted: a limit of 1 MiB holds a small program, and one that is too low is told."""
    bundle.linux["resources"]["memory"] = {"limit": 1 << 20, "swap": 1 << 20}
    assert bundle.run(args=["echo", "small"]).stdout == "small\n"
    bundle.linux["resources"]["memory"] = {"limit": 4096, "swap": 4096}
    result = bundle.run(args=["true"], check=False)
    assert result.returncode != 0
    assert bundle.leftovers() == []


def _comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_tied_container_dies_with_its_maker(bundle: Bundle) -> None:
    """The process that made it is killed: so is the container, also one whose program is another user's."""
    bundle.process.update(args=["sleep", "1000"], user={"uid": 1000, "gid": 1000})
    bundle.save()
    code = """
import sys
from runtime.oci import create, job, run_created, settings
asked = job.Request(sys.argv[1], sys.argv[2], sys.argv[2] + "/config.json")
asked.tied, asked.detach = True, False
run_created.run_created(create.create(settings.Settings(sys.argv[3], rootless=False), asked), asked, keep=False)
"""
    command = ["-c", code, bundle.id, str(bundle.directory), str(bundle.state)]
    with subprocess.Popen(
        ["python3", *command], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    ) as maker:
        wait_until(lambda: bundle.call("state", bundle.id, check=False).returncode == 0, "it is there")
        wait_until(lambda: bundle.status()["status"] == "running", "it runs")
        pid = bundle.status()["pid"]
        maker.kill()
    wait_for_end(pid)
    bundle.delete("--force")
