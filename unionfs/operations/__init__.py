# SPDX-License-Identifier: Apache-2.0
"""What changes or asks something, by AUFS' rules: decide, then act on one branch."""
