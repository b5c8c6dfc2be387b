# SPDX-License-Identifier: Apache-2.0
"""What a workload is: figures it yields, files it needs in the layers, and a function that measures and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.client import Figures, Place
from bench.layers import Build

MiB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that people see. `state` says what is cached; `curve` and `x` place it on a scaling curve.

    `suite` is the suite of its workload, filled in by the plan.
    """

    name: str
    title: str
    unit: str = "s"
    higher_is_better: bool = False
    state: str = ""
    curve: str = ""
    x: float = 0.0
    suite: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to do in a mounted target.

    `run` returns a Sample for each of its figures and raises MeasurementError for a wrong result. `size` is an upper bound
    of the bytes it writes in one target, `needs` names features without which a target is left out, `programs` maps a
    program to the package that brings it.
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
