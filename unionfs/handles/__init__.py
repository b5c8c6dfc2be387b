# SPDX-License-Identifier: Apache-2.0
"""Open files and directories, and lower files whose readers follow a copy-up."""
