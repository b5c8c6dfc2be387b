# SPDX-License-Identifier: Apache-2.0
"""What a container's root tries against its limits and its host, by the ways that were open in Docker's runtimes."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.support import syscalls
from tests.support.box import ROOT, Box
from unionfs.kernel.syscalls import MS_NODEV, MS_NOSUID

PYTHON = "/usr/bin/python3"
# Each is tried as root of the container and must fail with EPERM: (name, number on x86_64, arguments).
CALLS = {
    "unshare user": (272, 0x10000000),
    "unshare mount": (272, 0x00020000),
    "setns": (308, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "mount_setattr": (442, -1, 0, 0, 0, 0),
    "fsopen": (430, 0, 0),
    "open_tree": (428, -100, 0, 1),
    "bpf": (321, 0, 0, 0),
    "keyctl": (250, 0, 0),
    "add_key": (248, 0, 0, 0, 0, 0),
    "io_uring_setup": (425, 1, 0),
    "userfaultfd": (323, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "init_module": (175, 0, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "open_by_handle_at": (304, -100, 0, 0),
    "swapon": (167, 0, 0),
    "reboot": (169, 0, 0, 0, 0),
    "settimeofday": (164, 0, 0),
    "alg socket": (41, 38, 5, 0),
    "clone user": (56, 0x10000000 | 17, 0, 0, 0, 0),
}


def test_root_cannot_lift_its_limits(box: Box) -> None:
    """No new user namespace, hence no capability over it, hence no cgroup that could be mounted writable."""
    script = """
        mkdir -p /tmp/m
        unshare -U -m -C --map-root-user sh -c 'mount -t cgroup -o memory x /tmp/m && echo mounted' 2>&1
        mount -t cgroup -o memory x /tmp/m 2>&1 && echo mounted
        mount -o remount,rw,bind /sys/fs/cgroup/memory 2>&1 && echo mounted
        for f in memory/memory.limit_in_bytes pids/pids.max cpu/cpu.cfs_quota_us; do
            echo max > /sys/fs/cgroup/$f; cat /sys/fs/cgroup/$f
        done 2>/dev/null
    """
    for more in ([], ["--userns"]):
        done = box.run(*more, "--memory", "64m", "--pids", "30", "--cpus", "0.5", "--", "sh", "-c", script)
        assert "mounted" not in done.stdout
        assert "unshare failed: Operation not permitted" in done.stdout
        assert done.stdout.endswith("67108864\n30\n50000\n")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="knows this machine's numbers only")
def test_calls_that_reach_the_machine_are_refused(box: Box) -> None:
    """The filter is there for the program and for init, and refuses what Docker's refuses."""
    script = (
        "import ctypes, errno, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        f"for name, call in {CALLS!r}.items():\n"
        "    result = libc.syscall(*call)\n"
        "    if name == 'clone user' and result == 0: os._exit(0)\n"
        "    print(name, result, errno.errorcode.get(ctypes.get_errno(), 0))\n"
        "print(libc.syscall(435, 0, 0), errno.errorcode[ctypes.get_errno()])\n"  # clone3
        "for pid in (1, 'self'): print(open(f'/proc/{pid}/status').read().split('Seccomp:')[1].split()[0])\n"
    )
    lines = box.run("--", PYTHON, "-c", script).stdout.splitlines()
    assert lines == [*(f"{name} -1 EPERM" for name in CALLS), "-1 ENOSYS", "2", "2"]


def test_ordinary_work_passes_the_filter(box: Box) -> None:
    """Processes, threads, pipes, changes of owner and user, signals and sockets are as they were."""
    script = (
        "set -e; touch /a; chown 1:2 /a; chmod 4755 /a; mkdir /d; mv /a /d/a; ln /d/a /d/b; mkfifo /f; mknod /n c 1 3; "
        "setpriv --reuid 1000 --regid 1000 --clear-groups id -u; (sleep 5 & kill $!); chroot / true; "
        f"{PYTHON} -c 'import threading,socket,subprocess,multiprocessing; "
        'threading.Thread(target=print).start(); subprocess.run(["true"], check=True); socket.socketpair(); '
        "multiprocessing.Queue()'; echo ok"
    )
    done = box.run("--", "sh", "-c", script)
    assert done.stdout.split() == ["1000", "ok"], done.stderr


def test_processes_are_limited_by_default(box: Box) -> None:
    """A fork bomb ends at podman's 2048; `--pids max` is what it was."""
    show = ("--", "cat", "/sys/fs/cgroup/pids/pids.max")
    assert box.run(*show).stdout == "2048\n"
    assert box.run("--pids", "max", *show).stdout == "max\n"
    assert box.run("--pids", "17", *show).stdout == "17\n"


def test_rw_directory_that_others_reach_is_refused(box: Box) -> None:
    """A set-user-ID program of the container's root would be one of the machine's."""
    branch = box.directory / "open"
    branch.mkdir()
    make = ("--", "sh", "-c", "cp /bin/true /suid; chmod 4755 /suid")
    done = box.run("--rw", str(branch), *make)
    assert done.returncode == 125 and "can be reached by other users" in done.stderr
    assert not any(branch.iterdir())
    branch.chmod(0o700)  # it would become that of the container's /
    assert box.run("--rw", str(branch), *make).returncode == 125
    box.directory.chmod(0o710)
    assert box.run("--rw", str(branch), *make).returncode == 125
    box.directory.chmod(0o700)
    assert box.run("--rw", str(branch), *make).returncode == 0
    suid = branch / "suid"
    assert suid.stat().st_mode & 0o4000
    with pytest.raises(PermissionError):
        subprocess.run([suid], user=65534, group=65534, extra_groups=[], check=False)
    box.directory.chmod(0o755)


def test_rw_directory_where_set_user_id_means_nothing_is_taken(box: Box) -> None:
    """Nobody gains from what lies on a filesystem without set-user-ID and devices, nor from what nobody owns."""
    plain = box.directory / "plain"
    plain.mkdir()
    assert box.run("--userns", "--rw", str(plain), "--", "true").returncode == 0
    quiet = box.directory / "quiet"
    quiet.mkdir()
    syscalls.mount("none", str(quiet), "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    try:
        (quiet / "rw").mkdir()
        assert box.run("--rw", str(quiet / "rw"), "--", "true").returncode == 0
    finally:
        syscalls.umount2(str(quiet))


def _image(box: Box, **files: str) -> str:
    """Make a layer above the machine's root; a value that starts with -> is a symbolic link."""
    root = box.directory / "image"
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("->"):
            path.symlink_to(text[2:])
        else:
            path.write_text(text)
    return f"{root}:/"


@pytest.mark.parametrize("name", ["4294967296", "0000000004294967295", "12345678901234567890"])
def test_number_that_is_too_big_is_no_name(box: Box, name: str) -> None:
    """An image cannot make such a user root by an entry of that name (CVE-2026-46680)."""
    image = _image(
        box,
        etc__passwd=f"root:x:0:0::/:/bin/sh\n{name}:x:0:0::/:/bin/sh\n1000:x:0:0::/:/bin/sh\nu:x:1000:1000::/:/\n",
    )
    done = box.run("--rootfs", image, "-u", name, "--", "id", "-u")
    assert done.returncode == 125 and done.stdout == ""
    assert box.run("--rootfs", image, "-u", "1000", "--", "id", "-u").stdout == "1000\n"


def test_working_directory_leads_to_no_descriptor_of_ours(box: Box) -> None:
    """/proc/self/fd/N is no way to the host, whatever N, nor is a link to it (CVE-2024-21626)."""
    image = _image(box, link="->/proc/self/fd/7")
    os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    for path in (*(f"/proc/self/fd/{n}" for n in range(3, 11)), "/proc/1/cwd", "/proc/1/root/..", "/link"):
        done = box.run(
            "--rootfs", image, "-w", path, "--", "sh", "-c", "pwd -P; ls -d ../../../../.. >/dev/null"
        )
        assert done.returncode in (125, 126) or done.stdout == "/\n", (path, done.stdout)


def test_descriptors_of_the_caller_stay_outside(box: Box) -> None:
    """What the caller left open does not come along (CVE-2016-9962, CVE-2024-21626)."""
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(fd, True)
    try:
        done = subprocess.run(
            box.command("--", "ls", "-l", "/proc/self/fd"),
            cwd=ROOT, env=box.environment(), capture_output=True, text=True, timeout=60, pass_fds=(fd,), check=True,
        )  # fmt: skip
    finally:
        os.close(fd)
    links = [line.split(" -> ")[1] for line in done.stdout.splitlines() if " -> " in line]
    assert len(links) == 4 and links[3].startswith("/proc/")
    assert not any(link.startswith("/") and not link.startswith(("/dev/", "/proc/")) for link in links)


def test_image_does_not_choose_what_hides_or_shows(box: Box) -> None:
    """/dev/null, /dev/console and /dev itself are never the image's (CVE-2025-31133, CVE-2025-52565, CVE-2026-41579)."""
    victim = box.directory / "victim"
    victim.mkdir()
    image = _image(
        box,
        dev__null="->/proc/sys/kernel/core_pattern",
        dev__console=f"->{victim}/console",
        dev__ptmx="->/etc/shadow",
    )
    script = (
        "stat -c %t:%T /dev/null; cat /proc/kcore /proc/keys /proc/interrupts; ls -A /sys/firmware; "
        "readlink /dev/ptmx; ls -A /sys/devices/system/cpu/cpu0/thermal_throttle 2>/dev/null; "
        "echo x > /proc/sys/kernel/core_pattern || echo read-only"
    )  # fmt: skip
    done = box.run("--rootfs", image, "--", "sh", "-c", script)
    assert done.stdout == "1:3\npts/ptmx\nread-only\n"
    assert not any(victim.iterdir())


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "proc/self", "sys/fs"])
def test_image_that_links_a_mount_point_writes_nowhere(box: Box, name: str) -> None:
    """Where a mount belongs a link is refused, or covered; nothing of ours is written through it (CVE-2025-52881)."""
    victim = box.directory / "victim"
    victim.mkdir()
    root = box.directory / "image"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(victim)
    box.run("--rootfs", f"{root}:/", "--", "true")
    assert not any(victim.iterdir())


def test_image_has_no_say_in_how_it_is_run(box: Box, tmp_path: Path) -> None:
    """A handler's configuration in an image is a file like any other (CVE-2025-24965)."""
    victim = tmp_path / "victim"
    victim.write_text("mine\n")
    image = _image(box, **{".krun_config.json": f"->{victim}", ".crun": f"->{victim}"})
    assert box.run("--rootfs", image, "--", "true").returncode == 0
    assert victim.read_text() == "mine\n"
