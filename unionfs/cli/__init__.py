# SPDX-License-Identifier: Apache-2.0
"""The programs: command lines, what the commands do and what they print."""
