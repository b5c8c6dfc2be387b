# SPDX-License-Identifier: Apache-2.0
"""Sessions: they turn kernel requests into calls of `UnionFilesystem`."""
