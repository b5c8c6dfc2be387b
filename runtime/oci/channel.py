# SPDX-License-Identifier: Apache-2.0
"""Messages with descriptors between the processes of a container, over a pair of SOCK_SEQPACKET sockets.

A message is one word, a space and text; the end of the other side reads as an empty message.
"""

import array  # noqa: F401  # socket.send_fds imports it when called, too late once the importer is frozen
import socket
from collections.abc import Sequence

_LONGEST = 65536
_MOST_DESCRIPTORS = 4


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def send(channel: socket.socket, word: str, text: str = "", descriptors: Sequence[int] = ()) -> bool:
    """Send a message; False if the other side has gone."""
    data = f"{word} {text}".encode("utf-8", "surrogateescape")[:_LONGEST]
    try:
        if descriptors:
            socket.send_fds(channel, [data], list(descriptors))
        else:
            channel.send(data)
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def receive(channel: socket.socket) -> tuple[str, str, list[int]]:
    """Wait for a message and return (word, text, descriptors); the word is empty if the other side has gone."""
    try:
        data, descriptors, _flags, _address = socket.recv_fds(
            channel, _LONGEST, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:
        return "", "", []
    word, _, text = data.decode("utf-8", "surrogateescape").partition(" ")
    return word, text, descriptors
