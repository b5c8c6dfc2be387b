# SPDX-License-Identifier: Apache-2.0
"""`process` of config.json: who the program is, what it may do, what limits it has, and where it starts."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import Bundle

KILL, CHOWN, SYS_ADMIN = 1 << 5, 1 << 0, 1 << 21
SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def status_of(bundle: Bundle) -> dict[str, str]:
    """Run `cat /proc/self/status` and return its fields."""
    lines = bundle.run(args=["cat", "/proc/self/status"]).lines()
    return {line.partition(":")[0]: line.partition(":")[2].strip() for line in lines}


def capabilities(status: dict[str, str]) -> dict[str, int]:
    """Return the five sets by their short names."""
    return {name: int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


# user


def test_user_gets_ids_groups_and_umask(bundle: Bundle) -> None:
    """Exactly the groups named, none of the caller's; the umask as given."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 77], "umask": 0o27}
    bundle.shell("id -u; id -g; grep Groups /proc/self/status; umask")
    lines = bundle.run().lines()
    assert lines[:2] == ["1000", "1000"]
    assert lines[2].split()[1:] == ["5", "77"]
    assert lines[3] == "0027"


def test_user_without_groups_has_none_of_the_callers(bundle: Bundle) -> None:
    """The caller's supplementary groups do not reach the container (CVE-2022-2989)."""
    assert status_of(bundle)["Groups"] == ""


def test_umask_defaults_to_022(bundle: Bundle) -> None:
    """Whatever the caller's is."""
    old = os.umask(0o077)
    try:
        assert bundle.run(args=["sh", "-c", "umask"]).stdout == "0022\n"
    finally:
        os.umask(old)


@pytest.mark.parametrize("user", [{"uid": -1}, {"uid": 0, "gid": 1 << 32}, {"uid": 0, "umask": 0o1000}])
def test_user_out_of_range_is_refused(bundle: Bundle, user: dict[str, int]) -> None:
    """An id that the kernel would take for "unchanged" or cut off is no id."""
    bundle.process["user"] = user
    result = bundle.run(check=False)
    assert result.returncode == 1
    assert "process.user" in result.stderr


def test_standard_streams_belong_to_the_user(bundle: Bundle) -> None:
    """A program that is not root can open /dev/stdout again."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert bundle.run(args=["sh", "-c", "echo again > /dev/stdout"]).stdout == "again\n"


# environment


def test_environment_last_value_counts(bundle: Bundle) -> None:
    """A name that comes twice has its last value; nothing of the caller's environment is inherited."""
    bundle.process["env"] = ["PATH=/bin", "A=1", "A=2=3", "EMPTY="]
    bundle.environment["LEAK"] = "yes"
    lines = bundle.run(args=["env"]).lines()
    assert sorted(lines) == ["A=2=3", "EMPTY=", "HOME=/root", "PATH=/bin"]


def test_home_comes_from_the_containers_passwd(bundle: Bundle) -> None:
    """By our own parser; "/" for a user that it does not know; a HOME that is given stays."""
    bundle.shell("echo $HOME")
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert bundle.run().stdout == "/home\n"
    bundle.process["user"] = {"uid": 4242, "gid": 0}
    assert bundle.run().stdout == "/\n"
    bundle.process["env"].append("HOME=/given")
    assert bundle.run().stdout == "/given\n"


@pytest.mark.parametrize("kind", ["fifo", "endless", "garbage", "loop"])
def test_hostile_passwd_does_no_harm(bundle: Bundle, kind: str) -> None:
    """A fifo does not block, an endless file is not read to its end, rubbish is no entry."""
    passwd = bundle.rootfs / "etc/passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "endless":
        passwd.symlink_to("/dev/zero")
    elif kind == "loop":
        passwd.symlink_to("passwd")
    else:
        passwd.write_bytes(b"\xff\n:::::::\nroot:x\n0\nroot:x:0:0:root\n\0\n")
    assert bundle.run(args=["sh", "-c", "echo $HOME"]).stdout == "/\n"


def test_name_service_of_the_container_is_not_loaded(bundle: Bundle) -> None:
    """A name service with a library of the container's own is not asked: the library would run with our rights."""
    (bundle.rootfs / "lib").mkdir()
    for name in ("libnss_evil.so.2", "libnss_files.so.2", "libc.so.6"):
        (bundle.rootfs / "lib" / name).write_bytes(b"\x7fELF that would be a crash to load")
    (bundle.rootfs / "etc/nsswitch.conf").write_text("passwd: evil\ngroup: evil\n")
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert bundle.run(args=["sh", "-c", "echo $HOME"]).stdout == "/home\n"


# directory


def test_directory_is_made_if_missing(bundle: Bundle) -> None:
    """As runc does; with the container's root, not the host's."""
    bundle.process["cwd"] = "/new/deep/place"
    assert bundle.run(args=["pwd"]).stdout == "/new/deep/place\n"
    assert (bundle.rootfs / "new/deep/place").is_dir()


def test_directory_link_stays_inside(bundle: Bundle, tmp_path: Path) -> None:
    """A link to a path of the host means the container's path of that name, and is made there."""
    (bundle.rootfs / "link").symlink_to(tmp_path / "made")
    bundle.process["cwd"] = "/link"
    bundle.run(args=["true"])
    assert not (tmp_path / "made").exists()


def test_directory_through_our_descriptor_is_refused(bundle: Bundle) -> None:
    """/proc/self/fd leads to no directory of the host (CVE-2024-21626)."""
    bundle.shell("pwd; ls -la . ../../..")
    for fd in range(3, 13):
        bundle.process["cwd"] = f"/proc/self/fd/{fd}"
        result = bundle.run(check=False)
        assert result.returncode != 0
        assert not result.stdout, result.stdout


def test_directory_that_the_user_may_not_enter_fails(bundle: Bundle) -> None:
    """Root could enter it for him, and does not: rights are dropped first where it matters."""
    (bundle.rootfs / "root").chmod(0o700)
    bundle.process["cwd"] = "/root/below"
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["capabilities"] = {}
    bundle.shell("pwd; cat ../secret")
    (bundle.rootfs / "root/secret").write_text("secret")
    (bundle.rootfs / "root/secret").chmod(0o600)
    assert "secret" not in bundle.run(check=False).stdout


# capabilities


def test_no_capabilities(bundle: Bundle) -> None:
    """Without the key there are none, not the caller's."""
    del bundle.process["capabilities"]
    assert set(capabilities(status_of(bundle)).values()) == {0}


def test_capabilities_each_set(bundle: Bundle) -> None:
    """Each set is what is asked for."""
    bundle.process["capabilities"] = {
        "bounding": ["CAP_KILL", "CAP_CHOWN", "CAP_SYS_ADMIN"],
        "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "effective": ["CAP_KILL"],
        "inheritable": ["CAP_CHOWN"],
        "ambient": ["CAP_CHOWN"],
    }
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    found = capabilities(status_of(bundle))
    # The exec by a user who is not root leaves of permitted and effective what is ambient.
    assert found == {"Bnd": KILL | CHOWN | SYS_ADMIN, "Prm": CHOWN, "Eff": CHOWN, "Inh": CHOWN, "Amb": CHOWN}


def test_ambient_capabilities_that_cannot_be_are_told_to_who_asks(bundle: Bundle) -> None:
    """Every step of a build with podman, and each bundle of `runc spec`, asks for some: standard error stays empty."""
    bundle.process["capabilities"] = {kind: ["CAP_KILL"] for kind in SETS if kind != "inheritable"}
    assert bundle.run(args=["true"]).stderr == ""
    bundle.options = ["--log-level", "info"]
    assert bundle.run(args=["true"]).stderr == (
        "unionrt: info: ambient capabilities that are not permitted and inheritable are ignored: CAP_KILL\n"
    )


def test_capabilities_inheritable_are_empty_unless_asked_for(bundle: Bundle) -> None:
    """Nothing inheritable by default (CVE-2022-24769)."""
    found = capabilities(status_of(bundle))
    assert found["Inh"] == found["Amb"] == 0
    assert found["Bnd"] == found["Prm"] == found["Eff"] != 0


def test_capabilities_unknown_are_a_warning(bundle: Bundle) -> None:
    """The specification wants a warning and no failure for a name that means nothing."""
    bundle.process["capabilities"] = {kind: ["CAP_UNKNOWN", "CAP_KILL"] for kind in SETS}
    result = bundle.run(args=["cat", "/proc/self/status"])
    assert "CAP_UNKNOWN" in result.stderr
    assert "CapEff:\t0000000000000020" in result.stdout


def test_new_privileges(bundle: Bundle) -> None:
    """noNewPrivileges is what it says, both ways."""
    for wanted in (True, False):
        bundle.process["noNewPrivileges"] = wanted
        assert status_of(bundle)["NoNewPrivs"] == str(int(wanted))


# limits


def test_rlimits(bundle: Bundle) -> None:
    """Lowered limits hold in the program, also those that an interpreter could not live with."""
    bundle.process["rlimits"] = [
        {"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6},
        {"type": "RLIMIT_AS", "soft": 16 << 20, "hard": 17 << 20},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    lines = bundle.run(args=["cat", "/proc/self/limits"]).lines()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    assert limits["Max open files"] == ["5", "6"]
    assert limits["Max address space"] == [str(16 << 20), str(17 << 20)]
    assert limits["Max core file size"] == ["0", "0"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ([("RLIMIT_CORE", 1, 1), ("RLIMIT_CORE", 1, 1)], "twice"),
        ([("RLIMIT_SOUP", 1, 1)], "RLIMIT_SOUP"),
        ([("RLIMIT_CORE", 2, 1)], "above the hard"),
    ],
)
def test_rlimits_wrong_are_refused(bundle: Bundle, limits: list[tuple[str, int, int]], words: str) -> None:
    """Before anything is made."""
    bundle.process["rlimits"] = [{"type": name, "soft": soft, "hard": hard} for name, soft, hard in limits]
    result = bundle.run(check=False)
    assert result.returncode == 1
    assert words in result.stderr


def test_oom_score(bundle: Bundle) -> None:
    """The score of the program."""
    bundle.process["oomScoreAdj"] = 500
    assert bundle.run(args=["cat", "/proc/self/oom_score_adj"]).stdout == "500\n"


# scheduling


def test_scheduler_and_priorities(bundle: Bundle) -> None:
    """Policy and niceness, as the kernel shows them."""
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    fields = bundle.run(args=["cat", "/proc/self/stat"]).stdout.rpartition(")")[2].split()
    assert (fields[16], fields[38]) == ("7", "3")  # nice and policy, counted after the name


def test_io_priority(bundle: Bundle) -> None:
    """What ionice tells."""
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    pid = bundle.detach()["pid"]
    assert subprocess.check_output(["ionice", "-p", str(pid)], text=True).strip() == "idle"


def test_personality(bundle: Bundle) -> None:
    """A 32-bit domain shows in uname."""
    bundle.linux["personality"] = {"domain": "LINUX32"}
    assert bundle.run(args=["uname", "-m"]).stdout.strip() != os.uname().machine


def test_memory_policy(bundle: Bundle) -> None:
    """A policy of the only node there is everywhere."""
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("the kernel has no NUMA")
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}
    assert "bind=static:0" in bundle.run(args=["cat", "/proc/self/numa_maps"]).stdout


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("process", "scheduler", {"policy": "SCHED_NONE"}),
        ("process", "ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}),
        ("process", "execCPUAffinity", {"initial": "1-"}),
        ("linux", "personality", {"domain": "SOLARIS"}),
        ("linux", "memoryPolicy", {"mode": "MPOL_BIND", "nodes": "x"}),
    ],
)
def test_scheduling_unknown_values_are_refused(
    bundle: Bundle, place: str, key: str, value: dict[str, Any]
) -> None:
    """By the name of their key."""
    bundle.config[place][key] = value
    result = bundle.run(check=False)
    assert result.returncode == 1
    assert f"{place}.{key}" in result.stderr


# the program


def test_program_is_looked_up_in_the_containers_path(bundle: Bundle) -> None:
    """With PATH of the process; a directory or a file without its x bit is not it."""
    (bundle.rootfs / "one/tool").mkdir(parents=True)
    (bundle.rootfs / "two").mkdir()
    (bundle.rootfs / "two/tool").write_text("not executable")
    (bundle.rootfs / "three").mkdir()
    (bundle.rootfs / "three/tool").write_text("#!/bin/sh\necho found $0\n")
    (bundle.rootfs / "three/tool").chmod(0o755)
    bundle.process["env"] = ["PATH=/nowhere:/one:/two:/three"]
    assert bundle.run(args=["tool"]).stdout == "found /three/tool\n"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("nothing", "executable file not found in $PATH"),
        ("/nothing", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "is a directory"),
        ("", "executable file not found in $PATH"),
    ],
)
def test_program_that_cannot_be_run_is_told_at_creation(bundle: Bundle, program: str, words: str) -> None:
    """In the words that engines look for, and nothing of the container stays."""
    bundle.process["args"] = [program]
    result = bundle.create(check=False)
    assert result.returncode == 1
    assert words in result.stderr
    assert bundle.leftovers() == []


def test_program_sees_no_descriptor_but_three(bundle: Bundle) -> None:
    """Neither ours nor those that our caller left open (CVE-2016-9962)."""
    read, write = os.pipe()
    try:
        bundle.process["args"] = ["sh", "-c", "for fd in /proc/self/fd/*; do echo ${fd##*/}; done"]
        bundle.save()
        result = bundle.call("run", bundle.id, pass_fds=(read, write))
    finally:
        os.close(read)
        os.close(write)
    # The shell opens the directory that it lists.
    assert set(result.lines()) <= {"0", "1", "2", "3", "*"}


def test_preserved_descriptors_arrive(bundle: Bundle, tmp_path: Path) -> None:
    """--preserve-fds passes on those from 3, and LISTEN_FDS those before them with LISTEN_PID as the container numbers it."""
    (tmp_path / "a").write_text("first ")
    (tmp_path / "b").write_text("second")
    bundle.shell("cat <&3; cat <&4; echo; echo $LISTEN_FDS:$LISTEN_PID:$$")
    bundle.save()
    words = bundle.command("run", "--bundle", str(bundle.directory), "--preserve-fds", "1", bundle.id)
    # A shell opens them: the numbers are taken in a process that runs tests.
    script = f'LISTEN_FDS=1 exec "$@" 3<{tmp_path}/a 4<{tmp_path}/b'
    result = subprocess.run(["sh", "-c", script, "sh", *words], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["first second", "1:1:1"]


def test_preserved_descriptor_that_is_closed_is_none_of_ours(bundle: Bundle) -> None:
    """One that the caller did not open is told of, and what we opened under its number stays outside."""
    bundle.process["args"] = ["sh", "-c", "ls -l /proc/$$/fd; true"]
    result = bundle.run("--preserve-fds", "9")
    assert [line.split()[8] for line in result.lines()[1:]] == ["0", "1", "2"]
    assert "descriptor 3 is not passed on" in result.stderr


def test_signals_are_at_their_defaults(bundle: Bundle) -> None:
    """The interpreter ignores some, and our caller may; the program starts with none ignored or blocked."""
    status = status_of(bundle)
    assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0


def test_planted_module_is_never_loaded(bundle: Bundle) -> None:
    """Modules of the interpreter's names in every place of the container's root do not run (CVE-2019-14271)."""
    planted = "open('/tmp/loaded', 'w').write(__name__)\nraise SystemExit(3)\n"
    for place in ("usr/lib/python3.11", "usr/lib/python3", "work", "", "usr/lib/python3/dist-packages"):
        directory = bundle.rootfs / place
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("warnings", "traceback", "linecache", "socket", "signal", "json", "pwd", "grp", "tty"):
            (directory / f"{name}.py").write_text(planted)
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    for program in ("/bin/true", "/nothing", "nothing"):
        bundle.process["args"] = [program]
        bundle.run(check=False)
    bundle.detach()
    bundle.exec("/bin/true")
    bundle.exec("/nothing", check=False)
    assert not (bundle.rootfs / "tmp/loaded").exists()
