# SPDX-License-Identifier: Apache-2.0
"""The data of files on its way to a writable branch: copied inside a request, or, where that may take long, by a thread.

Then `Deferred` is raised with the job; the session runs it in a thread and calls the operation again, which finds the data
staged (docs/concurrency.md). Nothing is published here.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable

from unionfs.branches import whiteout
from unionfs.branches.branch import OpenBranch
from unionfs.branches.copydata import CopyJob, Deferred, open_unseen
from unionfs.handles.followed import begin_followed, is_to_be_made_by_us
from unionfs.kernel import syscalls
from unionfs.kernel.durability import WriteBack, write_back_before_name
from unionfs.operations.metacopy import Completion
from unionfs.operations.metacopy import begin as begin_completion
from unionfs.operations.metacopy import empty as empty_metacopy
from unionfs.tree import protection
from unionfs.tree.nodes import Node
from unionfs.tree.union import Union

# A small copy that took longer was held up by the disk. Threads make the next ones, for so many times as long.
_SLOW_SECONDS = 2e-3
_SLOW_TIMES = 20


class CopyJobs:
    """The copies of one union that are being made, at most one at a time for a node."""

    def __init__(self, union: Union, directory_on: Callable[[Node, OpenBranch], int]) -> None:
        """`directory_on` returns the descriptor of a directory's copy on a branch, which it makes if there is none."""
        self._union = union
        self._directory_on = directory_on
        self._jobs: dict[Node, CopyJob] = {}
        self._slow_until = 0.0
        self._write_backs: dict[int, WriteBack] = {}  # by st_dev of branches

    def staged(
        self, node: Node, target: OpenBranch, source: int, status: os.stat_result, size: int
    ) -> CopyJob:
        """Return a job that has staged the first `size` bytes of the file behind `source` for `target`; the caller closes it.

        `Deferred` when a thread is to make the copy; what reading and writing raise.
        """
        job = self._jobs.get(node)
        if job is not None:
            if not job.done:
                raise Deferred(job)
            del self._jobs[node]
            if job.failed or job.length < size or job.target is not target or job.source_id != node.identity:
                failure = job.error
                job.close()
                if failure is not None and not is_to_be_made_by_us(job):
                    raise failure
                job = None
        if job is None:
            job = self._start(node, target, source, status, size)
        return job

    def _start(
        self, node: Node, target: OpenBranch, source: int, status: os.stat_result, size: int
    ) -> CopyJob:
        job: CopyJob | None = begin_followed(node.backing, target, status.st_size, self._write_back(target))
        if job is None:
            job = self._own_job(node, target, source, status, size)
        limit = self._union.session.inline_limit
        if limit is not None and job.length > 0 and (job.length > limit or not self._is_quick(job)):
            self._jobs[node] = job
            raise Deferred(job)
        start = time.monotonic()
        job.run()
        took = time.monotonic() - start
        if took > _SLOW_SECONDS:
            self._slow_until = start + _SLOW_TIMES * took
        if job.error is not None:
            job.close()
            if is_to_be_made_by_us(job):
                return self._start(node, target, source, status, size)
            raise job.error
        return job

    def _own_job(
        self, node: Node, target: OpenBranch, source: int, status: os.stat_result, size: int
    ) -> CopyJob:
        """Begin a copy that we make."""
        union = self._union
        parent_fd = target.root if node.parent is None else self._directory_on(node.parent, target)
        staging = union.stage_dir(target, parent_fd)
        write_back = self._write_back(target) if size else None
        data = self._open_source(node, source, status)
        try:
            whole = size == status.st_size == os.fstat(data).st_size
        except OSError:
            os.close(data)
            raise
        job = CopyJob.create(
            data, staging, node.name, size, whole=whole, target=target, source_id=node.identity,
            write_back=write_back,
        )  # fmt: skip
        job.flags = protection.flags_of(data)
        return job

    def _open_source(self, node: Node, source: int, status: os.stat_result) -> int:
        """Open what is to be read of the file behind `source`: itself, or where an overlay's metacopy has its data."""
        branch, union = node.branch, self._union
        if branch is None or not branch.overlay or not status.st_size or branch.id in union.unmarked:
            return open_unseen(source)
        marks = whiteout.marks_among(os.listxattr(whiteout.proc_path(source)))
        data = union.find_data(node, source, marks)
        if data < 0:
            return open_unseen(source)
        try:
            return open_unseen(data)
        finally:
            os.close(data)

    def _write_back(self, target: OpenBranch) -> WriteBack | None:
        """Return what brings a copy's data to the disk before it is published; None if nothing is to."""
        if target.in_memory or not self._union.options.fsync:
            return None
        if target.device not in self._write_backs:
            self._write_backs[target.device] = write_back_before_name(target.root)
        return self._write_backs[target.device]

    def _is_quick(self, job: CopyJob) -> bool:
        """Tell whether a small copy need not go to a thread: as long as the disk is quick, and no journal is to be committed."""
        if job.write_back is None:
            return True
        return job.write_back is syscalls.write_back and time.monotonic() >= self._slow_until

    def complete(self, node: Node, *, length: int | None = None, here: bool = False) -> None:
        """Before the data of a file on a writable branch is opened, changed or gets another name: if it is a metacopy that a
        kernel's overlay left there, bring its data in. `length` 0: it is not needed; `here`: in no thread.

        Raises what reading and writing the data may, with the file as it was, or `Deferred`.
        """
        branch, union = node.branch, self._union
        assert branch is not None
        if not (branch.overlay and branch.writable) or branch.id in union.unmarked or node.is_directory:
            return
        if not stat.S_ISREG(node.kind):
            return
        if length == 0:
            empty_metacopy(union, node)
            return
        job = self._jobs.get(node)
        if not isinstance(job, Completion):
            job = begin_completion(union, node, self._write_back(branch))
        if job is None:
            return
        self._jobs[node] = job
        limit = union.session.inline_limit
        if not job.done and limit is not None and job.length > limit and not here:
            raise Deferred(job)
        try:
            job.run()
            job.finish()
        finally:
            del self._jobs[node]
            job.close()

    def leave(self, job: CopyJob) -> None:
        """Note that a request which waited for a job has been answered; a job that nobody needs any more is dropped."""
        job.waiters -= 1
        if job.waiters == 0 and job.done:
            for node in [node for node, known in self._jobs.items() if known is job]:
                del self._jobs[node]
                job.close()

    def close(self) -> None:
        """Drop jobs that nobody came back for."""
        for job in self._jobs.values():
            job.close()
        self._jobs.clear()
