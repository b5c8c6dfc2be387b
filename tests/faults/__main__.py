# SPDX-License-Identifier: Apache-2.0
"""Let every changing call of the server fail, or kill it there, and judge what the union shows: the old or the new state.

make faults                       or:  .ci/sandbox python -m tests.faults --session direct --operation rename --fault EIO,KILL
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import tempfile
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tests.faults import injector
from tests.faults.commands import Commands
from tests.faults.errors import Errors
from tests.faults.kills import Kills
from tests.faults.plan import ERRORS, KILL, Plan
from tests.faults.report import Tally, show
from tests.faults.world import Configuration
from tests.support import syscalls

_PARTS = 4  # of the operations, for each of those at work: what takes long is not all in one
SESSIONS, FORMS, UDBAS = ("direct", "pyfuse3"), ("aufs", "overlay"), ("default", "none")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    for name, choices in (("session", SESSIONS), ("form", FORMS), ("udba", UDBAS)):
        parser.add_argument(
            f"--{name}", action="append", choices=choices, help="may be given again; default: all"
        )
    parser.add_argument(
        "--operation", default=".", metavar="REGEX", help="of their names (operations.py, commands.py)"
    )
    parser.add_argument("--fault", default=",".join((*ERRORS, KILL)), help="a list of %(default)s")
    parser.add_argument("--call", default=".", metavar="REGEX", help="system calls that fail")
    parser.add_argument("--number", type=int, default=0, help="fail the n-th of them only")
    parser.add_argument("--share", type=int, default=1, metavar="N", help="try every N-th point only")
    parser.add_argument("--jobs", type=int, default=4, metavar="N", help="at a time (%(default)s)")
    parser.add_argument(
        "--directory", default=None, help="where branches are made (default: the temporary directory)"
    )
    return parser.parse_args()


def run(tally: Tally, plan: Plan, directory: Path) -> None:
    """Try what the plan wants in the configuration of `tally`; the branches are made below `directory`."""
    configuration = tally.configuration
    numbers = itertools.count()

    def place() -> Path:
        path = directory / f"{os.getpid()}.{next(numbers)}"
        path.mkdir()
        return path

    try:
        Errors(place, configuration, plan, tally).run()
        if plan.kills:
            Kills(place, configuration, plan, tally).run()
        Commands(place, configuration, plan, tally).run()
    finally:
        tally.end()


def run_together(tally: Tally, plan: Plan, directory: Path, jobs: int) -> None:
    """Do the same by several processes, each with some of the operations."""
    count = jobs * _PARTS if jobs > 1 else 1
    parts = [plan.part(index, count) for index in range(count)]
    with get_context("fork").Pool(jobs) as pool:
        for part in pool.imap_unordered(partial(_run_part, tally.configuration, directory), parts):
            tally.add(part)
            print(
                f"{tally.configuration}: {tally.failed} calls failed, {tally.killed} kills so far", flush=True
            )
    tally.end()


def _run_part(configuration: Configuration, directory: Path, plan: Plan) -> Tally:
    tally = Tally(configuration)
    run(tally, plan, directory)
    return tally


def main() -> int:
    """Run the campaign; 1 if anything is violated."""
    arguments = _parse()
    reason = injector.why_not()
    if reason or os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        print(f"faults cannot be tried: {reason or 'mounting needs root and /dev/fuse'}", file=sys.stderr)
        return 0
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.umask(0o022)
    directory = Path(tempfile.mkdtemp(prefix="unionfs-faults-", dir=arguments.directory))
    directory.chmod(0o755)
    tallies: list[Tally] = []
    try:
        for form, udba, session in itertools.product(
            arguments.form or FORMS, arguments.udba or UDBAS, arguments.session or SESSIONS
        ):
            plan = Plan(
                arguments.operation,
                tuple(arguments.fault.split(",")),
                arguments.call,
                arguments.number,
                arguments.share,
            )
            tallies.append(Tally(Configuration(session, form, udba)))
            run_together(tallies[-1], plan, directory, arguments.jobs)
    except KeyboardInterrupt:
        print("interrupted")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    show(tallies)
    return 1 if any(tally.violations for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
