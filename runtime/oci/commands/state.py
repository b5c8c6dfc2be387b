# SPDX-License-Identifier: Apache-2.0
"""`unionrt state`: tell about a container."""

from __future__ import annotations

from runtime.oci import jsontext, state
from runtime.oci.options import Command, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.oci.settings import Settings

COMMAND = Command("state", "tell about a container", "ID")


def run(settings: Settings, options: Options) -> int:
    """Print the container's state as JSON."""
    print(jsontext.pretty(state.open_container(settings.root, options.arguments[0]).describe(), "  "))
    return 0
