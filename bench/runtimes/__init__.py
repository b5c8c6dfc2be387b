# SPDX-License-Identifier: Apache-2.0
"""Container runtimes as targets. A new one is a line here, and a class if it speaks no known command line."""

from __future__ import annotations

from bench.runtimes.engines import Docker, Podman, Unionbox
from bench.runtimes.lowlevel import Bubblewrap, NoContainer, OciRuntime, OwnRuntime
from bench.runtimes.model import Runtime

BASELINE = "crun"
RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime
    for runtime in (
        NoContainer(),
        Bubblewrap(),
        OciRuntime(BASELINE, "crun", "crun: the OCI runtime in C"),
        OciRuntime("runc", "runc", "runc: the OCI runtime in Go"),
        OwnRuntime("unionrt", "this project", "this project's OCI runtime"),
        Unionbox(),
        Podman(),
        Docker(),
    )
}
