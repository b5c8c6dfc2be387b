# SPDX-License-Identifier: Apache-2.0
"""unionbench: measures union filesystems side by side. Imports from unionfs and runtime, never the other way."""
