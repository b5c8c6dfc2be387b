# SPDX-License-Identifier: Apache-2.0
"""Being the foreground parent of a container's process: copies its terminal, hands signals on, waits for its end."""


def wait(pid: int, master: "int | None" = None) -> int:
    """Wait for the child `pid` and return its exit status (128 + n for signal n); for `run` and `exec`.

    Forwards signals and reaps whatever else becomes a child of ours. `master` is the terminal's other end, copied from
    and to our descriptors 0 and 1, with ours in raw mode if it is a terminal.
    """
    raise NotImplementedError
