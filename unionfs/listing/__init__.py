# SPDX-License-Identifier: Apache-2.0
"""Listings of directories, merged from their copies."""
