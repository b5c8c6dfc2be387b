# SPDX-License-Identifier: Apache-2.0
"""What a workload is: figures it yields, files it needs in the layers, and a function that measures and checks."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from bench.machine.client import Figures, Place
from bench.machine.launcher import FILESYSTEM
from bench.machine.layers import Build

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that people see. `state` says what is cached; `curve` and `x` place it on a scaling curve.

    `suite` and `kind` are those of its workload, filled in by the plan.
    """

    name: str
    title: str
    unit: str = "s"
    higher_is_better: bool = False
    state: str = ""
    curve: str = ""
    x: float = 0.0
    suite: str = ""
    kind: str = FILESYSTEM


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to do in a mounted filesystem or with a container runtime: `kind` says on which targets.

    `run` returns a Sample for each of its figures and raises MeasurementError for a wrong result. `size` is an upper bound
    of the bytes it leaves in one target, `temporary` of those it removes again. `needs` names features without which a
    target is left out, `programs` maps a program to the package that brings it. Ratios of its suite are relative to the
    target named `baseline`, if that is given and measured.

    Workloads over as many layers share a mount, unless one is `fresh`; those of a `group` have layers of their own, and what
    they do on a plain tree must not write, so that it can be kept. `rounds` bounds the rounds of what takes long.
    `together`: it runs on all targets at once. `counted`: the kernel counts its requests. `seconds` is what it takes on
    one target, for the estimate. `prepare` makes files in the scratch directory, before its first measurement.
    """

    name: str
    suite: str
    figures: tuple[Figure, ...]
    run: Callable[[Place], Figures]
    build: Build | None = None
    layers: int = 4
    size: int = 16 * MiB
    needs: frozenset[str] = frozenset()
    programs: tuple[tuple[str, str], ...] = ()
    limit: float = 60.0
    temporary: int = 0
    group: str = ""
    fresh: bool = False
    rounds: int = 0
    together: bool = False
    counted: bool = False
    seconds: float = 0.2
    baseline: str = ""
    kind: str = FILESYSTEM
    prepare: Callable[[Path], object] | None = None

    def showing(self, names: Collection[str]) -> Workload:
        """Return the workload with some of its figures only: what it yields besides is not recorded."""
        return replace(self, figures=tuple(figure for figure in self.figures if figure.name in names))
