# SPDX-License-Identifier: Apache-2.0
"""`run --dry-run`: what would be done, in order, in words, or why not. Nothing is made or changed."""

from __future__ import annotations

from runtime.oci import config as configuration
from runtime.oci import hooks, log, netdevices, process, state
from runtime.oci.cgroups import devices, open_group, resources
from runtime.oci.rootfs.plan import plan
from runtime.oci.seccomp import filter as seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtime.oci.job import Request
    from runtime.oci.settings import Settings

_ENTRIES = ("enter ", "change the root directory ")


def steps(settings: Settings, request: Request) -> list[str]:
    """Return the steps of `run`, numbered. Raises what `run` would say of the configuration."""
    config = configuration.load(request.config)
    state.check_free(settings.root, request.id)
    _check(settings, request, config)
    return [f"{number:3} {step}" for number, step in enumerate(_steps(settings, request, config), 1)]


def _check(settings: Settings, request: Request, config: configuration.Config) -> None:
    """Have everybody look at the part of the configuration that is his."""
    linux = config["linux"]
    user_namespace = any(entry["type"] == "user" for entry in linux["namespaces"])
    prepared = process.prepare(config["process"], linux, user_namespace=user_namespace)
    for text in prepared.warnings:
        log.warning(text)
    hooks.check(config.get("hooks", {}))
    netdevices.check(linux.get("netDevices", {}))
    seccomp.check(config)
    group = open_group(config, request.id, manager=settings.manager, rootless=settings.rootless)
    limits = linux.get("resources", {})
    if group.directories():
        resources.plan(limits, group.layout.v1, lambda _controller, _file: None)
    devices.rules(limits.get("devices", []))


def _steps(settings: Settings, request: Request, config: configuration.Config) -> Iterator[str]:
    linux, process = config["linux"], config["process"]
    yield f"make {settings.root}/{request.id}, which reserves the ID"
    if settings.manager != "disabled":
        yield f"make the cgroup {linux.get('cgroupsPath') or request.id} in every hierarchy"
    yield from _namespace_steps(linux)
    root = plan(config, request.bundle)
    entry = next(at for at, line in enumerate(root) if line.startswith(_ENTRIES))
    yield from root[:entry]
    limits = ", ".join(linux.get("resources", {}))
    if limits:
        yield f"set the limits of the cgroup: {limits}"
    yield from _hook_steps(config, "prestart", "createRuntime", "createContainer")
    yield root[entry] + ("" if request.pivot else ", without pivot_root")
    if process.get("terminal"):
        yield "make a terminal and send it to " + (request.console_socket or "ourselves")
    yield from root[entry + 1 :]
    for limit in process.get("rlimits", ()):
        yield f"set {limit.get('type')} to {limit.get('soft')}, at most {limit.get('hard')}"
    yield f"write the state to {settings.root}/{request.id}/state.json"
    yield from _process_steps(linux, process)
    yield "wait for start"
    yield from _hook_steps(config, "startContainer")
    yield "execute " + " ".join(process["args"])
    yield from _hook_steps(config, "poststart")
    if not request.detach:
        yield "wait for its end and delete the container"
        yield from _hook_steps(config, "poststop")


def _namespace_steps(linux: configuration.Config) -> Iterator[str]:
    for entry in linux["namespaces"]:
        if entry.get("path"):
            yield f"join the {entry['type']} namespace {entry['path']}"
    new = [entry["type"] for entry in linux["namespaces"] if not entry.get("path")]
    if "user" in new:
        for key in ("uidMappings", "gidMappings"):
            entries = linux.get(key, ())
            yield f"map {key[:3]}s: " + ", ".join(
                f"{entry['containerID']} is {entry['hostID']} ({entry['size']})" for entry in entries
            )
    if new:
        yield f"make new namespaces: {', '.join(new)}"


def _hook_steps(config: configuration.Config, *kinds: str) -> Iterator[str]:
    for kind in kinds:
        for hook in config.get("hooks", {}).get(kind, ()):
            yield f"run the {kind} hook {hook.get('path')}"


def _process_steps(linux: configuration.Config, process: configuration.Config) -> Iterator[str]:
    user = process["user"]
    if process.get("noNewPrivileges"):
        yield "set no_new_privs"
    if linux.get("seccomp"):
        yield f"load the seccomp filter, {linux['seccomp'].get('defaultAction')} by default"
    kept = process.get("capabilities", {}).get("bounding", [])
    yield f"keep the capabilities {', '.join(kept)}" if kept else "drop all capabilities"
    yield f"become user {user.get('uid', 0)}:{user.get('gid', 0)} in {process['cwd']}"
