# SPDX-License-Identifier: Apache-2.0
"""The commands of the program, one a module: `COMMAND` describes its command line, `run` carries it out."""
