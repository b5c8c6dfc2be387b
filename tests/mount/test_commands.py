# SPDX-License-Identifier: Apache-2.0
"""The programs as people call them: what they print, their exit codes, and that a failure leaves nothing behind."""

import errno
import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import CAN_MOUNT
from tests.support import syscalls
from tests.support.oddmounts import odd_mounts
from tests.support.place import Place, refused
from tests.support.union import Workshop, eventually, is_mounted, program, unionfs

pytestmark = pytest.mark.skipif(not CAN_MOUNT, reason="mounting needs root and /dev/fuse")

# -- mount and umount -----------------------------------------------------------------------------------------------


def test_mount_returns_when_the_mount_answers(place: Place) -> None:
    """After `unionfs mount` the union is there; after umount the mount and its server are gone."""
    done = unionfs("mount", "-o", place.options, place.mnt)
    assert (done.stdout, done.stderr) == ("", "")
    assert (place.mnt / "file").read_text() == "low\n"
    status = json.loads(unionfs("status", "--json", place.mnt).stdout)
    assert Path(status["run_directory"]).is_dir()
    unionfs("umount", place.mnt)
    assert not is_mounted(place.mnt)
    eventually(lambda: not Path(f"/proc/{status['pid']}").exists(), "the server to be reaped")
    assert not Path(status["run_directory"]).exists()


@pytest.mark.parametrize(
    ("options", "words", "status"),
    [
        ("br:{root}/missing=rw", "missing", 1),
        ("br:{root}/no\udcfftext=rw", "/no\\xfftext: No such file", 1),
        ("br:{ro}/file=ro", "directory", 1),
        ("br:{rw}=rw:{rw}/sub=ro", "overlaps", 1),
        ("br:{rw}=rw:{mnt}/inside=ro", "inside the mount point", 1),
        ("br:{rw}=rw:/proc=ro", "procfs", 1),
        ("br:{rw}=rw,nonsense", "'nonsense'", 2),
        ("br:{rw}=rw,create=pdmfs", "create", 2),
        ("br:{rw}=rw,create=mfsrr", "create", 2),
        ("br:{rw}=rw,rdcache=4000", "rdcache", 2),
        ("udba=none", "no branch", 2),
        ("br:{rw}=rw:{rw}=ro", "same directory", 1),
    ],
)
def test_mount_bad_option_is_one_line_and_leaves_nothing(
    place: Place, options: str, words: str, status: int
) -> None:
    """Each bad input gets one clear line; a word that is wrong is wrong usage, a directory that is unfit a failure."""
    (place.rw / "sub").mkdir()
    (place.mnt / "inside").mkdir()
    text = options.format(root=place.root, rw=place.rw, ro=place.ro, mnt=place.mnt)
    refused(unionfs("mount", "-o", text, place.mnt, check=False), words, status)
    assert not is_mounted(place.mnt)
    assert sorted(os.listdir(place.rw)) == ["sub"]


@pytest.mark.parametrize("words", [["-o", "{o}", "{m}"], ["{m}", "-o", "{o}"], ["none", "{m}", "-o", "{o}"]])
def test_misspelt_command_mounts_nothing(place: Place, words: list[str]) -> None:
    """`unmount -o ...` is no source for mount(8)'s helper, whatever the order of its words."""
    text = [word.format(o=place.options, m=place.mnt) for word in words]
    done = unionfs("unmount", *text, check=False)
    refused(done, "invalid choice: 'unmount'", 2)
    assert not is_mounted(place.mnt)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--verison"], "--verison"),
        (["mount", "--sesion", "direct", "/m"], "--sesion"),
        (["status", "--jsn"], "--jsn"),
    ],
)
def test_unknown_option_is_named_alone(words: list[str], name: str) -> None:
    """Not with the word after it, nor as a command that is missing."""
    refused(unionfs(*words, check=False), f"unknown option {name};", 2)


def test_unknown_permission_is_warned_of_by_the_program(place: Place) -> None:
    """The line says who warns."""
    done = unionfs("mount", "-o", f"br:{place.rw}=rx", place.mnt)
    assert done.stderr.startswith("unionfs: unknown branch permission 'rx', taken as ro\n")
    unionfs("umount", place.mnt)


@pytest.mark.parametrize(
    "words", [["remount", "-o", "append:{ro}=ro"], ["branch", "append", "{root}", "{ro}"]]
)
def test_branch_for_a_directory_that_is_no_union_says_so(place: Place, words: list[str]) -> None:
    """Not that the branch is inside of it."""
    text = [word.format(root=place.root, ro=place.ro) for word in words]
    more = [] if words[0] == "branch" else [place.root]
    refused(unionfs(*text, *more, check=False), f"{place.root} is not on a union")


def test_mount_read_only_filesystem_as_rw_is_refused(place: Place) -> None:
    """A filesystem that is mounted read-only cannot be a writable branch."""
    syscalls.mount("none", str(place.rw), "tmpfs", syscalls.MS_RDONLY)
    try:
        refused(unionfs("mount", "-o", place.options, place.mnt, check=False), "read-only")
    finally:
        syscalls.umount2(str(place.rw))


def test_mount_on_missing_or_wrong_mount_point_is_refused(place: Place) -> None:
    """The mount point must be a directory."""
    refused(unionfs("mount", "-o", place.options, place.root / "nowhere", check=False), "nowhere")
    refused(unionfs("mount", "-o", place.options, place.ro / "file", check=False), "not a directory")


def test_mount_on_a_union_is_busy(place: Place) -> None:
    """A second union at the same place is refused and the first goes on."""
    unionfs("mount", "-o", place.options, place.mnt)
    refused(unionfs("mount", "-o", place.options, place.mnt, check=False), "busy")
    assert (place.mnt / "file").exists()
    unionfs("umount", place.mnt)


def test_mount_on_a_dead_mount_says_so_and_clears_it(place: Place) -> None:
    """A mount whose server was killed is named as such; --clear-dead, or umount, detaches it."""
    unionfs("mount", "-o", place.options, place.mnt)
    pid = json.loads(unionfs("status", "--json", place.mnt).stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the server's end")
    refused(unionfs("mount", "-o", place.options, place.mnt, check=False), "dead mount")
    refused(unionfs("status", place.mnt, check=False), "does not answer")
    unionfs("mount", "--clear-dead", "-o", place.options, place.mnt)
    assert (place.mnt / "file").exists()
    pid = json.loads(unionfs("status", "--json", place.mnt).stdout)["pid"]
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the server's end")
    unionfs("umount", place.mnt)
    assert not is_mounted(place.mnt)


def test_mount_without_device_names_it(place: Place) -> None:
    """Where /dev/fuse is missing the message says so."""
    script = f"mount -t tmpfs none /dev && exec {' '.join(program())} mount -o {place.options} {place.mnt}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    refused(done, "/dev/fuse does not exist")


def test_mount_with_closed_streams_serves_as_any_other(place: Place) -> None:
    """No file of the server's takes the number of a standard stream that the caller has closed."""
    subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *program(), "mount", "-o", place.options, place.mnt],
        check=True, timeout=60,
    )  # fmt: skip
    assert (place.mnt / "file").read_text() == "low\n"
    unionfs("umount", place.mnt)


def test_mount_told_to_stop_leaves_no_mount(place: Place) -> None:
    """SIGTERM before the mount answers: it goes again, without a word."""
    argv = [*program(), "mount", "-o", place.options, str(place.mnt)]
    client = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    eventually(lambda: is_mounted(place.mnt), "the mount")
    client.terminate()
    said = client.communicate(timeout=60)[1]  # the server has the same standard error until it answers
    assert said == ""
    if client.returncode == 0:  # it was quicker
        unionfs("umount", place.mnt)
    eventually(lambda: not is_mounted(place.mnt), "the mount to go")


def test_mount_told_to_stop_when_it_has_just_answered_leaves_no_mount(place: Place) -> None:
    """SIGTERM after the server has said that it answers, and before that is read: the mount goes again too."""
    argv = [*program(), "mount", "-o", place.options, str(place.mnt)]
    client = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    eventually(lambda: is_mounted(place.mnt), "the mount")
    client.send_signal(signal.SIGSTOP)
    server = int(json.loads(unionfs("status", "--json", place.mnt).stdout)["pid"])
    # It lets go of the standard streams when it has told that it answers.
    eventually(lambda: os.readlink(f"/proc/{server}/fd/2") == os.devnull, "the server's word")
    client.terminate()
    client.send_signal(signal.SIGCONT)
    assert client.communicate(timeout=60)[1] == ""
    if client.returncode == 0:  # it had been quicker than the first signal
        unionfs("umount", place.mnt)
    else:
        assert client.returncode == -signal.SIGTERM
        assert not is_mounted(place.mnt)  # it waited for that


def test_commands_read_any_mount_table(place: Place) -> None:
    """Mounts of others with odd names do not disturb, and a union may be at such a place itself."""
    with odd_mounts(place.root) as others:
        for target in others:
            unionfs("mount", "-o", place.options, target)
            assert json.loads(unionfs("status", "--json", target).stdout)["mountpoint"] == str(target)
            shown = unionfs("which", target / "file").stdout
            assert str(place.ro / "file") in shown and shown.count("\n") == 1
            unionfs("umount", target)


def test_mount_nosymfollow_follows_no_link(place: Place) -> None:
    """A word of mount(8)'s that the kernel has since 5.10; a remount takes it back."""
    (place.ro / "link").symlink_to("file")
    unionfs("mount", "-o", f"{place.options},nosymfollow", place.mnt)
    with pytest.raises(OSError) as caught:
        (place.mnt / "link").read_text()
    assert caught.value.errno == errno.ELOOP
    unionfs("remount", "-o", "symfollow", place.mnt)
    assert (place.mnt / "link").read_text() == "low\n"
    unionfs("umount", place.mnt)


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["mount"], ["branch", "add", "/mnt", "x", "/b"]])
def test_usage_error_exits_two(arguments: list[str]) -> None:
    """A wrong command line is exit code 2."""
    assert unionfs(*arguments, check=False).returncode == 2


@pytest.mark.parametrize("command", ["status", "stats", "flush", "umount", "remount"])
def test_command_on_a_plain_directory_is_refused(tmp_path: Path, command: str) -> None:
    """A directory that is no union is named."""
    refused(unionfs(command, tmp_path, check=False), str(tmp_path))


def test_umount_of_a_busy_mount_is_refused_and_lazy_works(place: Place) -> None:
    """umount says that it is busy; --lazy detaches."""
    unionfs("mount", "-o", place.options, place.mnt)
    with (place.mnt / "file").open():
        refused(unionfs("umount", place.mnt, check=False), "busy")
        assert is_mounted(place.mnt)
        unionfs("umount", "--lazy", place.mnt)
    assert not is_mounted(place.mnt)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_unmounts_and_exits_zero(union: Workshop, number: signal.Signals) -> None:
    """A stopped server takes its mount with it."""
    made = union.mount(B0={}, B1={"f": "x"})
    process = made.process
    assert process is not None
    os.kill(process.pid, number)
    assert process.wait(20) == 0
    assert not is_mounted(made.mnt)
    made.process = None


def test_foreground_tells_the_service_manager(place: Place) -> None:
    """READY=1 comes when the mount answers, STOPPING=1 at the end."""
    address = place.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(20)
        server = subprocess.Popen(
            [*program(), "mount", "--foreground", "-o", place.options, str(place.mnt)],
            env={**os.environ, "NOTIFY_SOCKET": str(address)},
        )
        assert manager.recv(100) == b"READY=1"
        assert (place.mnt / "file").exists()
        server.terminate()
        assert manager.recv(100) == b"STOPPING=1"
        assert server.wait(20) == 0


# -- while mounted --------------------------------------------------------------------------------------------------


def test_run_directory_has_aufs_files(union: Workshop) -> None:
    """br<N>, brid<N> and xi_path are there and follow branch surgery."""
    made = union.mount(B0={}, B1={})
    extra = union.directory("B2")
    directory = Path(made.status()["run_directory"])
    assert (directory / "br0").read_text() == f"{made.branch(0)}=rw\n"
    assert (directory / "brid0").read_text() == "64\n"
    assert (directory / "xi_path").exists()
    unionfs("branch", "append", made.mnt, f"{extra}=ro+wh")
    assert (directory / "br2").read_text() == f"{extra}=ro+wh\n"
    unionfs("branch", "del", made.mnt, extra)
    assert not (directory / "br2").exists()
    assert (directory / "control").stat().st_mode & 0o777 == 0o600


def test_branch_inside_the_union_is_refused(union: Workshop) -> None:
    """A directory of the union cannot be its branch; asking does not hang the server."""
    made = union.mount(B0={}, B1={"d/f": "x"})
    for action in (["append"], ["prepend"], ["del"]):
        refused(unionfs("branch", *action, made.mnt, made / "d", check=False), "inside the union")


def test_branch_busy_names_process_and_file(union: Workshop) -> None:
    """`branch busy` and the refusal of del say who holds the branch."""
    made = union.mount(B0={}, B1={"f": "x"}, B2={})
    with (made / "f").open():
        rows = json.loads(unionfs("branch", "busy", "--json", made.mnt, made.branch(1)).stdout)
        assert [(row["pid"], row["path"]) for row in rows] == [(os.getpid(), "/f")]
        refused(unionfs("branch", "del", made.mnt, made.branch(1), check=False), str(os.getpid()))
    unionfs("branch", "del", made.mnt, made.branch(1))
    assert not (made / "f").exists()


def test_remount_changes_options_and_flags(union: Workshop) -> None:
    """Options, branches and `ro` change in one remount."""
    made = union.mount(B0={}, B1={"f": "x"})
    unionfs("remount", "-o", "create=rr,sum,ro", made.mnt)
    assert {"create=rr", "sum"} <= set(made.status()["options"])
    with pytest.raises(OSError, match="Read-only"):
        (made / "new").touch()
    unionfs("remount", "-o", "rw,nosum", made.mnt)
    (made / "new").touch()
    assert "sum" not in made.status()["options"]
    refused(unionfs("remount", "-o", "sum,nonsense", made.mnt, check=False), "nonsense", 2)
    refused(unionfs("remount", "-o", "whiteout=overlay", made.mnt, check=False), "whiteout")


def test_which_explains_each_branch(union: Workshop) -> None:
    """which tells the visible copy, hidden ones and the whiteout."""
    made = union.mount(B0={"f": "new"}, B1={"f": "old", "g": "x"})
    lines = unionfs("which", made / "f").stdout.splitlines()
    assert lines[0].startswith("*") and str(made.branch(0) / "f") in lines[0]
    assert "hidden" in lines[1]
    (made / "g").unlink()
    done = unionfs("which", "--json", made / "g", check=False)
    assert done.returncode == 1
    rows = json.loads(done.stdout)[str(made / "g")]
    assert [(row["whiteout"], row["present"], row["visible"]) for row in rows] == [
        (True, False, False),
        (False, True, False),
    ]


def test_stats_count_requests(union: Workshop) -> None:
    """stats counts by kind."""
    made = union.mount(B0={}, B1={"f": "x"})
    (made / "f").read_text()
    stats = json.loads(unionfs("stats", "--json", made.mnt).stdout)
    assert stats["open"]["count"] >= 1
    assert stats["open"]["p99_us"] >= stats["open"]["p50_us"] > 0


def test_control_socket_survives_rubbish(union: Workshop) -> None:
    """Nothing that a client sends ends the server."""
    made = union.mount(B0={}, B1={})
    path = Path(made.status()["run_directory"]) / "control"
    for rubbish in (
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"command": 3}\n',
        b'{"command": "which", "path": 1}\n',
        b"\xff",
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            client.sendall(rubbish)
            client.shutdown(socket.SHUT_WR)
            answer = client.makefile("rb").read()
            assert b'"ok": true' not in answer
    assert made.status()["pid"] == made.pid
    made.allowed_log.append("control command failed|Traceback|^ |Error")


@pytest.mark.parametrize("command", ["which", "mvdown"])
def test_command_names_the_file_as_it_was_given(place: Place, command: str) -> None:
    """Whether it is on no union at all or not in it."""
    refused(unionfs(command, place.ro / "file", check=False), f"{place.ro}/file is not on a union")
    unionfs("mount", "-o", place.options, place.mnt)
    refused(unionfs(command, place.mnt / "absent", check=False), f"unionfs: {place.mnt}/absent: ")
    refused(
        unionfs("mvdown", place.mnt / "file", check=False), f"{place.mnt}/file: the file is on a read-only"
    )
    unionfs("umount", place.mnt)


def test_mount_on_a_full_branch_names_it(place: Place) -> None:
    """Where the bookkeeping entries cannot be made."""
    syscalls.mount("none", str(place.rw), "tmpfs", 0, "nr_inodes=2")
    try:
        done = unionfs("mount", "-o", place.options, place.mnt, check=False)
        refused(done, f"branch {place.rw}: No space left on device")
    finally:
        syscalls.umount2(str(place.rw))


# -- commit and check -----------------------------------------------------------------------------------------------


def test_commit_folds_the_top_branch_down(union: Workshop) -> None:
    """The union looks the same before and after; the top branch is empty and the target has the changes."""
    made = union.mount(
        "br:{B0}=rw:{B1}=ro+wh:{B2}=ro+wh",
        changing="B1",
        B0={},
        B1={"f": "old", "gone": "x", "d/x": "1"},
        B2={"low": "2", "d/y": "2"},
    )
    (made / "f").write_text("new")
    os.link(made / "f", made / "link")
    (made / "gone").unlink()
    (made / "low").unlink()
    (made / "d" / "x").unlink()
    (made / "d" / "y").unlink()
    (made / "d").rmdir()
    (made / "d").mkdir()
    (made / "d" / "z").write_text("3")
    before = {str(path.relative_to(made.mnt)): path.lstat().st_size for path in made.mnt.rglob("*")}
    unionfs("commit", made.mnt, made.branch(1))
    after = {str(path.relative_to(made.mnt)): path.lstat().st_size for path in made.mnt.rglob("*")}
    assert before.keys() == after.keys() == {"f", "link", "d", "d/z"}
    base = made.branch(1)
    assert (base / "f").read_text() == "new"
    assert (base / "f").stat().st_ino == (base / "link").stat().st_ino
    assert sorted(os.listdir(base)) == [".wh.low", "d", "f", "link"]
    assert sorted(os.listdir(base / "d")) == [".wh..wh..opq", "z"]
    assert all(name.startswith(".wh..wh.") for name in os.listdir(made.branch(0)))
    (made / "after").write_text("x")
    assert (made.branch(0) / "after").exists()


def test_commit_refuses_what_it_cannot_do(union: Workshop) -> None:
    """Not a branch, not the neighbour, an open file: one line each, nothing changed."""
    made = union.mount("br:{B0}=rw:{B1}=ro+wh:{B2}=ro", B0={}, B1={"f": "x"}, B2={})
    (made / "n").write_text("x")
    refused(unionfs("commit", made.mnt, union.root, check=False), "not a branch")
    refused(unionfs("commit", made.mnt, made.branch(2), check=False), "between")
    with (made / "n").open():
        refused(unionfs("commit", made.mnt, made.branch(1), check=False), "open")
    assert (made.branch(0) / "n").exists()


def test_commit_told_to_stop_leaves_a_writable_mount(union: Workshop) -> None:
    """SIGTERM in the middle: nothing half copied stays, and the mount is writable again."""
    made = union.mount("br:{B0}=rw:{B1}=ro+wh", changing="B1", B0={}, B1={"f": "x"})
    with (made / "big").open("wb") as stream:
        for _ in range(128):
            stream.write(os.urandom(1 << 20))
    commit = subprocess.Popen([*program(), "commit", made.mnt, made.branch(1)])
    eventually(lambda: commit.poll() is not None or os.statvfs(made.mnt).f_flag & os.ST_RDONLY)
    commit.terminate()
    assert commit.wait(60) in (143, 0)  # 0: it was done before
    (made / "after").write_text("x")
    assert set(os.listdir(made.branch(1))) <= {"f", "big"}


def test_check_finds_and_repairs(tmp_path: Path) -> None:
    """Pairs, bad types, stages, plinks and orphans are found; -r puts them right and keeps data."""
    for directory in ("d", ".wh.bad/inner", ".wh..wh.plnk", ".wh..wh.orph", ".wh..wh.x.0a1b/y"):
        (tmp_path / directory).mkdir(parents=True)
    for file in (
        "d/f",
        "d/.wh.f",
        "d/.wh.hidden",
        ".wh..wh.plnk/1.2",
        ".wh..wh.orph/x.1234",
        "d/.wh..wh.f.00ff",
    ):
        (tmp_path / file).write_text("")
    done = unionfs("check", "--json", tmp_path, check=False)
    assert done.returncode == 1
    kinds = sorted(problem["kind"] for problem in json.loads(done.stdout))
    assert kinds == ["orphan", "pair", "plink", "stage", "stage", "type"]
    unionfs("check", "-r", tmp_path)
    assert unionfs("check", tmp_path).stdout == ""
    assert (tmp_path / "d" / "f").exists() and (tmp_path / "d" / ".wh.hidden").exists()
    assert (tmp_path / "recovered.bad" / "inner").is_dir()


def test_check_repair_of_a_pair_changes_nothing_that_shows(union: Workshop) -> None:
    """A directory beside its whiteout hides what is below it, before and after the repair."""
    made = union.prepare(
        "", "", {"B0": {"d/x": "x", ".wh.d": "", "f": "f", ".wh.f": ""}, "B1": {"d/y": "y", "f": "low"}}
    )
    for _ in range(2):
        made.start()
        assert os.listdir(made / "d") == ["x"]
        assert (made / "f").read_text() == "f"
        made.stop()
        unionfs("check", "-r", made.branch(0))
    assert unionfs("check", made.branch(0)).stdout == ""


def test_check_does_not_repair_a_branch_in_use(union: Workshop) -> None:
    """A branch of a living union is not touched."""
    made = union.mount(B0={}, B1={"f": "x"})
    (made.branch(0) / ".wh.q").mkdir()
    refused(unionfs("check", "-r", made.branch(0), check=False), "unmount")
    (made.branch(0) / ".wh.q").rmdir()
