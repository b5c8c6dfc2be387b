# SPDX-License-Identifier: Apache-2.0
"""Pseudo-links: names on lower branches that are one file with its copy."""
