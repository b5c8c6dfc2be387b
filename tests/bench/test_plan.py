# SPDX-License-Identifier: Apache-2.0
"""What a run will do: which workloads share mounts and files, who is compared with whom, how often and how long."""

from dataclasses import replace
from pathlib import Path

import pytest

from bench.machine.client import Figures, Place
from bench.machine.layers import Layers
from bench.measuring.plan import Plan, check_reach, check_space
from bench.targets import TARGETS, Instance, parse_targets
from bench.workloads import SUITES, parse_suites, workloads_of
from bench.workloads.model import MiB, Workload
from unionfs.errors import UserError


def _run(_place: Place) -> Figures:
    return {}


def _build(_layers: Layers) -> None:
    pass


def _build_more(_layers: Layers) -> None:
    pass


_PLAIN = Workload("plain", "s", (), _run, _build)


def _instances(names: str) -> list[Instance]:
    return parse_targets(names, {}, TARGETS)


def test_layouts_group_has_files_of_its_own_and_fresh_a_mount_of_its_own() -> None:
    """A fresh workload shares the layers of its group, not its mount; other groups share nothing."""
    workloads = [
        _PLAIN,
        replace(_PLAIN, name="fresh", fresh=True, build=_build_more),
        replace(_PLAIN, name="grouped", group="g"),
        replace(_PLAIN, name="deep", layers=8),
    ]
    found = {layout.workloads[0].name: layout for layout in Plan(workloads, _instances("native")).layouts()}
    assert found["plain"].files == found["fresh"].files and found["plain"].name != found["fresh"].name
    assert found["plain"].builds == found["fresh"].builds == (_build, _build_more)
    assert len({layout.files for layout in found.values()}) == 3
    assert [name for name, layout in found.items() if layout.shows_mounting] == ["plain", "deep"]


def test_layouts_workload_of_few_rounds_is_left_out_later() -> None:
    """What takes long is measured in its first rounds only; the layers stay the same."""
    plan = Plan([_PLAIN, replace(_PLAIN, name="long", rounds=1, build=_build_more)], _instances("native"), 3)
    first, later = plan.layouts(0)[0], plan.layouts(1)[0]
    assert [w.name for w in first.workloads] == ["plain", "long"]
    assert [w.name for w in later.workloads] == ["plain"]
    assert first.builds == later.builds


def test_baseline_of_rootless_target_is_rootless() -> None:
    """Rootless targets are compared with a rootless overlay2, which itself is compared with root's."""
    instances = _instances("overlay2,fuse-overlayfs,overlay2-rootless,fuse-overlayfs-rootless")
    plan = Plan([_PLAIN], instances)
    assert [plan.baseline_of(i) for i in instances] == ["overlay2"] * 3 + ["overlay2-rootless"]
    alone = Plan([_PLAIN], _instances("overlay2-rootless,mergerfs-rootless"))
    assert {alone.baseline_of(i) for i in alone.instances} == {"overlay2-rootless"}


def test_expected_seconds_grow_with_rounds_and_variants_cost_less() -> None:
    """The estimate knows rounds, targets and that variants take part in fewer rounds."""
    both = _instances("overlay2,overlay2-userxattr")
    seconds = [Plan([_PLAIN], both, rounds).expected_seconds() for rounds in (1, 5)]
    assert 4 * seconds[0] < seconds[1] < 5.1 * seconds[0]
    assert Plan([_PLAIN], both, 5, few=2).expected_seconds() < seconds[1]


def test_needed_bytes_temporary_counts_once() -> None:
    """What a workload removes again is there once, what it leaves once for each target."""
    targets = _instances("native,overlay2,mergerfs")
    stays = Plan([replace(_PLAIN, size=MiB)], targets).needed_bytes()
    passes = Plan([replace(_PLAIN, size=MiB, temporary=10 * MiB)], targets).needed_bytes()
    assert passes - stays == 10 * MiB


def test_check_space_too_small_memory_is_an_error(tmp_path: Path) -> None:
    """A tmpfs that memory cannot hold is refused before."""
    plan = Plan([replace(_PLAIN, size=1 << 50)], _instances("native"))
    with pytest.raises(UserError, match=r"memory: .* MiB are needed"):
        check_space(plan, tmp_path, in_memory=True)


def test_check_reach_closed_directory_matters_to_rootless_targets_only(tmp_path: Path) -> None:
    """An unprivileged user cannot work below a directory closed to others; root can."""
    tmp_path.chmod(0o700)
    check_reach(Plan([_PLAIN], _instances("native")), tmp_path)
    with pytest.raises(UserError, match="closed to unprivileged users"):
        check_reach(Plan([_PLAIN], _instances("overlay2-rootless")), tmp_path)


def test_every_workload_has_figures_of_its_own() -> None:
    """No two workloads of a full run write the same figure; names of figures and workloads are unique."""
    workloads = parse_suites(",".join(suite for suite in SUITES if suite != "quick"))
    names = [figure.name for workload in workloads for figure in workload.figures]
    assert len(set(names)) == len(names)
    assert len({w.name for w in workloads}) == sum(len(workloads_of(s)) for s in SUITES if s != "quick")


def test_quick_has_the_twelve_figures() -> None:
    """The figures that matter are twelve."""
    assert sum(len(workload.figures) for workload in workloads_of("quick")) == 12
