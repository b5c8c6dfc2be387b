# SPDX-License-Identifier: Apache-2.0
"""Whether a process that lists directories wants attributes is learnt from what it looks up, and from what the kernel asks."""

from unionfs.session.direct.habits import Habits, Way

LS, FIND, TAR = 7, 8, 9


def _look(habits: Habits, pid: int, directory: int, count: int = 5) -> None:
    for _ in range(count):
        habits.looked_up(pid, directory)


def _ls(habits: Habits, directory: int) -> Way:
    """List as `ls -l` does: look at each entry before asking for more."""
    way = habits.begins(LS, directory)
    if way is not Way.FULL:
        _look(habits, LS, directory)
    assert habits.goes_on(LS, directory, advised=True)
    return way


def _tar(habits: Habits, directory: int) -> Way:
    """List as `tar` does: look at the entries when all are listed."""
    way = habits.begins(TAR, directory)
    assert not habits.goes_on(TAR, directory, advised=False)
    if way is not Way.FULL:
        _look(habits, TAR, directory)
    return way


def _find(habits: Habits, directory: int) -> Way:
    way = habits.begins(FIND, directory)
    habits.goes_on(FIND, directory, advised=False)
    return way


def test_first_directory_is_answered_with_few_entries() -> None:
    habits = Habits()
    assert habits.begins(FIND, 100) is Way.FEW
    assert habits.begins(LS, 100) is Way.FEW


def test_process_that_only_lists_goes_on_without() -> None:
    habits = Habits()
    assert [_find(habits, directory) for directory in range(20)] == [Way.FEW, *[Way.PLAIN] * 19]


def test_process_that_looks_files_up_gets_attributes_from_then_on() -> None:
    habits = Habits()
    assert [_ls(habits, directory) for directory in range(100)] == [Way.FEW, *[Way.FULL] * 99]


def test_process_that_looks_later_gets_attributes_and_is_asked_now_and_then() -> None:
    habits = Habits()
    ways = [_tar(habits, directory) for directory in range(200)]
    assert ways[0] is Way.FEW
    assert ways[1:30] == [Way.FULL] * 29
    assert ways.count(Way.PLAIN) == 2


def test_process_that_stops_looking_is_noticed() -> None:
    habits = Habits()
    for directory in range(5):
        _ls(habits, directory)
        _tar(habits, directory)
    for pid, most in ((LS, 1), (TAR, 40)):
        ways = []
        for directory in range(10, 200):
            ways.append(habits.begins(pid, directory))
            habits.goes_on(pid, directory, advised=False)
        assert ways.count(Way.FULL) <= most
        assert ways[-100:] == [Way.PLAIN] * 100


def test_empty_directory_says_nothing() -> None:
    habits = Habits()
    _ls(habits, 100)
    assert habits.begins(LS, 101) is Way.FULL
    habits.saw_nothing(LS)
    assert not habits.goes_on(LS, 101, advised=False)
    assert _ls(habits, 102) is Way.FULL


def test_directories_that_are_entered_do_not_count() -> None:
    """The kernel advises attributes also when it looked directories up."""
    habits = Habits()
    for directory in range(5):
        assert habits.begins(FIND, directory) is not Way.FULL
        assert not habits.goes_on(FIND, directory, advised=True)


def test_lookups_elsewhere_and_of_others_do_not_count() -> None:
    habits = Habits()
    _find(habits, 100)
    _find(habits, 101)
    _look(habits, FIND, 100)
    _look(habits, LS, 101)
    assert habits.begins(FIND, 102) is Way.PLAIN


def test_many_processes_take_no_more_room() -> None:
    habits = Habits()
    for pid in range(1000):
        assert habits.begins(pid, 1) is Way.FEW
    assert habits.begins(0, 1) is Way.FEW  # long forgotten
    assert habits.begins(999, 1) is Way.PLAIN
    assert habits.goes_on(0, 5, advised=True)
