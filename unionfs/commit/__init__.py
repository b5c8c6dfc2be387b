# SPDX-License-Identifier: Apache-2.0
"""Fold the top branch into the one below it, whole or not at all."""
