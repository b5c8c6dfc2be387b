# SPDX-License-Identifier: Apache-2.0
"""What was measured: samples, figures, and how sure they are."""
