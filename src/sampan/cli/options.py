"""The flags of `run` and `create`, and the API request they make."""

from __future__ import annotations

import os

from sampan import sizes
from sampan.cli import ports
from sampan.cli.flags import BOOL, INT, LIST, STR, Flag, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS = [
    Flag("add-host", "", LIST, "Add a custom host-to-IP mapping (host:ip)"),
    Flag("attach", "a", LIST, "Attach to STDIN, STDOUT or STDERR"),
    Flag("blkio-weight", "", INT, "Block IO weight (10 to 1000)"),
    Flag("cap-add", "", LIST, "Add Linux capabilities"),
    Flag("cap-drop", "", LIST, "Drop Linux capabilities"),
    Flag("cgroupns", "", STR, "Cgroup namespace (host or private)"),
    Flag("cidfile", "", STR, "Write the container ID to the file"),
    Flag("cpu-period", "", INT, "Limit the CPU CFS period"),
    Flag("cpu-quota", "", INT, "Limit the CPU CFS quota"),
    Flag("cpu-shares", "c", INT, "CPU shares (relative weight)"),
    Flag("cpus", "", STR, "Number of CPUs"),
    Flag("cpuset-cpus", "", STR, "CPUs in which to allow execution (0-3, 0,1)"),
    Flag("cpuset-mems", "", STR, "MEMs in which to allow execution (0-3, 0,1)"),
    Flag("detach", "d", BOOL, "Run in background and print the container ID"),
    Flag("detach-keys", "", STR, "Override the key sequence for detaching"),
    Flag("device", "", LIST, "Add a host device to the container"),
    Flag("dns", "", LIST, "Set custom DNS servers"),
    Flag("dns-option", "", LIST, "Set DNS options"),
    Flag("dns-search", "", LIST, "Set custom DNS search domains"),
    Flag("domainname", "", STR, "Container NIS domain name"),
    Flag("entrypoint", "", STR, "Overwrite the default ENTRYPOINT of the image"),
    Flag("env", "e", LIST, "Set environment variables"),
    Flag("env-file", "", LIST, "Read in a file of environment variables"),
    Flag("expose", "", LIST, "Expose a port or a range of ports"),
    Flag("group-add", "", LIST, "Add additional groups to join"),
    Flag("health-cmd", "", STR, "Command to run to check health"),
    Flag("health-interval", "", STR, "Time between running the check (ms|s|m|h)"),
    Flag("health-retries", "", INT, "Consecutive failures needed to report unhealthy"),
    Flag("health-start-interval", "", STR, "Time between checks during the start period"),
    Flag("health-start-period", "", STR, "Start period before failures count"),
    Flag("health-timeout", "", STR, "Maximum time to allow one check to run"),
    Flag("hostname", "h", STR, "Container host name"),
    Flag("init", "", BOOL, "Run an init inside the container"),
    Flag("interactive", "i", BOOL, "Keep STDIN open even if not attached"),
    Flag("ipc", "", STR, "IPC mode to use"),
    Flag("isolation", "", STR, "Isolation: container, vm for a kernel of its own, or auto: as the policy says"),
    Flag("storage-opt", "", LIST, "Storage options of a virtual machine: size=SIZE, medium=disk|memory"),
    Flag("label", "l", LIST, "Set meta data on a container"),
    Flag("label-file", "", LIST, "Read in a file of labels"),
    Flag("log-driver", "", STR, "Logging driver for the container"),
    Flag("log-opt", "", LIST, "Log driver options"),
    Flag("memory", "m", STR, "Memory limit"),
    Flag("memory-reservation", "", STR, "Memory soft limit"),
    Flag("memory-swap", "", STR, "Memory plus swap limit: '-1' for unlimited"),
    Flag("mount", "", LIST, "Attach a filesystem mount to the container"),
    Flag("name", "", STR, "Assign a name to the container"),
    Flag("network", "", LIST, "Connect a container to a network"),
    Flag("net", "", LIST, "Connect a container to a network"),
    Flag("network-alias", "", LIST, "Add network-scoped alias for the container"),
    Flag("net-alias", "", LIST, "Add network-scoped alias for the container"),
    Flag("ip", "", STR, "IPv4 address"),
    Flag("ip6", "", STR, "IPv6 address"),
    Flag("link-local-ip", "", LIST, "Container IPv4/IPv6 link-local addresses"),
    Flag("mac-address", "", STR, "Container MAC address"),
    Flag("publish", "p", LIST, "Publish a container's port(s) to the host"),
    Flag("publish-all", "P", BOOL, "Publish all exposed ports to random ports"),
    Flag("no-healthcheck", "", BOOL, "Disable any container-specified HEALTHCHECK"),
    Flag("oom-kill-disable", "", BOOL, "Disable OOM Killer"),
    Flag("oom-score-adj", "", INT, "Tune host's OOM preferences (-1000 to 1000)"),
    Flag("pid", "", STR, "PID namespace to use"),
    Flag("pids-limit", "", INT, "Tune container pids limit (-1 for unlimited)"),
    Flag("platform", "", STR, "Set platform if server is multi-platform capable"),
    Flag("privileged", "", BOOL, "Give extended privileges to this container"),
    Flag("pull", "", STR, "Pull image before running (always, missing, never)"),
    Flag("quiet", "q", BOOL, "Suppress the pull output"),
    Flag("read-only", "", BOOL, "Mount the container's root filesystem as read only"),
    Flag("restart", "", STR, "Restart policy to apply when a container exits"),
    Flag("rm", "", BOOL, "Automatically remove the container when it exits"),
    Flag("security-opt", "", LIST, "Security Options"),
    Flag("shm-size", "", STR, "Size of /dev/shm"),
    Flag("sig-proxy", "", BOOL, "Proxy received signals to the process", True),
    Flag("stop-signal", "", STR, "Signal to stop the container"),
    Flag("stop-timeout", "", INT, "Timeout (in seconds) to stop a container"),
    Flag("sysctl", "", LIST, "Sysctl options"),
    Flag("tmpfs", "", LIST, "Mount a tmpfs directory"),
    Flag("tty", "t", BOOL, "Allocate a pseudo-TTY"),
    Flag("ulimit", "", LIST, "Ulimit options"),
    Flag("user", "u", STR, "Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag("uts", "", STR, "UTS namespace to use"),
    Flag("volume", "v", LIST, "Bind mount a volume"),
    Flag("volumes-from", "", LIST, "Mount volumes from the specified container(s)"),
    Flag("workdir", "w", STR, "Working directory inside the container"),
]


def size(text: str, flag: str) -> int:
    """Bytes of "64m", "1.5g". Raises UsageError."""
    try:
        return sizes.parse(text)
    except ValueError:
        raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: invalid size: {text!r}') from None


def duration(text: str, flag: str) -> int:
    """Nanoseconds of "1m30s". Raises UsageError."""
    units = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
    total, number, rest = 0.0, "", text
    while rest:
        while rest[:1] in _DIGITS:
            number, rest = number + rest[0], rest[1:]
        unit = next((u for u in ("ns", "us", "ms", "s", "m", "h") if rest.startswith(u)), None)
        if unit is None or number in ("", ".") or number.count(".") > 1:
            break
        total, number, rest = total + float(number) * units[unit], "", rest[len(unit) :]
    if rest or number or total >= 1 << 63:
        raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: invalid duration {text!r}')
    return int(total)


_DIGITS = frozenset("0123456789.")


def env_file(path: str) -> list[str]:
    """Lines of an environment file, by Docker's rules: no quotes, no expansion. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UsageError(f"open {path}: {(error.strerror or '').lower()}") from None
    found: list[str] = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            line = raw.decode().removesuffix("\r").lstrip(" \t")
        except UnicodeDecodeError:
            raise UsageError(f"invalid env file ({path}): line {number}: invalid utf8 bytes") from None
        if not line or line.startswith("#"):
            continue
        name, equals, _ = line.partition("=")
        if not name or any(c.isspace() for c in name):
            raise UsageError(f"invalid env file ({path}): line {number}: variable '{name}' contains whitespaces")
        if equals:
            found.append(line)
        elif name in os.environ:
            found.append(f"{name}={os.environ[name]}")
    return found


def environment(values: dict[str, Any]) -> list[str]:
    """--env-file then --env; a name alone takes its value from here, or is removed."""
    found = [line for path in values["env-file"] for line in env_file(path)]
    for item in values["env"]:
        name, equals, _ = item.partition("=")
        if not name:
            raise UsageError(f"invalid environment variable: {item}")
        found.append(item if equals else f"{name}={os.environ[name]}" if name in os.environ else name)
    return found


def pairs(items: list[str]) -> dict[str, str]:
    """The mapping of "key=value" options; without "=" the value is empty."""
    return {key: value for key, _, value in (item.partition("=") for item in items)}


def ulimit(text: str) -> dict[str, Any]:
    """One --ulimit: NAME=SOFT[:HARD]. Raises UsageError."""
    name, equals, limits = text.partition("=")
    soft, _, hard = limits.partition(":")
    try:
        if not equals:
            raise ValueError
        return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}
    except ValueError:
        raise UsageError(f'invalid argument "{text}" for "--ulimit" flag: invalid ulimit argument') from None


def _device(text: str) -> dict[str, str]:
    parts = text.split(":")
    source, target, mode = parts[0], parts[0], "rwm"
    if len(parts) > 1:
        if set(parts[1]) <= set("rwm"):
            mode = parts[1]
        else:
            target = parts[1]
    if len(parts) > 2:
        mode = parts[2]
    return {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": mode}


def _mount(text: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": "volume"}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        on = not equals or value in ("true", "1")
        if key == "type":
            mount["Type"] = value
        elif key in ("source", "src"):
            mount["Source"] = value
        elif key in ("target", "destination", "dst"):
            mount["Target"] = value
        elif key in ("readonly", "ro"):
            mount["ReadOnly"] = on
        elif key == "bind-propagation":
            mount.setdefault("BindOptions", {})["Propagation"] = value
        elif key in ("bind-create-src", "bind-create-mountpoint"):
            mount.setdefault("BindOptions", {})["CreateMountpoint"] = on
        elif key == "volume-nocopy":
            mount.setdefault("VolumeOptions", {})["NoCopy"] = on
        elif key == "volume-subpath":
            mount.setdefault("VolumeOptions", {})["Subpath"] = value
        elif key == "tmpfs-size":
            mount.setdefault("TmpfsOptions", {})["SizeBytes"] = size(value, "mount")
        elif key == "tmpfs-mode":
            mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
        else:
            raise UsageError(f'invalid argument "{text}" for "--mount" flag: unexpected key \'{key}\'')
    if "Target" not in mount:
        raise UsageError(f'invalid argument "{text}" for "--mount" flag: target is required')
    return mount


def _volume(text: str) -> str:
    source, colon, rest = text.partition(":")
    if colon and source.startswith((".", "~")):
        return f"{os.path.abspath(os.path.expanduser(source))}:{rest}"
    return text


def _security(option: str) -> str:
    key, _, value = option.partition("=")
    if key == "seccomp" and value not in ("unconfined", "builtin"):
        try:
            with open(value, encoding="utf-8") as file:
                return f"seccomp={file.read()}"
        except OSError as error:
            raise UsageError(f"opening seccomp profile ({value}) failed: {error.strerror}") from None
    return option


def _health(v: dict[str, Any]) -> dict[str, Any] | None:
    if v["no-healthcheck"]:
        return {"Test": ["NONE"]}
    check: dict[str, Any] = {}
    if v["health-cmd"]:
        check["Test"] = ["CMD-SHELL", v["health-cmd"]]
    for flag, key in (
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start-period", "StartPeriod"),
        ("start-interval", "StartInterval"),
    ):
        if v[f"health-{flag}"]:
            check[key] = duration(v[f"health-{flag}"], f"health-{flag}")
    if v["health-retries"]:
        check["Retries"] = v["health-retries"]
    return check or None


def request(v: dict[str, Any], image: str, command: list[str]) -> dict[str, Any]:
    """The body of POST /containers/create. Raises UsageError."""
    streams = {item.lower() for item in v["attach"]}
    everything = not v["detach"] and not streams
    policy, _, retries = v["restart"].partition(":")
    binds = [item for item in map(_volume, v["volume"]) if ":" in item]
    v["network-alias"] = v["network-alias"] + v["net-alias"]
    mode, endpoints = ports.networks(v)
    published = ports.bindings(v["publish"])
    host: dict[str, Any] = {
        "AutoRemove": v["rm"],
        "NetworkMode": mode,
        "Privileged": v["privileged"],
        "ReadonlyRootfs": v["read-only"],
    }
    optional = {
        "PortBindings": published, "PublishAllPorts": v["publish-all"],
        "Binds": binds, "VolumesFrom": v["volumes-from"], "CapAdd": v["cap-add"], "CapDrop": v["cap-drop"], "SecurityOpt": [_security(o) for o in v["security-opt"]],
        "Devices": [_device(item) for item in v["device"]], "Mounts": [_mount(item) for item in v["mount"]],
        "Dns": v["dns"], "DnsOptions": v["dns-option"], "DnsSearch": v["dns-search"], "ExtraHosts": v["add-host"],
        "GroupAdd": v["group-add"], "PidMode": v["pid"], "IpcMode": v["ipc"], "UTSMode": v["uts"],
        "CgroupnsMode": v["cgroupns"], "Isolation": v["isolation"], "StorageOpt": dict(item.partition("=")[::2] for item in v["storage-opt"] or []), "Init": v["init"] or None,
        "Memory": size(v["memory"], "memory") if v["memory"] else 0,
        "MemorySwap": size(v["memory-swap"], "memory-swap") if v["memory-swap"] else 0,
        "MemoryReservation": size(v["memory-reservation"], "memory-reservation") if v["memory-reservation"] else 0,
        "ShmSize": size(v["shm-size"], "shm-size") if v["shm-size"] else 0,
        "CpuShares": v["cpu-shares"], "CpuPeriod": v["cpu-period"], "CpuQuota": v["cpu-quota"],
        "CpusetCpus": v["cpuset-cpus"], "CpusetMems": v["cpuset-mems"], "PidsLimit": v["pids-limit"],
        "BlkioWeight": v["blkio-weight"], "OomScoreAdj": v["oom-score-adj"], "OomKillDisable": v["oom-kill-disable"] or None,
        "Ulimits": [ulimit(item) for item in v["ulimit"]], "Sysctls": pairs(v["sysctl"]),
        "Tmpfs": {path: options for path, _, options in (item.partition(":") for item in v["tmpfs"])},
        "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(retries or 0)} if policy else None,
        "LogConfig": {"Type": v["log-driver"], "Config": pairs(v["log-opt"])} if v["log-driver"] or v["log-opt"] else None,
    }  # fmt: skip
    if v["cpus"]:
        try:
            optional["NanoCpus"] = round(float(v["cpus"]) * 10**9)
        except ValueError:
            raise UsageError(f'invalid argument "{v["cpus"]}" for "--cpus" flag: not a number') from None
    host |= {key: value for key, value in optional.items() if value}
    labels = [line for path in v["label-file"] for line in env_file(path)] + v["label"]
    body: dict[str, Any] = {
        "Image": image,
        "AttachStdin": (everything and v["interactive"]) or "stdin" in streams,
        "AttachStdout": everything or "stdout" in streams,
        "AttachStderr": everything or "stderr" in streams,
        "OpenStdin": v["interactive"],
        "StdinOnce": v["interactive"] and not v["detach"],
        "Tty": v["tty"],
        "Env": environment(v),
        "HostConfig": host,
    }
    more = {
        "Cmd": command or None, "Entrypoint": [v["entrypoint"]] if v["entrypoint"] else None, "User": v["user"],
        "WorkingDir": v["workdir"], "Hostname": v["hostname"], "Domainname": v["domainname"], "Labels": pairs(labels),
        "StopSignal": v["stop-signal"], "StopTimeout": v["stop-timeout"], "Healthcheck": _health(v),
        "Volumes": {item: {} for item in v["volume"] if ":" not in item},
        "ExposedPorts": {port: {} for item in v["expose"] for port in ports.expand(item)} | {port: {} for port in published},
        "NetworkingConfig": {"EndpointsConfig": endpoints} if endpoints else None,
    }  # fmt: skip
    return body | {key: value for key, value in more.items() if value not in (None, "", {}, [])}
