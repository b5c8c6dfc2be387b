# SPDX-License-Identifier: Apache-2.0
"""Containers: `oci` is the low level (namespaces, cgroups, mounts, init), `engine` supervises, `cli` is `unionbox`."""
