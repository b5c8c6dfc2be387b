# SPDX-License-Identifier: Apache-2.0
"""`python -m unionfs.cli` is `unionfs`."""

from unionfs.cli.main import main

raise SystemExit(main())
