# SPDX-License-Identifier: Apache-2.0
# Everything on a fresh Debian 12 with git, python3 and make:  make demo   make test
# `make bootstrap` installs from Debian and PyPI (into .venv) what is missing; every other target needs it first, the demo a part of it.

PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest
# A private mount and pid namespace: a killed run takes its servers and its mounts with it.
SANDBOX := .ci/sandbox

.PHONY: demo test test-v2 test-v2-share unit mount fuzz faults soak check format bench-docs bootstrap install uninstall clean

demo:
	@.ci/bootstrap demo
	$(PYTHON) -m runtime.demo

test: bootstrap
	$(SANDBOX) $(PYTEST) -n 3 tests

# Limits on cgroup v2, and on v1 with hugetlb left to v2, whatever this machine has: in an emulated one with a kernel of Debian's.
# Six minutes; `tests/v2/run v2 COMMAND` runs anything else there. test-v2-share is the minute of it for CI.
V2_PYTEST := env UNIONRT_OWN_MACHINE=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
    $(PYTHON) -m pytest -p pytest_timeout -p no:cacheprovider -q --color no
V2_TESTS := $(patsubst %,tests/oci/test_cgroups_%.py,limits processes devices users)
test-v2: bootstrap
	@tests/v2/prepare
	tests/v2/run v2 $(V2_PYTEST) $(V2_TESTS)
	tests/v2/run v2 $(V2_PYTEST) tests/oci/test_cgroups_commands.py
	tests/v2/run v2 $(V2_PYTEST) tests/namespace/test_confinement.py
	tests/v2/run hybrid $(V2_PYTEST) $(V2_TESTS) -k 'hugepages or unified or memory or freezer or kill'

test-v2-share: bootstrap
	@tests/v2/prepare
	tests/v2/run v2 $(V2_PYTEST) $(V2_TESTS) -k 'pids or freezer or memory or devices or cpuset or kill'

unit: bootstrap
	$(PYTEST) tests/unit

mount: bootstrap
	$(SANDBOX) $(PYTEST) -n 3 tests/mount

# Each property test for as long as FUZZ_SECONDS says, with random examples, where `make test` always takes the same ones.
# A failure prints the operations that lead to it; they become an example.  UNIONFS_TEST_SESSIONS=direct for one session alone.
FUZZ_SECONDS ?= 1800
fuzz: bootstrap
	UNIONFS_FUZZ_SECONDS=$(FUZZ_SECONDS) $(SANDBOX) $(PYTEST) -n 2 --timeout 0 tests/model tests/fault/test_malformed_requests.py

# Every changing call of the server (and of commands) fails, or kills it, at every operation in every configuration: some hours; --jobs N at a time.
# FAULTS chooses: FAULTS="--session direct --form aufs --udba default --operation ^rename --fault EIO,KILL --share 10"; a violation
# prints how to see it again. A share of it is in the tests.
FAULTS ?=
faults: bootstrap
	$(SANDBOX) $(PYTHON) -m tests.faults $(FAULTS)

# Mixed operations of four processes on one direct mount until there were so many; fails if the server's memory or
# descriptors grow after warm-up, or if anything is left when all is removed. Every ten seconds a line; not part of the tests.
SOAK_OPERATIONS ?= 10000000
soak: bootstrap
	$(SANDBOX) $(PYTHON) -m tests.soak --operations $(SOAK_OPERATIONS)

# Publish a result file in docs/benchmarks.md and docs/benchmarks/:  make bench-docs RESULTS=full.jsonl [SELFTEST=selftest.jsonl]
bench-docs: bootstrap
	$(PYTHON) -m bench.report.publish $(RESULTS) $(SELFTEST)

# Lint, format, types; they are part of the tests too (tests/unit/test_quality.py), but for pyright, which is installed here.
check: bootstrap
	@[ -x .venv/bin/pyright ] || $(PYTHON) -m pip install -q --disable-pip-version-check -e '.[pyright]'
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/pyright

format: bootstrap
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

# Programs, manual pages, completion and mount(8)'s helpers below PREFIX (/usr/local), SBINDIR (/usr/sbin), DESTDIR.
install:
	@.ci/install

uninstall:
	@.ci/install uninstall

bootstrap:
	@.ci/bootstrap

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
