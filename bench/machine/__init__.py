# SPDX-License-Identifier: Apache-2.0
"""What measurements run on and in: processes, filesystems, users, cgroups; and what is counted of them."""
