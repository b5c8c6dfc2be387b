# SPDX-License-Identifier: Apache-2.0
"""Hooks of config.json: programs run at six points of a container's life, with its state on their standard input."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def run(
    hooks: "list[dict[str, Any]]",
    state: str,
    *,
    kind: str,
    directory: "str | None" = None,
    environment: "dict[str, str] | None" = None,
) -> None:
    """Run `hooks` in order, each to its end; the first that fails ends it with a Failure that names it.

    `state` is the state JSON; `directory` their working directory; `environment` what a hook without `env` gets (ours if
    None; startContainer inherits the process'). A timeout kills the hook's process group.
    """
    raise NotImplementedError


def run_all(
    hooks: "list[dict[str, Any]]", state: str, *, kind: str, directory: "str | None" = None
) -> list[str]:
    """Run every one of `hooks` even if some fail (poststop); return what failed, for the log."""
    raise NotImplementedError
