# SPDX-License-Identifier: Apache-2.0
"""Roots and bundles that try to have something mounted, made or written where it must not be.

Each test names the class of attack by a known vulnerability; what is beside the root must stay as it was.
"""

import os
import threading
from pathlib import Path

import pytest

from tests.support.mounts import seen
from tests.support.oci import Bundle
from unionfs.kernel.syscalls import RENAME_EXCHANGE, renameat2


@pytest.fixture
def victim(bundle: Bundle) -> Path:
    """Give a directory beside the root, which must stay empty."""
    directory = bundle.directory / "victim"
    directory.mkdir()
    return directory


def _replace_by_link(path: Path, target: str) -> None:
    if path.is_dir():
        path.rmdir()
    path.symlink_to(target)


@pytest.mark.parametrize("text", ["{victim}", "../victim", "../../../../../../../..{victim}"])
def test_target_is_a_link_to_the_host(bundle: Bundle, victim: Path, text: str) -> None:
    """A link on the way to a target is the container's; mkdir and touch stay inside (CVE-2021-30465, CVE-2024-45310)."""
    (bundle.rootfs / "link").symlink_to(text.format(victim=victim))
    bundle.mount("/link/directory", type="tmpfs")
    bundle.mount("/link/file", type="bind", source="/etc/hostname", options=["bind"])
    mounts = seen(bundle)
    assert os.listdir(victim) == []
    assert any(path.endswith("/directory") for path in mounts)


def test_target_with_dots_stays_inside(bundle: Bundle, victim: Path) -> None:
    """`..` in a destination ends at the root."""
    bundle.mount("/tmp/../../../../../victim/x", type="tmpfs")
    assert "/victim/x" in seen(bundle)
    assert os.listdir(victim) == []


def test_target_exchanged_by_a_neighbour_stays_inside(bundle: Bundle, victim: Path) -> None:
    """Somebody who shares the root swaps a directory and a link all the time: no mount and no directory leaves it."""
    (bundle.rootfs / "a").mkdir()
    (bundle.rootfs / "b").symlink_to(victim)
    root = os.open(bundle.rootfs, os.O_PATH | os.O_DIRECTORY)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            renameat2(b"a", b"b", src_dir_fd=root, dst_dir_fd=root, flags=RENAME_EXCHANGE)

    for number in range(20):
        bundle.mount(f"/a/deep/{number}/tmpfs", type="tmpfs")
        bundle.mount(f"/a/deep/{number}/file", type="bind", source="/etc/hostname", options=["bind"])
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(10):
            bundle.run(args=["true"], check=False)
    finally:
        stop.set()
        thread.join()
        os.close(root)
    assert os.listdir(victim) == []


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_proc_and_sys_on_a_link_are_refused(bundle: Bundle, name: str) -> None:
    """Nobody may have proc or sysfs mounted elsewhere than where it will be trusted (CVE-2019-19921, CVE-2023-27561)."""
    (bundle.rootfs / "elsewhere").mkdir()
    _replace_by_link(bundle.rootfs / name, "elsewhere")
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1
    assert f"on /{name}" in result.stderr and "symbolic links" in result.stderr


def test_proc_below_a_link_is_refused(bundle: Bundle) -> None:
    """A link in the middle of the way to proc is refused as well."""
    (bundle.rootfs / "real").mkdir()
    (bundle.rootfs / "link").symlink_to("real")
    bundle.mount("/link/proc", type="proc")
    assert bundle.run(args=["true"], check=False).returncode == 1
    assert os.listdir(bundle.rootfs / "real") == []


def test_proc_on_a_file_is_refused(bundle: Bundle) -> None:
    """proc is mounted on a directory only."""
    (bundle.rootfs / "proc").rmdir()
    (bundle.rootfs / "proc").touch()
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1 and "not a directory" in result.stderr


@pytest.mark.parametrize(
    "where", ["/proc", "/proc/self/attr", "/proc/sys", "/proc/1", "/tmp/../proc/self", "/link/sys"]
)
def test_mount_over_proc_is_refused(bundle: Bundle, where: str) -> None:
    """Nothing of the config may take the place of proc's files, on whatever way (CVE-2019-16884)."""
    (bundle.rootfs / "link").symlink_to("proc")
    bundle.mount(where, type="tmpfs")
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1 and "proc" in result.stderr


def test_mount_over_files_of_resources_is_allowed(bundle: Bundle) -> None:
    """What shows a container its own resources covers some files of proc."""
    (bundle.directory / "meminfo").write_text("MemTotal: 1 kB\n")
    bundle.mount("/proc/meminfo", type="bind", source="meminfo", options=["bind", "ro"])
    assert bundle.run(args=["cat", "/proc/meminfo"]).stdout == "MemTotal: 1 kB\n"


@pytest.mark.parametrize("kept", [True, False], ids=["tmpfs", "no-mount"])
def test_dev_is_a_link(bundle: Bundle, victim: Path, kept: bool) -> None:
    """No device is made where an image's link /dev leads (CVE-2026-41579)."""
    _replace_by_link(bundle.rootfs / "dev", str(victim))
    if not kept:
        mounts = bundle.config["mounts"]
        bundle.config["mounts"] = [entry for entry in mounts if not entry["destination"].startswith("/dev")]
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1 and "/dev" in result.stderr
    assert os.listdir(victim) == []


def test_dev_null_of_a_bound_dev_is_a_link(bundle: Bundle) -> None:
    """A file is not hidden behind something else than the real null device (CVE-2025-31133)."""
    dev = bundle.directory / "dev"
    dev.mkdir()
    (dev / "null").symlink_to("/etc/passwd")
    bundle.config["mounts"] = [
        entry for entry in bundle.config["mounts"] if not entry["destination"].startswith("/dev")
    ]
    bundle.mount("/dev", type="bind", source="dev", options=["bind"])
    for _ in range(2):
        result = bundle.run(args=["true"], check=False)
        assert result.returncode == 1 and "/dev/null" in result.stderr
        (dev / "null").unlink()
        (dev / "null").write_text("not a device")


def test_device_over_an_images_file_is_the_device(bundle: Bundle) -> None:
    """What an image has in place of a default device is not what the container gets."""
    mounts = bundle.config["mounts"]
    bundle.config["mounts"] = [entry for entry in mounts if not entry["destination"].startswith("/dev")]
    (bundle.rootfs / "secret").write_text("secret")
    (bundle.rootfs / "dev/null").write_text("a file")
    (bundle.rootfs / "dev/zero").symlink_to("/secret")
    (bundle.rootfs / "dev/ptmx").write_text("a file")
    bundle.shell("stat -c '%t:%T' /dev/null /dev/zero; readlink /dev/ptmx; cat /proc/keys; cat /secret")
    assert bundle.run().lines() == ["1:3", "1:5", "pts/ptmx", "secret"]


def test_masked_path_through_a_link_is_hidden(bundle: Bundle) -> None:
    """Hiding follows links as the container would: the link's target is hidden, by every name."""
    (bundle.rootfs / "etc/secret").write_text("secret")
    (bundle.rootfs / "link").symlink_to("/etc")
    bundle.linux["maskedPaths"].append("/link/secret")
    bundle.shell("cat /etc/secret /link/secret")
    assert bundle.run().stdout == ""


def test_masks_cannot_be_taken_off(bundle: Bundle) -> None:
    """Without CAP_SYS_ADMIN no mask can be unmounted, moved or covered."""
    bundle.shell(
        "umount /proc/timer_list; umount /sys/firmware; rm -rf /sys/firmware; cat /proc/timer_list | wc -c"
    )
    assert bundle.run(check=False).lines() == ["0"]


def test_sysctl_is_not_redirected_by_the_containers_proc(bundle: Bundle, victim: Path) -> None:
    """A file bound over a setting of the container's proc is not what is written (CVE-2025-52881)."""
    target = victim.parent / "target"
    target.write_text("untouched\n")
    bundle.mount("/proc/sys/kernel/ns_last_pid", type="bind", source=str(target), options=["bind"])
    bundle.linux["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert bundle.run(args=["cat", "/proc/sys/net/ipv4/ip_forward"]).lines() == ["1"]
    assert target.read_text() == "untouched\n"


def test_root_of_the_host_is_refused(bundle: Bundle) -> None:
    """The host's own root as the container's would let it work on the host."""
    bundle.config["root"]["path"] = "/"
    result = bundle.run(args=["true"], check=False)
    assert result.returncode == 1 and "root" in result.stderr
