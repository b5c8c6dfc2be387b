# SPDX-License-Identifier: Apache-2.0
"""What --help says."""

from __future__ import annotations

from runtime.oci.options import HELP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.oci.options import Command, Option

_COLUMN = 34


def of_program(name: str, options: Sequence[Option], commands: Sequence[Command]) -> str:
    """Return the help of the program."""
    lines = ["NAME:", f"   {name} - Open Container Initiative runtime", ""]
    lines += [f"Usage: {name} [OPTION...] COMMAND [OPTION...] [ARGUMENT...]", "", "COMMANDS:"]
    lines += [f"  {command.name:12}{command.summary}" for command in commands]
    lines += [
        "",
        "GLOBAL OPTIONS:",
        *map(_line, (*options, HELP)),
        "",
        f"`{name} COMMAND --help` tells about a command.",
    ]
    return "\n".join(lines)


def of_command(name: str, command: Command) -> str:
    """Return the help of one command."""
    usage = f"Usage: {name} [OPTION...] {command.name} {command.usage}".rstrip()
    lines = ["NAME:", f"   {name} {command.name} - {command.summary}", "", usage]
    lines += ["", "OPTIONS:", *map(_line, (*command.options, HELP))]
    return "\n".join(lines)


def _line(option: Option) -> str:
    letter = f"-{option.letter}, " if option.letter else "    "
    text = f"  {letter}--{option.name} {option.value}".rstrip()
    return f"{text:{_COLUMN}}{option.help}" if len(text) < _COLUMN else f"{text}\n{'':{_COLUMN}}{option.help}"
