# SPDX-License-Identifier: Apache-2.0
"""What the direct session does beside answering requests, more than any session does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from unionfs.session import threads
from unionfs.session.background import Background, Tasks
from unionfs.session.direct.requests import Requests
from unionfs.session.notify import Notifier


class DirectBackground(Background):
    """The same for one direct session, which also forgets what it has given to the kernel or keeps for it."""

    def __init__(
        self, requests: Requests, notifier: Notifier, tasks: Tasks, on_shrunk: Callable[[], None]
    ) -> None:
        """`on_shrunk` is called when most nodes were forgotten."""
        super().__init__(requests.filesystem, notifier, requests.replies.cached, tasks)
        self._requests = requests
        self._on_shrunk = on_shrunk
        self._limiter = trio.CapacityLimiter(1)  # not those threads that requests need
        requests.directories.doubt = self._doubt_listing

    def _doubt_listing(self, nodeid: int) -> None:
        tell = partial(self._notifier.expire_all, (), (nodeid,))
        self._tasks.start_soon(partial(threads.run_elsewhere, tell, limiter=self._limiter))

    def all_changed(self) -> None:
        """Drop what the kernel cached and was given."""
        self._requests.replies.doubt_sizes()
        self._requests.passthrough.small.forget()
        self._filesystem.forget_unused_overlays()
        super().all_changed()

    def options_changed(self) -> None:
        """Take the caching times."""
        self._requests.replies.use_options()

    def shrunk(self) -> None:
        """Forget what was given for files that are forgotten; memory is given back by the loop, when it has nothing to do."""
        self._requests.passthrough.small.forget()
        self._filesystem.forget_unused_overlays()
        self._on_shrunk()

    def state(self) -> dict[str, Any]:
        """Return what is passed through, or why not."""
        return {"passthrough": self._requests.passthrough.state()}
