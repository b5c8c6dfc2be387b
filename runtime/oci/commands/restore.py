# SPDX-License-Identifier: Apache-2.0
"""`unionrt restore`: refused, as `checkpoint` is."""

from __future__ import annotations

from runtime.oci.commands.checkpoint import run
from runtime.oci.options import Command

__all__ = ["COMMAND", "run"]

COMMAND = Command("restore", "not supported", "ID", least=0, most=-1, foreign=True)
