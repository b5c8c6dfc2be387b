# SPDX-License-Identifier: Apache-2.0
"""The low-level runtime: what one container needs from the kernel. Standard library only."""

SPEC = "1.2.1"  # of the runtime specification that this is an implementation of
