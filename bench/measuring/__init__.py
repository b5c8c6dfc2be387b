# SPDX-License-Identifier: Apache-2.0
"""Plan a run and carry it out, round by round."""
