# SPDX-License-Identifier: Apache-2.0
"""The low-level runtime: what one container needs from the kernel. Standard library only."""
