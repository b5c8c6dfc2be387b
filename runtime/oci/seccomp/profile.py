# SPDX-License-Identifier: Apache-2.0
"""`linux.seccomp` of config.json, checked and lowered to numbers. Knows no system call: names stay names."""

from __future__ import annotations

import errno

from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The kernel's return values of a filter; the low 16 bits of those in _WITH_DATA carry an errno or a message.
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_DATA = {"SCMP_ACT_ERRNO": 4095, "SCMP_ACT_TRACE": 0xFFFF}  # the largest; the kernel cuts errnos at 4095
ALLOW, LOG, TRACE, ERRNO = (_ACTIONS[f"SCMP_ACT_{name}"] for name in ("ALLOW", "LOG", "TRACE", "ERRNO"))
ACTION_MASK = 0xFFFF0000

# As libseccomp numbers them.
_COMPARISONS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_ARGUMENTS = 6
_LARGEST = (1 << 64) - 1

Comparison = tuple[int, int, int, int]  # argument, one of _COMPARISONS, value, valueTwo


class Rule:
    """What happens to the system calls `names` if all of `comparisons` hold."""

    __slots__ = ("action", "comparisons", "names")

    def __init__(self, names: list[str], action: int, comparisons: list[Comparison]) -> None:
        self.names = names
        self.action = action
        self.comparisons = comparisons


class Profile:
    """A checked profile. `architectures` are names in libseccomp's spelling ("x86_64"), without the native one implied."""

    __slots__ = ("architectures", "default_action", "rules")

    def __init__(self, default_action: int, architectures: list[str], rules: list[Rule]) -> None:
        self.default_action = default_action
        self.architectures = architectures
        self.rules = rules


def read(section: dict[str, Any]) -> Profile:
    """Return the profile in `section`; Failure names the key that is wrong."""
    key = "linux.seccomp"
    default = _action(section, "defaultAction", "defaultErrnoRet", key)
    architectures = _list(section, "architectures", key)
    for name in architectures:
        if not isinstance(name, str) or not name.startswith("SCMP_ARCH_"):
            raise _wrong(f"{key}.architectures", name)
    rules = [
        _rule(rule, f"{key}.syscalls[{number}]")
        for number, rule in enumerate(_list(section, "syscalls", key))
    ]
    return Profile(default, [name[len("SCMP_ARCH_") :].lower() for name in architectures], rules)


def _rule(rule: Any, key: str) -> Rule:
    if not isinstance(rule, dict):
        raise _wrong(key, rule)
    names = _list(rule, "names", key)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise _wrong(f"{key}.names", names)
    action = _action(rule, "action", "errnoRet", key)
    arguments = _list(rule, "args", key)
    comparisons = [
        _comparison(argument, f"{key}.args[{number}]") for number, argument in enumerate(arguments)
    ]
    return Rule(names, action, comparisons)


def _action(section: dict[str, Any], name: str, number_name: str, key: str) -> int:
    word = section.get(name)
    if not isinstance(word, str) or word not in _ACTIONS:
        raise _wrong(f"{key}.{name}", word)
    number = section.get(number_name)
    if number is None:
        number = errno.EPERM if word in _WITH_DATA else 0
    elif word not in _WITH_DATA:
        raise Failure(f"{key}.{number_name}: {word} takes no errno", "remove one of the two")
    elif not isinstance(number, int) or not 0 <= number <= _WITH_DATA[word]:
        raise _wrong(f"{key}.{number_name}", number)
    return _ACTIONS[word] | number


def _comparison(argument: Any, key: str) -> Comparison:
    if not isinstance(argument, dict):
        raise _wrong(key, argument)
    operator = argument.get("op")
    if not isinstance(operator, str) or operator not in _COMPARISONS:
        raise _wrong(f"{key}.op", operator)
    index = _number(argument, "index", _ARGUMENTS - 1, key)
    value = _number(argument, "value", _LARGEST, key)
    second = _number(argument, "valueTwo", _LARGEST, key)
    return index, _COMPARISONS[operator], value, second


def _number(section: dict[str, Any], name: str, largest: int, key: str) -> int:
    number = section.get(name)
    if number is None:  # left out by writers that omit zeros
        return 0
    if not isinstance(number, int) or not 0 <= number <= largest:
        raise _wrong(f"{key}.{name}", number)
    return number


def _list(section: dict[str, Any], name: str, key: str) -> list[Any]:
    value = section.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _wrong(f"{key}.{name}", value)
    return value


def _wrong(key: str, value: object) -> Failure:
    return Failure(f"{key}: {value!r} is not valid" if value is not None else f"{key} is missing")
