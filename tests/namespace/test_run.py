# SPDX-License-Identifier: Apache-2.0
"""`unionbox run`: exit codes, what the command sees, and what the machine keeps."""

import hashlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.box import ROOT, Box, first_of, kill, name_of
from tests.support.oddmounts import odd_mounts


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 3"], 3, ""),
        (["no-such-command"], 127, "unionbox: no-such-command: executable file not found in $PATH\n"),
        (["no\nsuch\x1b[1m"], 127, "unionbox: no\\nsuch\\x1b[1m: executable file not found in $PATH\n"),
        (["/no/such/file"], 127, "unionbox: /no/such/file: no such file or directory\n"),
        (["/etc/passwd"], 126, "unionbox: /etc/passwd: permission denied\n"),
        (["/etc"], 126, "unionbox: /etc: is a directory\n"),
    ],
)
def test_run_exit_status_is_dockers(box: Box, arguments: list[str], status: int, message: str) -> None:
    """The command's status, 128+n, 127 for what is not found, 126 for what cannot be executed; one line says why."""
    done = box.run("--", *arguments)
    assert (done.returncode, done.stderr) == (status, message)


@pytest.mark.parametrize(("name", "status"), [("KILL", 137), ("TERM", 143)])
def test_run_exit_status_tells_the_signal(box: Box, name: str, status: int) -> None:
    """128+n; from inside no signal kills a pid 1, so the command must not be it, or a command below it."""
    done = box.run("--init", "--", "sh", "-c", f"kill -{name} $$")
    assert (done.returncode, done.stderr) == (status, "")
    done = box.run("--", "sh", "-c", f"sh -c 'kill -{name} $$'; exit $?")
    assert (done.returncode, done.stdout) == (status, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rootfs", "/no/such", "--", "true"], "--rootfs /no/such does not exist"),
        (["--rootfs", "/etc/passwd", "--", "true"], "--rootfs /etc/passwd is not a directory"),
        (["--rw", "/no/such", "--", "true"], "make it first: mkdir -p /no/such"),
        (["--memory", "lots", "--", "true"], "'lots' is not a size such as 64m or 1g"),
        (["--cpus", "0", "--", "true"], "'0' is not a number of CPUs"),
        (["--pids", "-1", "--", "true"], "'-1' is not a positive number"),
        (["--user", "nosuchuser", "--", "true"], "no user 'nosuchuser' in /etc/passwd of the container"),
        (["--user", "4294967296", "--", "true"], "no user '4294967296' in /etc/passwd of the container"),
        (["--memory", "9" * 400, "--", "true"], "is not a size such as 64m or 1g"),
        (["--"], "no command is given"),
        (["-i", "-t", "--", "true"], "standard input is not a terminal; leave out -t"),
    ],
)
def test_run_bad_request_exits_125_with_a_reason(box: Box, arguments: list[str], message: str) -> None:
    """Whatever keeps a container from starting gives 125 and says what to do."""
    done = box.run(*arguments)
    assert done.returncode == 125
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        (["-v", "/x:/y"], "-v"),
        (["--rm", "-v", "/x:/y", "-d"], "-v"),
        (["-d"], "-d"),
        (["-itd"], "-d"),
        (["-p", "80:80"], "-p"),
        (["--name", "x"], "--name"),
        (["--volume=/x:/y"], "--volume=/x:/y"),
    ],
)
def test_run_option_of_others_is_refused_with_the_help_of_run(
    box: Box, words: list[str], unknown: str
) -> None:
    """One line names the option and the page that lists those there are."""
    done = box.run(*words, "--", "true")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == f"unionbox: unknown option {unknown}; see unionbox run --help\n"


def test_run_takes_what_holds_in_any_case(box: Box) -> None:
    """Habits from other programs: a container always goes."""
    done = box.run("--rm", "--init", "--interactive", "--", "cat", stdin="hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello", "")


def test_examples_of_the_help_work_when_pasted(box: Box) -> None:
    """Each line, in order, in an empty directory, at a terminal."""
    help_text = box.run("--help").stdout
    lines = [line.strip() for line in re.findall(r"^  \S.*$", help_text.partition("examples:")[2], re.M)]
    assert len(lines) >= 6
    for line in lines:
        command = re.split(r"\s{3,}", line)[0]
        status, shown = _paste(box, command)
        assert status == 0, (command, shown)


def _paste(box: Box, command: str) -> tuple[int, bytes]:
    """Run a command at a terminal, where `exit` is typed whenever nothing is shown any more; return status and output."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    master, slave = os.openpty()
    shown = b""
    deadline = time.monotonic() + 100
    with subprocess.Popen(
        ["sh", "-c", command], cwd=box.directory, env=box.environment() | {"PATH": programs},
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    ) as process:  # fmt: skip
        while process.poll() is None and time.monotonic() < deadline:
            if select.select([master], [], [], 1)[0]:
                shown += os.read(master, 4096)
            elif process.poll() is None:
                os.write(master, b"exit\r")
        process.kill()
    os.close(slave)
    os.close(master)
    return process.returncode, shown


def test_run_terminal_on_a_full_disk_says_what_is_full(box: Box) -> None:
    """What the container's terminal shows cannot be written: one line, and the container is gone."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            box.command("-t", "--", "echo", "x"),
            cwd=ROOT, env=box.environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=100,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (125, "unionbox: standard output: No space left on device\n")


def test_run_among_odd_mounts(box: Box, tmp_path: Path) -> None:
    """What others have mounted, and how they call it, is no matter."""
    with odd_mounts(tmp_path):
        done = box.run("--", "true")
    assert (done.returncode, done.stderr) == (0, "")


def test_run_namespaces_all_differ_from_the_hosts(box: Box) -> None:
    """mnt, pid, net, ipc, uts and cgroup are new; the user namespace only when asked for."""
    kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"]
    script = "for kind; do readlink /proc/self/ns/$kind; done"
    ours = [os.readlink(f"/proc/self/ns/{kind}") for kind in kinds]
    theirs = box.run("--", "sh", "-c", script, "sh", *kinds).stdout.split()
    assert [a == b for a, b in zip(ours, theirs, strict=True)] == [False] * 6 + [True]
    theirs = box.run("--userns", "--", "sh", "-c", script, "sh", *kinds).stdout.split()
    assert not set(ours) & set(theirs)


def test_run_command_sees_a_tidy_machine(box: Box) -> None:
    """Host name, loopback, environment, directory and processes are the container's own."""
    script = "hostname; pwd; id -u; echo $A $HOME $container; ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; ls /sys/class/net; "
    script += "cat /sys/class/net/lo/flags"
    done = box.run("--hostname", "inner", "-w", "/new/place", "-e", "A=b", "--", "sh", "-c", script)
    lines = done.stdout.splitlines()
    assert lines[:4] == ["inner", "/new/place", "0", "b /root unionbox"]
    assert int(lines[4]) <= 4
    assert lines[5:] == ["sh", "lo", "0x9"]


def test_run_leaks_no_descriptor(box: Box) -> None:
    """The command has its three standard descriptors and nothing else, and stdin is empty unless -i is given."""
    done = box.run("--", "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; cat", stdin="secret")
    assert done.stdout == "0 1 2 3 "  # 3 is the directory that ls reads
    assert box.run("-i", "--", "cat", stdin="text").stdout == "text"


def test_run_command_has_dockers_capabilities_and_cannot_look_into_init(box: Box) -> None:
    """The bounding set is Docker's default; init's executable and descriptors cannot be reached (CVE-2019-5736)."""
    script = "grep -h Cap /proc/self/status /proc/1/status; readlink /proc/1/exe || echo no exe; "
    script += "mount -t tmpfs x /mnt 2>/dev/null || echo no mount; echo 1 2>/dev/null > /proc/sys/kernel/sysrq || echo no sysctl"
    lines = box.run("--init", "--", "sh", "-c", script).stdout.splitlines()
    allowed = 0x00000000A80425FB
    for line in lines[:10]:
        assert int(line.split()[1], 16) & ~allowed == 0, line
    assert lines[10:] == ["no exe", "no mount", "no sysctl"]


def test_run_user_and_groups_come_from_the_container(box: Box) -> None:
    """-u takes names and numbers, sets supplementary groups and leaves no capability."""
    script = "id; grep CapEff /proc/self/status"
    done = box.run("-u", "nobody", "--", "sh", "-c", script)
    assert "uid=65534(nobody) gid=65534(nogroup)" in done.stdout
    assert "CapEff:\t0000000000000000" in done.stdout
    assert "uid=1234 gid=5678 groups=5678" in box.run("-u", "1234:5678", "--", "id").stdout


def test_run_user_namespace_maps_root_and_keeps_owners(box: Box) -> None:
    """Root inside is an unused id outside; files keep the ids that the container gave them, without a copy."""
    branch = box.branch()
    script = (
        "cat /proc/self/uid_map; stat -c %u /etc/passwd; touch /made; chown 5:6 /made; stat -c %u:%g /made"
    )
    done = box.run("--userns", "--rw", str(branch), "--", "sh", "-c", script)
    first, *rest = done.stdout.splitlines()
    inside, outside, size = map(int, first.split())
    assert (inside, size) == (0, 65536)
    assert outside >= 65536
    assert rest == ["0", "5:6"]
    assert (branch / "made").stat().st_uid == 5


def test_run_devices_are_the_harmless_ones(box: Box) -> None:
    """/dev has the usual nodes; a node of the machine's disk that the container makes cannot be opened."""
    disk = os.stat("/").st_dev
    script = (
        "echo x > /dev/null && head -c 4 /dev/zero | od -An -tx1; ls -d /dev/shm /dev/mqueue /dev/pts/ptmx; "
    )
    script += f"mknod /dev/disk b {os.major(disk)} {os.minor(disk)} && head -c 1 /dev/disk"
    done = box.run("--", "sh", "-c", script)
    assert done.stdout.split() == ["00", "00", "00", "00", "/dev/mqueue", "/dev/pts/ptmx", "/dev/shm"]
    assert "Operation not permitted" in done.stderr


def _fingerprint(*directories: str) -> str:
    digest = hashlib.sha256()
    for top in directories:
        for parent, names, files in os.walk(top):
            names.sort()
            for name in sorted(files):
                path = os.path.join(parent, name)
                status = os.lstat(path)
                digest.update(f"{path} {status.st_mode} {status.st_size} {status.st_mtime_ns}\n".encode())
                if os.path.isfile(path) and not os.path.islink(path):
                    digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def test_run_on_the_machines_root_changes_nothing_of_it(box: Box) -> None:
    """What the command writes, removes and renames in / is gone with the container; the machine's files stay as they are."""
    before = _fingerprint("/etc", "/usr/local/bin", "/usr/sbin")
    script = "rm -r /etc/passwd /usr/sbin; echo x >> /etc/group; mv /etc/hosts /etc/h; mkdir /etc/n; "
    script += "ls /usr/sbin || chmod 0 /etc/fstab"
    done = box.run("--", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    assert _fingerprint("/etc", "/usr/local/bin", "/usr/sbin") == before
    assert not Path("/etc/n").exists()


def test_run_rw_directory_keeps_the_changes_and_is_hidden(box: Box) -> None:
    """--rw DIR is the top branch, in AUFS' format; the container does not see it, nor other containers' directories."""
    branch = box.branch()
    script = f"echo new > /kept; rm /etc/passwd; ls -A {branch} {box.state}"
    done = box.run("--rw", str(branch), "--", "sh", "-c", script)
    assert done.stdout.split() == [f"{branch}:", f"{box.state}:"]
    assert (branch / "kept").read_text() == "new\n"
    assert (branch / "etc/.wh.passwd").exists()
    again = box.run("--rw", str(branch), "--", "sh", "-c", "cat /kept; test -e /etc/passwd || echo gone")
    assert again.stdout == "new\ngone\n"


def test_run_rw_directory_in_use_is_refused(box: Box) -> None:
    """Two containers cannot have one rw branch at once; one after the other they can."""
    branch = box.branch()
    first = box.start("--rw", str(branch), "--", "sh", "-c", "echo ready; read line")
    assert first.stdout is not None and first.stdout.readline() == "ready\n"
    second = box.run("--rw", str(branch), "--", "true")
    assert second.returncode == 125
    assert second.stderr == f"unionbox: --rw {branch} is in use by another container; give each its own\n"
    first.communicate("\n", timeout=60)
    assert box.run("--rw", str(branch), "--", "true").returncode == 0


def test_run_mounts_survive_changes_below_them(box: Box) -> None:
    """/proc, /dev and the hidden directory stay covered when the directories around them are copied up."""
    script = "chmod 711 /var /tmp /; mkdir /made; mv /made /moved; ls -d /proc/1 /dev/null; ls -A " + str(
        box.state
    )
    done = box.run("--", "sh", "-c", script)
    assert done.stdout.split() == ["/dev/null", "/proc/1"], done.stderr


def test_run_rootfs_layers_are_stacked_top_first(box: Box) -> None:
    """--rootfs A:B shows A over B, with A's whiteouts, and writes to neither."""
    upper, lower = box.directory / "upper", box.directory / "lower"
    for path in (upper / "etc", lower / "etc"):
        path.mkdir(parents=True)
    (upper / "etc/who").write_text("upper")
    (lower / "etc/who").write_text("lower")
    (lower / "etc/gone").write_text("x")
    (upper / "etc/.wh.gone").touch()
    script = "cat /etc/who; ls /etc; echo x > /etc/who"
    done = box.run("--rootfs", f"{upper}:{lower}:/", "--", "sh", "-c", script)
    names = done.stdout[len("upper") :].split()
    assert done.stdout.startswith("upper")
    assert "gone" not in names and "passwd" in names
    assert (upper / "etc/who").read_text() == "upper"


def test_run_base_change_is_seen_by_running_containers(box: Box) -> None:
    """Two containers on one base see a change made to the base while they run (a union can, a snapshot cannot)."""
    base = box.directory / "base"
    base.mkdir()
    script = "echo ready; read line; cat /release"
    boxes = [box.start("--rootfs", f"{base}:/", "--", "sh", "-c", script) for _ in range(2)]
    for process in boxes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (base / "release").write_text("upgraded")
    for process in boxes:
        output, _ = process.communicate("\n", timeout=60)
        assert output == "upgraded"


def test_run_signals_reach_the_command(box: Box) -> None:
    """SIGTERM and SIGUSR1 sent to the client are the command's; without a handler it ends with 128+n under an init."""
    script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.1; done"
    process = box.start("--init", "--", "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "usr1\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


def test_run_pid_one_reaps_orphans(box: Box) -> None:
    """A process whose parent has gone is reaped by init at its end."""
    script = "(sh -c 'echo $$ > /orphan' &) ; while ! test -s /orphan; do :; done; "
    script += "i=0; while test -d /proc/$(cat /orphan) && test $i -lt 100000; do i=$((i+1)); done; "
    script += "test -d /proc/$(cat /orphan) && echo left || echo reaped"
    assert box.run("--init", "--", "sh", "-c", script).stdout == "reaped\n"


def test_run_command_is_pid_one_without_an_init(box: Box) -> None:
    """As in Docker: it gets the signals itself, and one that it does not handle is nothing to it; SIGKILL ends it."""
    script = "trap 'echo term' TERM; echo $$ ready; while :; do sleep 0.1; done"
    process = box.start("--", "sh", "-c", script)
    assert process.stdout is not None and process.stdout.readline() == "1 ready\n"
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "term\n"
    kill(first_of(process.pid))
    assert process.wait(60) == 137


def test_run_init_is_a_page_of_code(box: Box) -> None:
    """pid 1 of --init is no interpreter: a static program with some kilobytes of memory, which holds no descriptor."""
    process = box.start("--init", "--", "sh", "-c", "echo $$ $PPID; read line")
    assert process.stdout is not None and process.stdout.readline() == "2 1\n"
    init = first_of(process.pid)
    assert name_of(init) == "init"
    status = Path(f"/proc/{init}/status").read_text()
    (resident,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 200  # kB
    assert os.listdir(f"/proc/{init}/fd") == []
    process.communicate("\n", timeout=60)
    assert process.returncode == 0


def test_run_processes_left_behind_die_with_the_command(box: Box) -> None:
    """When the command ends everything else in the container is killed."""
    process = box.start("--", "sh", "-c", "setsid sleep 1000 & echo ready; read line")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    _output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, errors) == (0, "")


def test_run_compiles_and_runs_a_program(box: Box) -> None:
    """gcc works inside, from the machine's own root."""
    source = '#include <stdio.h>\nint main(void) { puts("built inside"); return 7; }\n'
    done = box.run("-i", "--", "sh", "-c", "cat > /p.c && gcc -o /p /p.c && /p", stdin=source)
    assert (done.returncode, done.stdout) == (7, "built inside\n"), done.stderr


def test_run_installs_a_package(box: Box) -> None:
    """apt-get installs a package inside; the machine's own dpkg does not know it afterwards."""
    control = "Package: tiny-test\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\nDescription: tiny\n"
    script = (
        "set -e; mkdir -p /t/DEBIAN /t/usr/share/tiny; cat > /t/DEBIAN/control; echo here > /t/usr/share/tiny/file; "
        "dpkg-deb --build /t /tmp/tiny.deb >/dev/null; apt-get install -y /tmp/tiny.deb >/tmp/log 2>&1 || cat /tmp/log; "
        "dpkg-query -W -f '${Status}\\n' tiny-test; cat /usr/share/tiny/file"
    )
    done = box.run("-i", "--", "sh", "-c", script, stdin=control)
    assert done.stdout == "install ok installed\nhere\n", done.stderr
    assert not re.search("^Package: tiny-test$", Path("/var/lib/dpkg/status").read_text(), re.MULTILINE)


def test_run_many_containers_at_once(box: Box) -> None:
    """Eight containers side by side, each with its own process tree, root and host name."""
    script = "echo $HOSTNAME > /me; hostname; cat /me; ls /proc | grep -c '^[0-9]'"
    boxes = [box.start("--pids", "20", "--", "sh", "-c", script) for _ in range(8)]
    results = [process.communicate(timeout=100) for process in boxes]
    assert [errors for _, errors in results] == [""] * 8
    names = [output.split()[0] for output, _ in results]
    assert len(set(names)) == 8
    assert [output.split()[:2] for output, _ in results] == [[name, name] for name in names]
