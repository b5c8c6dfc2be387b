# SPDX-License-Identifier: Apache-2.0
"""Messages with descriptors between the processes of a container, over a pair of SOCK_SEQPACKET sockets.

A message is one word, a space and text; the end of the other side reads as an empty message. The C module is used as such:
the package's `socket` takes longer to import than a container to start.
"""

from __future__ import annotations

import os
import select
import struct
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socketpair,
)
from _socket import socket as Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "Channel",
    "accept",
    "ask",
    "connect",
    "has_ended",
    "has_words",
    "listen",
    "pair",
    "receive",
    "receive_before",
    "receive_from",
    "send",
    "wait",
]

_LONGEST = 65536
_LONGEST_ADDRESS = 100  # bytes; the kernel takes 107
_MOST_DESCRIPTORS = 4


def pair() -> tuple[Channel, Channel]:
    """Return two connected sockets."""
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)


def listen(path: str) -> Channel:
    """Return a socket at `path`, which `connect` reaches; OSError carries the path."""
    channel = Channel(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    _at(path, channel.bind)
    channel.listen()
    return channel


def accept(listener: Channel) -> Channel:
    """Wait for one who connects, and return the socket to him."""
    fd, _address = listener._accept()  # type: ignore[attr-defined]  # of the C module, which has no other
    return Channel(fileno=fd)


def connect(path: str) -> Channel:
    """Return a socket connected to the one that listens at `path`; OSError carries the path."""
    channel = Channel(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    _at(path, channel.connect)
    return channel


def _at(path: str, act: Callable[[str], None]) -> None:
    """Call `act` with the address of `path`: one that is too long is named by a descriptor of its directory."""
    directory, name = os.path.split(path)
    try:
        if len(os.fsencode(path)) <= _LONGEST_ADDRESS:
            return act(path)
        parent = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return act(f"/proc/self/fd/{parent}/{name}")
        finally:
            os.close(parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None


def send(channel: Channel, word: str, text: str = "", descriptors: Sequence[int] = ()) -> bool:
    """Send a message; False if the other side has gone."""
    data = f"{word} {text}".encode("utf-8", "surrogateescape")[:_LONGEST]
    try:
        if descriptors:
            rights = struct.pack(f"{len(descriptors)}i", *descriptors)
            channel.sendmsg([data], [(SOL_SOCKET, SCM_RIGHTS, rights)])
        else:
            channel.send(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def receive(channel: Channel) -> tuple[str, str, list[int]]:
    """Wait for a message and return (word, text, descriptors); the word is empty if the other side has gone."""
    while True:
        try:
            data, ancillary, _flags, _address = channel.recvmsg(
                _LONGEST, CMSG_SPACE(4 * _MOST_DESCRIPTORS), MSG_CMSG_CLOEXEC
            )
            break
        except (
            ConnectionResetError
        ):  # it left with a message of ours unread; told once, before its own last words
            continue
    descriptors: list[int] = []
    for level, kind, rights in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            count = len(rights) // 4
            descriptors += struct.unpack(f"{count}i", rights[: 4 * count])
    word, _, text = data.decode("utf-8", "surrogateescape").partition(" ")
    return word, text, descriptors


def receive_from(pid: int, channel: Channel) -> tuple[str, str, list[int]]:
    """Wait for a message or the end of our child `pid`, which must not be reaped yet; an empty one if it ended without.

    For a child that forks a sibling of itself: killed after that (at a memory limit), it leaves the sibling holding the channel
    and waiting for us, so the end of the channel would never come.
    """
    end = os.pidfd_open(pid)
    try:
        return receive_before(end, channel)
    finally:
        os.close(end)


def receive_before(end: int, channel: Channel) -> tuple[str, str, list[int]]:
    """Wait for a message or the end of the process behind the pidfd `end`; an empty one if it ended without."""
    poll = select.poll()
    for source in (channel.fileno(), end):
        poll.register(source, select.POLLIN)
    poll.poll()
    poll.unregister(end)
    return receive(channel) if poll.poll(0) else ("", "", [])


def has_words(channel: Channel) -> bool:
    """Tell whether `receive` would not have to wait."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def has_ended(channel: Channel) -> bool:
    """Tell whether the other side has gone."""
    poll = select.poll()
    poll.register(channel.fileno(), 0)
    return bool(poll.poll(0))


def ask(channel: Channel, word: str) -> None:
    """Send a request and wait for "ok"."""
    send(channel, word)
    wait(channel)


def wait(channel: Channel) -> None:
    """Wait for "ok"; ends this process if the other side has gone or gives up."""
    if receive(channel)[0] != "ok":
        os._exit(1)
