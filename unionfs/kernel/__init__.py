# SPDX-License-Identifier: Apache-2.0
"""What the kernel offers beyond Python's `os`, and descriptors with owners. Knows nothing of unions."""
