# SPDX-License-Identifier: Apache-2.0
"""The engine: state directories, the supervisor of a container and the foreground client."""
