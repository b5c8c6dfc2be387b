# SPDX-License-Identifier: Apache-2.0
"""`unionrt list`: tell about all containers."""

from __future__ import annotations

import os

from runtime.oci import jsontext, state
from runtime.oci.failure import Failure, one_line
from runtime.oci.options import Command, Option, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command(
    "list",
    "tell about all containers",
    "",
    (
        Option("format", "f", "table|json", "how (default: table)"),
        Option("quiet", "q", "", "only the IDs"),
    ),
    least=0,
    most=0,
)
_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")
_STATUS = _COLUMNS.index("status")
_COLOURS = {"running": "32", "created": "36", "paused": "33", "stopped": "2"}


def run(settings: Settings, options: Options) -> int:
    """Print the containers below the state root, none if there is no such directory."""
    containers = state.all_containers(settings.root)
    form = options.text("format", "table")
    if options.flag("quiet"):
        print("".join(f"{container.id}\n" for container in containers), end="")
    elif form == "json":
        print(jsontext.dumps([container.describe() for container in containers]))
    elif form == "table":
        _print_table([container.describe() for container in containers])
    else:
        raise Failure(f"--format: unknown format {form!r}", "give table or json")
    return 0


def _print_table(states: list[dict[str, object]]) -> None:
    rows = [tuple(column.upper() for column in _COLUMNS)]
    rows += [tuple(one_line(str(entry[column])) for column in _COLUMNS) for entry in states]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    colours = _COLOURS if os.isatty(1) and not os.environ.get("NO_COLOR") else {}
    for row in rows:
        cells = [f"{text:{width}}" for text, width in zip(row, widths, strict=True)]
        colour = colours.get(row[_STATUS])
        if colour:
            cells[_STATUS] = f"\033[{colour}m{cells[_STATUS]}\033[0m"
        print("   ".join(cells).rstrip())
