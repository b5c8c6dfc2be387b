# SPDX-License-Identifier: Apache-2.0
"""The life of a mount: the server process, its control socket, and what a remount changes."""
