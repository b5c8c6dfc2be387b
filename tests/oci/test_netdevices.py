# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: interfaces of the host in a container, under another name, with the addresses they had."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.oci import Bundle, wait_until


class Host:
    """A network namespace that plays the host: a process that holds it."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
        own = subprocess.check_output(["readlink", "/proc/self/ns/net"])
        self.enter = ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net"]
        wait_until(
            lambda: self.run("readlink", "/proc/self/ns/net").encode() != own, "the namespace is there"
        )

    def run(self, *words: str) -> str:
        """Run a command in it and return its output."""
        return subprocess.check_output([*self.enter, *words], text=True)

    def names(self) -> set[str]:
        """Return its interfaces."""
        return {link["ifname"] for link in json.loads(self.run("ip", "-json", "link"))}

    def close(self) -> None:
        """End it."""
        self._holder.kill()
        self._holder.wait()


@pytest.fixture
def host(bundle: Bundle) -> Iterator[Host]:
    """Give a host with the interfaces `one` and `two`; the bundle's commands run there."""
    host = Host()
    try:
        host.run("ip", "link", "add", "one", "mtu", "1400", "type", "veth", "peer", "name", "two")
        for address in ("10.9.8.7/24", "fd00::5/64"):
            host.run("ip", "address", "add", address, "dev", "one")
        host.run("ip", "address", "add", "10.1.1.1/24", "dev", "one", "scope", "link")
        bundle.prefix = host.enter
        bundle.shell("ip address")
        yield host
    finally:
        host.close()


def move(bundle: Bundle, **devices: str) -> None:
    """Ask for the devices, by the names that they shall have."""
    wanted: dict[str, Any] = {host: {"name": name} if name else {} for host, name in devices.items()}
    bundle.linux["netDevices"] = wanted


def test_device_is_moved_with_its_addresses(bundle: Bundle, host: Host) -> None:
    """Global addresses and the MTU stay, an address of the link does not; it is up and gone from the host."""
    move(bundle, one="")
    text = bundle.run().stdout
    assert "one@" in text
    for words in ("mtu 1400", "inet 10.9.8.7/24", "inet6 fd00::5/64", "UP"):
        assert words in text
    assert "10.1.1.1" not in text


def test_device_is_renamed(bundle: Bundle, host: Host) -> None:
    """To a name, or to the first free one of a pattern."""
    move(bundle, one="inside", two="eth%d")
    text = bundle.run().stdout
    assert "inside@" in text
    assert "eth0@" in text
    assert host.names() <= {"lo"}


def test_device_whose_name_is_taken_inside_can_be_renamed(bundle: Bundle, host: Host) -> None:
    """Only the new name must be free."""
    move(bundle, one="two", two="one")
    text = bundle.run().stdout
    assert "two@" in text
    assert "one@" in text


def test_device_that_cannot_be_moved_is_named(bundle: Bundle, host: Host) -> None:
    """Nothing of the container stays, and the host keeps its devices."""
    for devices, words in (({"none": ""}, "no interface none"), ({"one": "lo"}, "the name is taken")):
        move(bundle, **devices)
        result = bundle.run(check=False)
        assert result.returncode == 1
        assert words in result.stderr
        assert bundle.leftovers() == []
    assert {"one", "two"} <= host.names()


@pytest.mark.parametrize("name", ["a/b", "x" * 16, "a b", "..", "a:1"])
def test_device_name_is_checked(bundle: Bundle, name: str) -> None:
    """Before anything is made; a long one is not cut off."""
    move(bundle, one=name)
    result = bundle.run(check=False)
    assert result.returncode == 1
    assert "linux.netDevices" in result.stderr
