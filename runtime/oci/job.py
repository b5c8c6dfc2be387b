# SPDX-License-Identifier: Apache-2.0
"""What the parent of a container prepares on the host and its first processes carry out; the fork hands it over."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from runtime.oci.cgroups import Group
    from runtime.oci.channel import Channel
    from runtime.oci.namespaces import Namespaces
    from runtime.oci.process import Prepared as Process
    from runtime.oci.process.accounts import Account
    from runtime.oci.rootfs import Prepared as Root
    from runtime.oci.seccomp import Filter
    from runtime.oci.state import Container


class Request:
    """How `create` or `run` was called."""

    __slots__ = (
        "bundle",
        "config",
        "console_socket",
        "detach",
        "id",
        "init",
        "new_keyring",
        "pid_file",
        "pidfd_socket",
        "pivot",
        "preserve_fds",
        "stdin",
        "terminal",
        "tied",
    )

    def __init__(self, identity: str, bundle: str, config: str) -> None:
        self.id = identity
        self.bundle = bundle  # absolute path
        self.config = config  # path of config.json
        self.console_socket = ""
        self.pid_file = ""
        self.pidfd_socket = ""
        self.preserve_fds = 0
        self.pivot = True
        self.new_keyring = True
        self.init = False  # whether the program gets a parent that does what a pid 1 has to
        self.tied = False  # whether the container is to die with the process that makes it
        self.stdin = True  # whether our standard input goes to a terminal that we copy
        self.detach = True  # nobody of ours stays to copy a terminal
        self.terminal: int | None = None  # set by `create` for one who stays: the terminal's other end


class Job:
    """One container to make: its configuration, lowered, and the descriptors its processes need."""

    __slots__ = (
        "account",
        "channel",
        "config",
        "console",
        "container",
        "control",
        "filter",
        "gate",
        "group",
        "namespaces",
        "process",
        "report",
        "request",
        "root",
    )

    control: Channel  # the parent's side
    channel: Channel  # the child's

    def __init__(self, request: Request, container: Container, config: dict[str, Any]) -> None:
        self.request = request
        self.container = container
        self.config = config
        self.group: Group
        self.namespaces: Namespaces
        self.process: Process
        self.root: Root
        self.filter: Filter | None = None
        self.account: Account | None = None  # the user by name, who is found in the container
        self.console = -1  # the socket that gets the terminal
        self.gate = -1
        self.report = -1

    def must_pause(self) -> bool:
        """Tell whether init may not go on before the parent has done what follows the building of the root.

        That is what hooks are promised; devices have moved in; and while those of cgroup v1 are set it may open no terminal.
        """
        kinds = ("prestart", "createRuntime", "createContainer")
        devices = self.process.terminal or bool(self.config["linux"].get("netDevices"))
        return devices or any(self.hooks(kind) for kind in kinds)

    def hooks(self, kind: str) -> list[dict[str, Any]]:
        """Return the hooks of one kind."""
        found: list[dict[str, Any]] = self.config.get("hooks", {}).get(kind, [])
        return found
