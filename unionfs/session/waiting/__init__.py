# SPDX-License-Identifier: Apache-2.0
"""How a session waits for the next request, and where its thread runs."""
