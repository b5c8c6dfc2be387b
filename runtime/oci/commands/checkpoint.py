# SPDX-License-Identifier: Apache-2.0
"""`unionrt checkpoint`, and `restore`: refused, whatever options they are given."""

from __future__ import annotations

from runtime.oci.failure import Failure
from runtime.oci.options import Command, Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from runtime.oci.settings import Settings

COMMAND = Command("checkpoint", "not supported", "ID", least=0, most=-1, foreign=True)


def run(_settings: Settings, _options: Options) -> NoReturn:
    """Refuse."""
    raise Failure("checkpoint and restore are not supported", "use runc or crun with CRIU for them")
