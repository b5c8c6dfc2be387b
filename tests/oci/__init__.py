# SPDX-License-Identifier: Apache-2.0
"""Tests of containers in real namespaces and cgroups."""
