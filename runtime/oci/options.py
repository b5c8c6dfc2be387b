# SPDX-License-Identifier: Apache-2.0
"""The command line: `PROGRAM [GLOBAL OPTION...] COMMAND [OPTION...] ARGUMENT...`, parsed in well under a millisecond.

Accepts what callers of runc and crun write: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-name`, switches with
`=true` or `=false`, options after arguments (unless the command takes a foreign command line), and `--`.
"""

from __future__ import annotations

from runtime.oci.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Option:
    """One option: long name, one-letter name or "", what its value is called ("" for a switch), and a line of help."""

    __slots__ = ("help", "letter", "name", "value")

    def __init__(self, name: str, letter: str = "", value: str = "", help: str = "") -> None:
        self.name = name
        self.letter = letter
        self.value = value
        self.help = help


class Command:
    """A command's own part of the command line.

    `usage` names the arguments; `least` and `most` count them (`most` < 0: any number). With `foreign` the options end at the
    first argument after `least` - 1 others, as what follows is somebody else's command line; with a `least` of 0 there are none.
    """

    __slots__ = ("foreign", "least", "most", "name", "options", "summary", "usage")

    def __init__(
        self,
        name: str,
        summary: str,
        usage: str,
        options: tuple[Option, ...] = (),
        *,
        least: int = 1,
        most: int = 1,
        foreign: bool = False,
    ) -> None:
        self.name = name
        self.summary = summary
        self.usage = usage
        self.options = options
        self.least = least
        self.most = most
        self.foreign = foreign


class Options:
    """What was given: the options by long name, and the arguments."""

    __slots__ = ("arguments", "given")

    def __init__(self) -> None:
        self.given: dict[str, list[str]] = {}
        self.arguments: list[str] = []

    def flag(self, name: str) -> bool:
        """Tell whether the switch was given (last)."""
        values = self.given.get(name)
        return values is not None and values[-1] != "false"

    def text(self, name: str, default: str = "") -> str:
        """Return the last value given."""
        values = self.given.get(name)
        return values[-1] if values is not None else default

    def number(self, name: str, default: int = 0) -> int:
        """Return the last value given as an integer; a Failure if it is none."""
        text = self.text(name, str(default))
        try:
            return int(text)
        except ValueError:
            raise Failure(f"--{name}: {text!r} is not a number") from None

    def count(self, name: str) -> int:
        """Return the last value given as a number that is not negative, 0 without one."""
        number = self.number(name)
        if number < 0:
            raise Failure(f"--{name}: {number} is less than 0")
        return number

    def all(self, name: str) -> list[str]:
        """Return all values given, in order."""
        return self.given.get(name, [])


HELP = Option("help", "h", "", "show this help")


def parse(arguments: Sequence[str], command: Command) -> Options:
    """Parse the arguments of a command; raises Failure for what it does not know."""
    known = _index(command.options)
    options = Options()
    if command.foreign and command.least == 0 and arguments[:1] not in (["-h"], ["--help"]):
        options.arguments += arguments
        return options
    position, end = 0, len(arguments)
    while position < end:
        argument = arguments[position]
        position += 1
        if argument == "--":
            options.arguments += arguments[position:]
            break
        if argument == "-" or not argument.startswith("-"):
            options.arguments.append(argument)
            if command.foreign and len(options.arguments) >= command.least:
                options.arguments += arguments[position:]
                break
            continue
        position = _take(argument, arguments, position, known, options)
    if not options.flag("help"):
        _check_count(command, options.arguments)
    return options


def parse_global(arguments: Sequence[str], options: tuple[Option, ...]) -> tuple[Options, list[str]]:
    """Parse the options before the command; return them and the rest, which begins with the command."""
    known = _index(options)
    result = Options()
    position = 0
    while position < len(arguments) and arguments[position].startswith("-"):
        if arguments[position] == "--":
            position += 1
            break
        position = _take(arguments[position], arguments, position + 1, known, result)
    return result, list(arguments[position:])


def _index(options: tuple[Option, ...]) -> dict[str, Option]:
    known = {"help": HELP, "h": HELP}
    for option in options:
        known[option.name] = option
        if option.letter:
            known[option.letter] = option
    return known


def _take(
    argument: str, arguments: Sequence[str], position: int, known: dict[str, Option], options: Options
) -> int:
    """Record one option and return the position after it and its value."""
    name, equals, value = argument.lstrip("-").partition("=")
    option = known.get(name)
    if option is None and not argument.startswith("--"):
        option, value, equals = _attached(argument, known)
    if option is None:
        raise Failure(f"unknown option {argument}", "see --help")
    if not option.value:
        value = value.lower() if equals else "true"
        if value not in ("true", "false", "1", "0"):
            raise Failure(f"option --{option.name} takes no value")
        value = {"1": "true", "0": "false"}.get(value, value)
    elif not equals:
        if position == len(arguments):
            raise Failure(f"option --{option.name} needs a value: {option.value}")
        value = arguments[position]
        position += 1
    options.given.setdefault(option.name, []).append(value)
    return position


def _attached(argument: str, known: dict[str, Option]) -> tuple[Option | None, str, str]:
    """Return the option of `-nVALUE`."""
    option = known.get(argument[1])
    if option is None or not option.value:
        return None, "", ""
    return option, argument[2:], "="


def _check_count(command: Command, arguments: list[str]) -> None:
    count = len(arguments)
    if count < command.least:
        raise Failure(f"{command.name} needs {command.usage}", f"see `unionrt {command.name} --help`")
    if 0 <= command.most < count:
        raise Failure(f"{command.name}: unexpected argument {arguments[command.most]!r}")
