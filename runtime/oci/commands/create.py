# SPDX-License-Identifier: Apache-2.0
"""`unionrt create`: make a container that waits for `start`."""

from __future__ import annotations

import os

from runtime.oci import files
from runtime.oci.create import create
from runtime.oci.job import Request
from runtime.oci.options import Command, Option, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

OPTIONS = (
    Option("bundle", "b", "DIR", "the bundle (default: here)"),
    Option("config", "f", "FILE", "its configuration (default: config.json)"),
    Option("console-socket", "", "PATH", "send the terminal to this socket"),
    Option("pid-file", "", "PATH", "write the first process' pid to this file"),
    Option("pidfd-socket", "", "PATH", "send a pidfd of the first process to this socket"),
    Option("no-pivot", "", "", "move the root instead of pivoting into it (for a ramdisk)"),
    Option("init", "", "", "give the program a parent as pid 1 that forwards signals and reaps"),
    Option("no-new-keyring", "", "", "keep the caller's session keyring"),
    Option("preserve-fds", "", "N", "pass N more descriptors to the container"),
)
SUBREAPER = Option("no-subreaper", "", "", "do not adopt the container's orphans")

COMMAND = Command("create", "make a container that waits for start", "ID", (*OPTIONS, SUBREAPER))


def run(settings: Settings, options: Options) -> int:
    """Make the container; its first process keeps our standard streams."""
    create(settings, request(options))
    return 0


def request(options: Options) -> Request:
    """Return what the options of `create` and `run` ask for."""
    bundle = files.absolute(options.text("bundle"))
    asked = Request(options.arguments[0], bundle, os.path.join(bundle, options.text("config", "config.json")))
    asked.console_socket = options.text("console-socket")
    asked.pid_file = options.text("pid-file")
    asked.pidfd_socket = options.text("pidfd-socket")
    asked.preserve_fds = options.count("preserve-fds")
    asked.init = options.flag("init")
    asked.pivot = not options.flag("no-pivot")
    asked.new_keyring = not options.flag("no-new-keyring")
    return asked
