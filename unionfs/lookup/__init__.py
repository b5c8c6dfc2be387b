# SPDX-License-Identifier: Apache-2.0
"""Find a name in the copies of one directory."""
