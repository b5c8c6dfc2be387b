# SPDX-License-Identifier: Apache-2.0
"""Tells the service manager how the server is doing."""

from __future__ import annotations

import contextlib
import os
import socket


def notify_manager(state: str) -> None:
    """Tell the service manager (sd_notify's protocol) when NOTIFY_SOCKET is set; failures do not matter to the mount."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(address)
        connection.send(state.encode())
