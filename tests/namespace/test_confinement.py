# SPDX-License-Identifier: Apache-2.0
"""What keeps a container in: filter, devices, masks, capabilities, as unionrt and Docker have them; on cgroup v1 and v2.

`make test-v2` runs this in the machine for cgroup v2.
"""

import os
from pathlib import Path

import pytest

from runtime.oci import defaults
from tests.support.box import Box

DOCKERS = "00000000a80425fb"


@pytest.mark.parametrize("options", [[], ["--init"], ["--no-new-privileges"], ["-u", "1234"], ["--userns"]])
def test_run_filters_system_calls(box: Box, options: list[str]) -> None:
    """Every process of the container is in seccomp's mode 2, pid 1 too, however it is started."""
    script = "grep -h Seccomp: /proc/self/status /proc/1/status; unshare -U true 2>/dev/null || echo refused"
    done = box.run(*options, "--", "sh", "-c", script)
    assert done.stdout.split() == ["Seccomp:", "2", "Seccomp:", "2", "refused"], done.stderr


@pytest.mark.parametrize(("options", "value"), [([], "0"), (["--no-new-privileges"], "1")])
def test_run_has_dockers_capabilities_and_no_new_privs_when_asked(
    box: Box, options: list[str], value: str
) -> None:
    """Docker's fourteen, none inheritable or ambient; no_new_privs is off unless asked for, as Docker has it."""
    done = box.run(*options, "--", "grep", "-E", "Cap|NoNewPrivs", "/proc/self/status")
    found = dict(line.split() for line in done.stdout.splitlines())
    none = "0" * 16
    assert found == {
        "CapInh:": none, "CapPrm:": DOCKERS, "CapEff:": DOCKERS, "CapBnd:": DOCKERS, "CapAmb:": none, "NoNewPrivs:": value,
    }  # fmt: skip


def test_run_masks_what_unionrt_masks(box: Box) -> None:
    """Of the default paths those that exist are empty, or cannot be written."""
    script = """
        for path in $MASKED; do
            [ ! -d $path ] || [ -z "$(ls -A $path)" ] || echo shown $path
            [ ! -e $path ] || [ -d $path ] || [ -z "$(cat $path)" ] || echo shown $path
        done
        for path in $READ_ONLY; do [ ! -e $path ] || grep -q "^[^ ]* $path [^ ]* ro," /proc/mounts || echo writable $path; done
        [ -e /proc/keys ] && [ -d /sys/firmware ] && echo looked
    """
    words = ["-e", f"MASKED={' '.join(defaults.masked())}", "-e", f"READ_ONLY={' '.join(defaults.READ_ONLY)}"]
    assert box.run(*words, "--", "sh", "-c", script).stdout == "looked\n"


def test_run_device_rules_hold_whatever_the_cgroup_version(box: Box) -> None:
    """Any node may be made, few opened: the usual ones, and not a FUSE device, memory, or a disk."""
    script = """
        for node in "mine c 1 3" "mem c 1 1" "fuse c 10 229" "disk b 7 0"; do
            mknod /dev/${node%% *} ${node#* } || echo cannot make $node
        done
        for name in null zero full random urandom tty mine mem fuse disk; do
            sh -c ": <>/dev/$name" 2>/tmp/error && echo $name || echo "$name:$(sed 's/.*: //' /tmp/error)"
        done
    """
    lines = box.run("--", "sh", "-c", script).stdout.splitlines()
    assert lines[:5] == ["null", "zero", "full", "random", "urandom"]
    assert lines[5].startswith("tty:No such device or address")  # there is none; it may be asked for
    assert lines[6:] == ["mine", *(f"{name}:Operation not permitted" for name in ("mem", "fuse", "disk"))]


def test_run_program_never_finds_our_interpreter(box: Box) -> None:
    """A script whose interpreter is /proc/self/exe does not become a descriptor of the host's python (CVE-2019-5736)."""
    layer = box.directory / "layer"
    (layer / "bin").mkdir(parents=True)
    script = layer / "bin/script"
    script.write_text("#!/proc/self/exe -c print('escaped')\n")
    script.chmod(0o755)
    for options in ([], ["--init"]):
        done = box.run(*options, "--rootfs", f"{layer}:/", "--", "/bin/script")
        assert done.returncode != 0
        assert "escaped" not in done.stdout + done.stderr


def test_run_is_seen_by_unionrt(box: Box) -> None:
    """There is one runtime: its commands show and reach the containers, and a program that enters is as confined."""
    process = box.start("--hostname", "inner", "--", "sh", "-c", "echo ready; read line; exit 4")
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    (identity,) = box.identities()
    assert box.states() == {identity}
    done = box.unionrt(
        "exec", identity, "sh", "-c", "hostname; grep Seccomp: /proc/self/status; touch /entered"
    )
    assert (done.returncode, done.stdout.split()) == (0, ["inner", "Seccomp:", "2"])
    assert f'"id": "{identity}"' in box.unionrt("state", identity).stdout
    assert (
        os.listdir(box.containers / identity / "rw") and (box.containers / identity / "rw/entered").exists()
    )
    process.communicate("\n", timeout=60)
    assert process.returncode == 4
    assert not Path(box.containers / identity).exists()
