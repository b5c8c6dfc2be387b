# SPDX-License-Identifier: Apache-2.0
"""The program `unionbench`: choose what to measure, measure it in private namespaces, show it.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 `compare` found a regression, 130 interrupted (what is done is kept).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import backing, isolation
from bench.machine.launcher import RUNTIME
from bench.measuring import environment, measure
from bench.measuring.plan import Plan, check_reach, check_space
from bench.report import catalog, terminal
from bench.results.results import Record, Recorder, cells, load
from bench.runtimes import RUNTIMES
from bench.targets import BASELINE, FULL, QUICK, TARGETS, Instance, parse_targets
from bench.targets.model import Target
from bench.workloads import SUITES, check_programs, parse_suites
from bench.workloads.model import Workload
from unionfs.cli.arguments import Parser, Version
from unionfs.errors import UserError
from unionfs.program import run_command

_EXAMPLES = """\
examples:
  sudo unionbench quick                                    the figures that matter, in under three minutes
  sudo unionbench run --suite metadata,data --targets overlay2,unionfs
  sudo unionbench run --suite copyup --backing xfs -o copyup.jsonl
  unionbench report copyup.jsonl -o copyup.html            one page with tables and plots
  unionbench compare old.jsonl new.jsonl                   what became slower
"""
_TARGETS: dict[str, Target] = {**TARGETS, **RUNTIMES}
_SELFTEST = f"{BASELINE},{BASELINE}:again,{BASELINE}:slow"
_QUICK_SECONDS = 160.0
_JOURNAL_HINT = "removals slow down creation there; --backing ext4 has one"
_FULL_MINUTES = 75
_FEW_ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code."""
    return run_command("unionbench", lambda: _command(arguments))


def _command(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    return int(options.run(options))


def _parser() -> Parser:
    parser = Parser(
        prog="unionbench", description="Measure union filesystems side by side.", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action=Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    quick = commands.add_parser("quick", help=SUITES["quick"])
    quick.set_defaults(run=_quick)
    _add_measuring(quick, ",".join(QUICK), rounds=5)
    run = commands.add_parser("run", help="measure some suites")
    run.add_argument(
        "--suite", required=True, metavar="S,…", help=f"suites, or SUITE/WORKLOAD: {', '.join(SUITES)}"
    )
    run.set_defaults(run=_run)
    _add_measuring(run, ",".join(_TARGETS), rounds=5)
    full = commands.add_parser("full", help="measure everything; takes about an hour")
    full.set_defaults(run=_full)
    _add_measuring(full, ",".join([*FULL, *RUNTIMES]), rounds=5, minutes=_FULL_MINUTES)
    selftest = commands.add_parser(
        "selftest", help="test the method: overlay2 against itself, and slowed down by 20 %%"
    )
    selftest.set_defaults(run=_selftest)
    _add_measuring(selftest, _SELFTEST, rounds=15)
    known = commands.add_parser("list", help="show suites, figures and targets, and what is missing here")
    known.add_argument("--json", action="store_true", help="for programs")
    known.add_argument("--names", choices=tuple(catalog.NAMES), help="names only, a line each")
    known.set_defaults(run=_list)
    _add_reading(commands)
    return parser


def _add_measuring(parser: Parser, targets: str, rounds: int, minutes: int = 0) -> None:
    parser.add_argument(
        "--targets", default=targets, metavar="T,…", help="NAME or NAME:LABEL, see: unionbench list"
    )
    parser.add_argument(
        "--rounds",
        type=_rounds,
        default=rounds,
        help="rounds of interleaved measurements (default %(default)s)",
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        default=minutes,
        help="leave out rounds that would take longer than that in all",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the result file (JSON Lines)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(os.environ.get("TMPDIR") or "/tmp"),
        help="where branches are made",
    )
    parser.add_argument(
        "--backing", choices=tuple(backing.BACKINGS), default="", help="a fresh filesystem below the branches"
    )
    parser.add_argument(
        "--pin", action="store_true", help="servers on the last processor, clients on the first"
    )
    parser.add_argument(
        "--slow",
        action="append",
        default=[],
        metavar="TARGET=PERCENT",
        help="slow a target down, to test the method",
    )


def _add_reading(commands: argparse._SubParsersAction[Parser]) -> None:
    report = commands.add_parser("report", help="make a page of a result file")
    report.add_argument("results", type=Path)
    report.add_argument("--suite", metavar="S,…", help="only the figures of these suites")
    report.add_argument("-o", "--output", type=Path, default=Path("report.html"), help=".html, .md or .png")
    report.set_defaults(run=_report)
    show = commands.add_parser("show", help="print the table of a result file")
    show.add_argument("results", type=Path)
    show.add_argument("--json", action="store_true", help="an array of figures and targets, for programs")
    show.set_defaults(run=_show)
    compare = commands.add_parser("compare", help="name what became slower between two result files")
    compare.add_argument("old", type=Path)
    compare.add_argument("new", type=Path)
    compare.add_argument(
        "--threshold", type=_percent, default=5.0, metavar="PERCENT", help="smaller changes are not named"
    )
    compare.add_argument(
        "--absolute", action="store_true", help="compare values themselves, not their ratios to the baseline"
    )
    compare.add_argument("--json", action="store_true", help="for programs")
    compare.set_defaults(run=_compare)


def _percent(text: str) -> float:
    try:
        value = float(text.rstrip(" %"))
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a percentage")
    return value


def _rounds(text: str) -> int:
    return _count(text, 1000)


def _minutes(text: str) -> int:
    return _count(text, 100_000)


def _count(text: str, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    if int(text) > most:
        raise argparse.ArgumentTypeError(f"{text} is more than {most}")
    return int(text)


# -- measuring --------------------------------------------------------------------------------------------------------


def _quick(options: argparse.Namespace) -> int:
    return _measure(options, "quick", _QUICK_SECONDS)


def _run(options: argparse.Namespace) -> int:
    return _measure(options, options.suite)


def _full(options: argparse.Namespace) -> int:
    return _measure(options, ",".join(suite for suite in SUITES if suite != "quick"), few=_FEW_ROUNDS)


def _selftest(options: argparse.Namespace) -> int:
    """Measure, then judge the intervals."""
    from bench.measuring.selftest import judge

    if options.targets == _SELFTEST and not options.slow:
        options.slow = ["slow=20"]
    options.output = _output(options)
    status = _measure(options, "quick")
    if status:
        return status
    verdicts = judge(load(options.output))
    for verdict in verdicts:
        print(verdict.sentence())
    return 0 if verdicts and all(verdict.passed for verdict in verdicts) else 1


def _told(words: Sequence[str]) -> str:
    """Return the command line for the record, without where this machine keeps its files."""
    paths = {"-o", "--output", "--directory"}
    kept = [
        word
        for before, word in zip(["", *words], words, strict=False)
        if before not in paths and word.partition("=")[0] not in paths
    ]
    return " ".join(["unionbench", *kept])


def _output(options: argparse.Namespace) -> Path:
    given: Path | None = options.output
    return given or Path(datetime.now(UTC).strftime("unionbench-%Y%m%d-%H%M%S.jsonl"))


def _measure(options: argparse.Namespace, suites: str, seconds: float = 0.0, few: int = 0) -> int:
    """Check everything that can be checked before, then measure isolated, for `seconds` or what the options say."""
    workloads = parse_suites(suites)
    instances = parse_targets(options.targets, _slow(options.slow), _TARGETS)
    workloads, instances = _matching(workloads, instances)
    check_programs(workloads)
    terminal.library("rich")
    instances, missing = _present(instances)
    plan = Plan(workloads, instances, options.rounds, seconds or options.minutes * 60, options.pin, few)
    isolation.check_privilege()
    check_space(plan, options.directory, in_memory=options.backing == "tmpfs")
    check_reach(plan, options.directory)
    _announce(plan)
    output = _output(options)
    try:
        stream = output.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}") from None
    with stream:
        command = _told(sys.argv[1:])
        status = isolation.run(
            lambda room: _measure_inside(plan, options.backing, room, Recorder(stream), command, missing),
            options.directory,
        )
    print(f"results: {output}", file=sys.stderr)
    return status


def _announce(plan: Plan) -> None:
    minutes = plan.expected_seconds() / 60
    if minutes >= 4:
        bound = f", at most {plan.seconds / 60:.0f} by leaving out rounds" if plan.seconds else ""
        print(f"unionbench: this will take about {minutes:.0f} minutes{bound}", file=sys.stderr)


def _slow(words: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        label, _, percent = word.rpartition("=")
        try:
            found[label] = _percent(percent) / 100
        except argparse.ArgumentTypeError:
            raise UserError(f"--slow {word}: not TARGET=PERCENT", status=2) from None
    return found


def _matching(workloads: list[Workload], instances: list[Instance]) -> tuple[list[Workload], list[Instance]]:
    """Leave out workloads for which no target of their kind was chosen, which is said, and targets that none is for."""
    chosen = {instance.target.kind for instance in instances}
    for kind in sorted({workload.kind for workload in workloads} - chosen):
        suites = dict.fromkeys(workload.suite for workload in workloads if workload.kind == kind)
        message = f"unionbench: {', '.join(suites)}: left out, there is no {kind} among the targets"
        print(message, file=sys.stderr)
    kept = [workload for workload in workloads if workload.kind in chosen]
    if not kept:
        raise UserError("nothing to measure on these targets", "see: unionbench list", status=2)
    return kept, [i for i in instances if i.target.kind in {workload.kind for workload in kept}]


def _present(instances: list[Instance]) -> tuple[list[Instance], list[Record]]:
    """Return the targets that can be measured here, and a record for each that cannot; that is said at once."""
    present: list[Instance] = []
    missing: list[Record] = []
    for instance in instances:
        reason = instance.target.missing()
        if reason:
            print(f"unionbench: {instance.label} is left out: {reason}", file=sys.stderr)
            missing.append({"target": instance.label, "kind": "missing", "message": reason})
        else:
            present.append(instance)
    if not present:
        raise UserError("none of the targets can be measured here", "see: unionbench list")
    return present, missing


def _measure_inside(
    plan: Plan, kind: str, room: Path, recorder: Recorder, command: str, missing: list[Record]
) -> int:
    if plan.on(RUNTIME):
        isolation.isolate_runtimes(room)
    with (
        backing.mounted(kind, room, plan.needed_bytes()) as directory,
        terminal.progress(plan.steps, plan.rounds) as notify,
    ):
        if environment.lacks_journal(directory):
            print(
                f"unionbench: {directory.parent} is ext4 without a journal: {_JOURNAL_HINT}", file=sys.stderr
            )
        run = measure.Run(plan, directory, recorder, notify)
        results = run.execute(command, environment.describe(directory), missing)
    terminal.show_table(results)
    return 130 if results.end and results.end["reason"] == "interrupted" else 0


# -- reading ----------------------------------------------------------------------------------------------------------


def _list(options: argparse.Namespace) -> int:
    if options.names:
        catalog.show_names(options.names)
    elif options.json:
        catalog.show_json()
    else:
        catalog.show()
    return 0


def _show(options: argparse.Namespace) -> int:
    results = load(options.results)
    if options.json:
        print(json.dumps(cells(results), indent=1, ensure_ascii=False))
    else:
        terminal.show_table(results)
    return 0


def _report(options: argparse.Namespace) -> int:
    from bench.report.write import write

    write(load(options.results).of_suites(options.suite), options.output)
    print(options.output)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from bench.report.compare import show

    old, new = load(options.old), load(options.new)
    return show(old, new, options.threshold / 100, absolute=options.absolute, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
