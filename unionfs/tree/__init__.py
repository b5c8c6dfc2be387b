# SPDX-License-Identifier: Apache-2.0
"""The union as a tree of nodes over branches, with their numbers and the copies that show."""
