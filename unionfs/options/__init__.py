# SPDX-License-Identifier: Apache-2.0
"""The option strings of AUFS and of fuse-overlayfs, read into values."""
