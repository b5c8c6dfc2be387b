# SPDX-License-Identifier: Apache-2.0
"""One branch: its directory, its whiteouts, and how something gets into it whole or not at all."""
