# SPDX-License-Identifier: Apache-2.0
"""Attacks on the runtime that succeeded against others, each tried through the program. The CVE says whom it hit."""

import fcntl
import os
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.oci import Bundle, wait_until

STUB = "/memfd:unionrt (deleted)"
INTERPRETER = os.path.realpath(sys.executable)


def run_with(bundle: Bundle, **options: Any) -> subprocess.CompletedProcess[str]:
    """`unionrt run` with options of subprocess."""
    bundle.save()
    return subprocess.run(
        bundle.command("run", bundle.id), cwd=bundle.directory, capture_output=True, text=True, timeout=60, **options
    )  # fmt: skip


# The runtime's own executable, here the interpreter (CVE-2019-5736)


def _mount_libraries(bundle: Bundle) -> None:
    """Let the interpreter's libraries be found in the container, so that it would run there if it were reached."""
    for name in ("/usr", "/lib", "/lib64"):
        if os.path.isdir(name):
            bundle.mount(name, type="bind", source=name, options=["rbind", "ro"])


def test_interpreter_would_run_in_the_container(bundle: Bundle) -> None:
    """The attacks below fail because of the seal, not because the interpreter lacks its libraries."""
    _mount_libraries(bundle)
    (bundle.rootfs / "interpreter").write_bytes(Path(INTERPRETER).read_bytes())
    (bundle.rootfs / "interpreter").chmod(0o755)
    assert bundle.run(args=["/interpreter", "-V"]).stdout.startswith("Python")


@pytest.mark.parametrize("no_new_privileges", [False, True])
def test_script_cannot_name_our_executable_as_its_interpreter(
    bundle: Bundle, no_new_privileges: bool
) -> None:
    """`#!/proc/self/exe` runs the stub again, which knows its descriptors are gone and ends."""
    _mount_libraries(bundle)
    script = bundle.rootfs / "entry"
    script.write_text("#!/proc/self/exe -V\n")
    script.chmod(0o755)
    bundle.process["noNewPrivileges"] = no_new_privileges
    result = bundle.run(args=["/entry"], check=False)
    assert result.returncode != 0
    assert "Python" not in result.stdout + result.stderr


def test_program_cannot_be_our_executable(bundle: Bundle) -> None:
    """Neither can it be the program itself."""
    _mount_libraries(bundle)
    result = bundle.run(args=["/proc/self/exe", "-V"], check=False)
    assert result.returncode != 0
    assert "Python" not in result.stdout + result.stderr


def test_hook_cannot_name_our_executable_as_its_interpreter(bundle: Bundle) -> None:
    """Nor a startContainer hook, which is a file of the container too."""
    _mount_libraries(bundle)
    script = bundle.rootfs / "hook"
    script.write_text("#!/proc/self/exe -V\n")
    script.chmod(0o755)
    bundle.config["hooks"] = {"startContainer": [{"path": "/hook"}]}
    result = bundle.run(args=["true"], check=False)
    assert result.returncode != 0
    assert "Python" not in result.stdout + result.stderr


def test_created_container_shows_a_sealed_file(bundle: Bundle) -> None:
    """What /proc/PID/exe names while the container waits cannot be changed, not even by the host's root."""
    bundle.create()
    path = f"/proc/{bundle.status()['pid']}/exe"
    assert os.readlink(path) == STUB
    with open(path, "rb") as held:
        bundle.start()
        wait_until(lambda: bundle.status()["status"] == "stopped" or os.readlink(path) != STUB, "it runs")
        writer = os.open(f"/proc/self/fd/{held.fileno()}", os.O_WRONLY)
        try:
            with pytest.raises(PermissionError):
                os.write(writer, b"x")
            with pytest.raises(PermissionError):
                os.ftruncate(writer, 0)
        finally:
            os.close(writer)


_SPY = """
while [ ! -e /stop ]; do
    for process in /proc/[0-9]*; do
        readlink $process/exe || { read name <$process/comm && echo closed $name; }
    done
done >/spied 2>/dev/null
"""


def test_processes_of_ours_in_a_shared_pid_namespace_are_closed(make_bundle: Callable[[], Bundle]) -> None:
    """Root of a container sees nothing of what makes another one in its pid namespace (CVE-2016-9962, CVE-2019-5736).

    The right to read the link is the right to ptrace, to open /proc/PID/mem, fd, root and cwd.
    """
    host, guest = make_bundle(), make_bundle()
    host.shell(_SPY)
    host.run("--detach")
    guest.linux["namespaces"] = [
        {"type": "pid", "path": f"/proc/{host.status()['pid']}/ns/pid"} if space["type"] == "pid" else space
        for space in guest.linux["namespaces"]
    ]
    spied = host.rootfs / "spied"

    def has_met_us() -> bool:
        guest.run(args=["true"])
        return "closed" in spied.read_text()

    wait_until(has_met_us, "the spy has met one of our processes")
    for _ in range(10):
        guest.run(args=["true"])
    (host.rootfs / "stop").touch()
    host.wait_for_status("stopped")
    links = {line for line in spied.read_text().split("\n") if not line.startswith("closed")}
    assert links <= {"", "/bin/busybox", STUB}


# Descriptors and the working directory (CVE-2016-9962, CVE-2024-21626)


def test_no_descriptor_of_ours_or_the_callers_reaches_the_container(bundle: Bundle) -> None:
    """The program has its three standard descriptors, whatever the caller left open."""
    leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        bundle.shell("ls -l /proc/$$/fd")
        result = run_with(bundle, pass_fds=(leaked,), stdin=subprocess.DEVNULL)
    finally:
        os.close(leaked)
    numbers = [line.split(" -> ")[0].split()[-1] for line in result.stdout.splitlines() if " -> " in line]
    assert numbers == ["0", "1", "2"], result.stdout


def test_waiting_container_holds_two_pipes_and_nothing_else(bundle: Bundle) -> None:
    """What waits for `start` cannot be robbed: two fifos, that carry a byte and an error number."""
    bundle.create()
    folder = Path(f"/proc/{bundle.status()['pid']}/fd")
    others = {os.readlink(folder / fd) for fd in os.listdir(folder) if int(fd) > 2}
    assert len(others) == 2
    assert all(Path(path).parent.parent == bundle.state for path in others)


def test_working_directory_outside_the_root_is_refused(bundle: Bundle) -> None:
    """A directory descriptor that leaks cannot be entered by naming it as the working directory."""
    leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number in (leaked, *range(3, 12)):
            bundle.process["cwd"] = f"/proc/self/fd/{number}"
            bundle.process["args"] = ["ls", "../../.."]
            result = run_with(bundle, pass_fds=(leaked,))
            assert result.returncode != 0 or "busybox" not in result.stdout
            assert "boot" not in result.stdout and "srv" not in result.stdout
    finally:
        os.close(leaked)


# Privileges


def test_groups_of_the_caller_are_not_inherited(bundle: Bundle) -> None:
    """Supplementary groups are those of config.json (CVE-2022-36109)."""
    bundle.shell("grep Groups: /proc/self/status")
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert "4242" not in run_with(bundle, extra_groups=[4242, 4243]).stdout
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [77]}
    words = run_with(bundle, extra_groups=[4242]).stdout.split()
    assert "77" in words and "4242" not in words


def test_nothing_is_inheritable_unless_asked(bundle: Bundle) -> None:
    """Inheritable capabilities would come back with any file that has some (CVE-2022-24769)."""
    bundle.process["capabilities"].pop("inheritable", None)
    bundle.process["capabilities"].pop("ambient", None)
    bundle.shell("grep -E 'CapInh|CapAmb' /proc/self/status")
    assert {line.split()[1] for line in bundle.run().lines()} == {"0" * 16}


# The caller's terminal


def test_terminal_of_the_caller_is_not_the_containers(bundle: Bundle) -> None:
    """The container has no controlling terminal to push keystrokes into (TIOCSTI), even if it inherits its descriptors."""
    bundle.shell("cut -d' ' -f7 /proc/1/stat >/seen")
    bundle.save()
    master, slave = os.openpty()

    def take_terminal() -> None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    try:
        command = [
            "sh",
            "-c",
            'cut -d" " -f7 /proc/$$/stat; exec "$@"',
            "sh",
            *bundle.command("run", bundle.id),
        ]
        done = subprocess.run(
            command,
            cwd=bundle.directory,
            stdin=slave,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=take_terminal,
            timeout=60,
        )
    finally:
        os.close(master)
        os.close(slave)
    assert int(done.stdout) != 0  # the runtime itself had it
    assert (bundle.rootfs / "seen").read_text() == "0\n"


# Sockets


def test_no_abstract_socket(bundle: Bundle) -> None:
    """Every container on the host's network could connect to one (CVE-2020-15257)."""

    def abstract() -> set[str]:
        lines = Path("/proc/net/unix").read_text().splitlines()
        return {line.split()[-1] for line in lines if line.split()[-1].startswith("@")}

    before = abstract()
    bundle.detach()
    assert abstract() <= before


# Our imports (CVE-2019-14271, in Python's form)

_PLANTED = "open('/planted', 'w').write(__name__)\n"


def _plant(bundle: Bundle) -> None:
    """Put modules of the container where our interpreter searches, under every name that somebody may import late."""
    names = """os re json socket signal traceback linecache pwd grp locale ctypes subprocess struct enum types warnings
        encodings/__init__ encodings/idna encodings/latin_1 encodings/ascii runtime/__init__ unionfs/__init__ tempfile
        sitecustomize usercustomize logging tokenize stringprep unicodedata"""
    root = Path(__file__).parents[2]
    for place in {*sys.path, str(root), "/", "/tmp"}:
        folder = bundle.rootfs / place.strip("/")
        if place.endswith(".zip"):
            continue
        for name in names.split():
            file = folder / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_PLANTED)


@pytest.mark.parametrize("mistake", [False, True])
def test_no_module_of_the_container_is_loaded(bundle: Bundle, mistake: bool) -> None:
    """Once in the container our interpreter imports nothing, not even to tell about a mistake."""
    _plant(bundle)
    for name in ("PYTHONPATH", "PYTHONHOME"):
        bundle.environment[name] = str(bundle.rootfs / "tmp")
    bundle.process["env"] += ["PYTHONPATH=/tmp", "PYTHONSTARTUP=/tmp/os.py"]
    bundle.config["hooks"] = {
        kind: [{"path": "/bin/true"}] for kind in ("createRuntime", "createContainer", "startContainer")
    }
    if mistake:
        bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]
        bundle.config["hooks"]["startContainer"] = [{"path": "/nowhere/hook\udcff"}]
    bundle.run(args=["/no/such/program\udcff" if mistake else "true"], check=False)
    assert not (bundle.rootfs / "planted").exists()
    assert not Path("/planted").exists()


# The container's tree as a trap


@pytest.fixture
def outside(bundle: Bundle) -> Path:
    """Give a directory of the host beside the container's root, which must stay empty."""
    directory = bundle.directory / "outside"
    directory.mkdir()
    return directory


@pytest.mark.parametrize("target", ["../outside", "/../../outside", "{}"])
def test_dev_that_is_a_symlink_leads_nowhere(bundle: Bundle, outside: Path, target: str) -> None:
    """Device nodes and links are made in the container's own /dev (CVE-2026-41579, CVE-2026-47766)."""
    (bundle.rootfs / "dev").rmdir()
    (bundle.rootfs / "dev").symlink_to(target.format(outside))
    bundle.config["mounts"] = [
        mount for mount in bundle.config["mounts"] if not mount["destination"].startswith("/dev")
    ]
    bundle.run(args=["true"], check=False)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_on_a_symlink_is_refused(bundle: Bundle, name: str) -> None:
    """A proc or sysfs elsewhere than it should be would be neither masked nor trusted (CVE-2019-19921)."""
    (bundle.rootfs / name).rmdir()
    (bundle.rootfs / name).symlink_to("tmp")
    result = bundle.run(args=["echo", "ran"], check=False)
    assert result.returncode != 0
    assert "ran" not in result.stdout


def test_mount_point_is_made_in_the_container(bundle: Bundle, outside: Path) -> None:
    """A missing mount point below a link that leads out is made inside (CVE-2021-30465, CVE-2024-45310)."""
    (bundle.rootfs / "link").symlink_to(outside)
    (bundle.rootfs / "up").symlink_to("../outside")
    for destination in ("/link/made", "/up/made", "/tmp/../../../link/more"):
        bundle.mount(destination, type="tmpfs", source="tmpfs", options=[])
    bundle.run(args=["true"], check=False)
    assert list(outside.iterdir()) == []


def test_masked_path_needs_the_real_null(bundle: Bundle, outside: Path) -> None:
    """A /dev/null of the image is not what hides a file of ours (CVE-2025-31133)."""
    bundle.config["mounts"] = [
        mount for mount in bundle.config["mounts"] if not mount["destination"].startswith("/dev")
    ]
    (outside / "target").write_text("host")
    (bundle.rootfs / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")
    bundle.linux["maskedPaths"] = ["/proc/timer_list", "/proc/kcore"]
    bundle.shell("cat /proc/timer_list; stat -c %t:%T /proc/timer_list; echo x >/proc/timer_list")
    result = bundle.run(check=False)
    assert result.returncode != 0 or result.stdout == "1:3\n"
    assert not Path("/proc/sys/kernel/core_pattern").read_text().startswith("x")


# Joining a container


def test_exec_is_closed_to_the_container(bundle: Bundle) -> None:
    """Root of the container sees nothing of the process that joins it until that is the program (CVE-2016-9962)."""
    bundle.shell(_SPY)
    bundle.run("--detach")
    spied = bundle.rootfs / "spied"

    def has_met_us() -> bool:
        bundle.exec("true")
        return "closed" in spied.read_text()

    wait_until(has_met_us, "the spy has met one of our processes")
    for _ in range(10):
        bundle.exec("true")
    (bundle.rootfs / "stop").touch()
    bundle.wait_for_status("stopped")
    links = {line for line in spied.read_text().split("\n") if not line.startswith("closed")}
    assert links <= {"", "/bin/busybox", STUB}


@pytest.mark.parametrize("name", ["entry", "/proc/self/exe"])
def test_exec_cannot_reach_our_executable(bundle: Bundle, name: str) -> None:
    """Nor can a program of the container that exec is told to run."""
    _mount_libraries(bundle)
    script = bundle.rootfs / "bin/entry"
    script.write_text("#!/proc/self/exe -V\n")
    script.chmod(0o755)
    bundle.detach()
    result = bundle.exec(name, "-V", check=False)
    assert result.returncode != 0
    assert "Python" not in result.stdout + result.stderr


def test_exec_gives_no_inheritable_capability(bundle: Bundle) -> None:
    """`--cap` adds to what the process may do, not to what files may bring back (CVE-2022-29162)."""
    bundle.detach()
    result = bundle.exec("--cap=CAP_NET_RAW", "grep", "-E", "CapInh|CapEff", "/proc/self/status")
    values = {line.split()[0]: int(line.split()[1], 16) for line in result.lines()}
    assert values["CapInh:"] == 0
    assert values["CapEff:"] >> 13 & 1


def test_exec_passes_no_descriptor(bundle: Bundle) -> None:
    """What the caller left open, a directory of the host for example, does not come along (CVE-2024-21626)."""
    bundle.detach()
    leaked = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        result = bundle.call("exec", bundle.id, "sh", "-c", "ls -l /proc/$$/fd", pass_fds=(leaked,))
        for number in (leaked, *range(3, 12)):
            options = ("--cwd", f"/proc/self/fd/{number}", bundle.id, "ls", "../../..")
            outside = bundle.call("exec", *options, pass_fds=(leaked,), check=False)
            assert outside.returncode != 0 or "busybox" not in outside.stdout
            assert "boot" not in outside.stdout and "srv" not in outside.stdout
    finally:
        os.close(leaked)
    numbers = [line.split(" -> ")[0].split()[-1] for line in result.lines() if " -> " in line]
    assert numbers == ["0", "1", "2"], result.stdout


def test_exec_loads_no_module_of_the_container(bundle: Bundle) -> None:
    """The process that joins a container imports nothing once it is there."""
    _plant(bundle)
    bundle.detach()
    bundle.exec("true")
    bundle.exec("--user=1000:1000", "true")
    bundle.exec("--tty", "true", check=False)
    bundle.exec("no-such-program", check=False)
    assert not (bundle.rootfs / "planted").exists()


def test_exec_groups_of_the_caller_are_not_inherited(bundle: Bundle) -> None:
    """Neither exec brings the caller's groups along (CVE-2022-36109)."""
    bundle.detach()
    done = subprocess.run(
        bundle.command("exec", "--user", "1000:1000", bundle.id, "grep", "Groups:", "/proc/self/status"),
        capture_output=True,
        text=True,
        timeout=60,
        extra_groups=[4242],
    )
    assert done.returncode == 0 and "4242" not in done.stdout
