# SPDX-License-Identifier: Apache-2.0
"""Which unions live on this machine: their run-time directories, the locks of their branches, what their servers may answer."""
