# SPDX-License-Identifier: Apache-2.0
"""What the option words of a mount mean, and the names of kernel settings."""

import pytest

from runtime.oci.failure import Failure
from runtime.oci.rootfs import idmap, sysctl
from runtime.oci.rootfs.mountflags import Options
from runtime.oci.rootfs.syscalls import (
    ATTR_ATIME,
    ATTR_NOATIME,
    ATTR_NODEV,
    ATTR_NOSUID,
    ATTR_RDONLY,
    ATTR_STRICTATIME,
    MS_PRIVATE,
    MS_SLAVE,
)


def test_options_sorts_words_by_what_they_change() -> None:
    """Attributes of the mount, flags of the filesystem, its data, the propagation and the way of mounting are kept apart."""
    options = Options(
        ["ro", "nosuid", "sync", "rslave", "private", "size=1k", "mode=755,huge=never", "rbind"]
    )
    assert options.add == ATTR_RDONLY | ATTR_NOSUID
    assert options.superblock == ["ro", "sync"]
    assert options.propagation == [(MS_SLAVE, True), (MS_PRIVATE, False)]
    assert options.data == ["size=1k", "mode=755", "huge=never"]
    assert options.bind and options.recursive


@pytest.mark.parametrize(
    ("words", "add", "drop"),
    [
        (["ro", "rw"], 0, ATTR_RDONLY),
        (["rw", "ro"], ATTR_RDONLY, 0),
        (["nodev", "dev", "nosuid"], ATTR_NOSUID, ATTR_NODEV),
        (["noatime"], ATTR_NOATIME, ATTR_ATIME),
        (["noatime", "strictatime"], ATTR_STRICTATIME, ATTR_ATIME),
        (["strictatime", "relatime"], 0, ATTR_ATIME),
        (["defaults", "silent", "loud", "noiversion", "norelatime"], 0, 0),
    ],
)
def test_options_last_word_wins(words: list[str], add: int, drop: int) -> None:
    """Of two words on the same attribute the last one counts, and the kernel's rule for access times is kept."""
    options = Options(words)
    assert (options.add, options.drop) == (add, drop)


def test_options_recursive_twins_reach_below() -> None:
    """`rro` is for the whole tree, `ro` for its top."""
    options = Options(["rro", "rdev", "nosuid"])
    assert (options.add_all, options.drop_all, options.add) == (ATTR_RDONLY, ATTR_NODEV, ATTR_NOSUID)


def test_options_unknown_word_is_data() -> None:
    """Words that no rule knows are the filesystem's, also if they look like a recursive one."""
    assert Options(["rwhatever", "relative", "x=y"]).data == ["rwhatever", "relative", "x=y"]


def test_idmap_text_reads_container_ids() -> None:
    """An @ names an id of the container; without it the id is the host's."""
    container = ((0, 100000, 1000),), ((0, 200000, 1000),)
    users, groups = idmap.parse("uids=0-5-2#@7-10-1;gids=@0-0-1", container)
    assert users == ((0, 5, 2), (7, 100010, 1))
    assert groups == ((0, 200000, 1),)


@pytest.mark.parametrize("text", ["uids=1-2", "users=1-2-3", "uids=a-b-c", "uids=@1000-5-2"])
def test_idmap_text_refuses_nonsense(text: str) -> None:
    """A malformed map, or ids that the container has not, are told before anything is made."""
    with pytest.raises(Failure, match="idmap"):
        idmap.parse(text, (((0, 100000, 1000),), ()))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
    ],
)
def test_sysctl_path_reads_both_forms(key: str, path: str) -> None:
    """The first separator of a key decides which of `.` and `/` separates."""
    assert sysctl.path_of(key) == path


@pytest.mark.parametrize(
    ("key", "namespaces", "allowed"),
    [
        ("net.ipv4.ip_forward", {"network"}, True),
        ("net.ipv4.ip_forward", {"ipc"}, False),
        ("kernel.shmmax", {"ipc"}, True),
        ("kernel.shmmax", set(), False),
        ("fs.mqueue.msg_max", {"ipc"}, True),
        ("kernel.domainname", {"uts"}, True),
        ("kernel.hostname", {"uts"}, False),
        ("kernel.panic", {"ipc", "uts", "network"}, False),
        ("kernel/../vm/swappiness", {"ipc"}, False),
        ("net/../kernel/panic", {"network"}, False),
        ("fs.file-max", {"ipc"}, False),
    ],
)
def test_sysctl_only_for_own_namespaces(key: str, namespaces: set[str], allowed: bool) -> None:
    """A key is refused unless a namespace of the container owns it; `..` leads nowhere."""
    assert (sysctl.refusal(key, namespaces) == "") == allowed
