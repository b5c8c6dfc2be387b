# SPDX-License-Identifier: Apache-2.0
"""Whether a process that lists directories wants attributes is learnt from what it looks up."""

from unionfs.fuse.direct.habits import Habits


def test_first_directory_is_answered_with_attributes() -> None:
    habits = Habits()
    assert habits.wants_attributes(7, 100)
    assert habits.wants_attributes(8, 100)


def test_process_that_only_lists_goes_on_without() -> None:
    habits = Habits()
    habits.wants_attributes(7, 100)
    assert [habits.wants_attributes(7, directory) for directory in range(101, 120)] == [False] * 19


def test_process_that_looks_files_up_gets_attributes_from_then_on() -> None:
    habits = Habits()
    habits.wants_attributes(7, 100)
    assert not habits.wants_attributes(7, 101)
    for _ in range(3):
        habits.looked_up(7, 101)
    assert habits.wants_attributes(7, 102)
    assert habits.wants_attributes(7, 103)


def test_lookups_elsewhere_and_of_others_do_not_count() -> None:
    habits = Habits()
    habits.wants_attributes(7, 100)
    habits.wants_attributes(7, 101)
    for _ in range(9):
        habits.looked_up(7, 100)
        habits.looked_up(8, 101)
    assert not habits.wants_attributes(7, 102)


def test_many_processes_take_no_more_room() -> None:
    habits = Habits()
    for pid in range(1000):
        assert habits.wants_attributes(pid, 1)
    assert habits.wants_attributes(0, 1)  # long forgotten
    assert not habits.wants_attributes(999, 1)
