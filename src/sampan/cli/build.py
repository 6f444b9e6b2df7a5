"""build and builder: images from Dockerfiles."""

from __future__ import annotations

import os
import sys

from sampan.cli import credentials, transfers
from sampan.cli.arguments import chunks
from sampan.cli.flags import UsageError, Values
from sampan.cli.options import bytes_of, pairs
from sampan.cli.results import result
from sampan.cli.session import warn
from sampan.client.connection import engine
from sampan.client.http import query
from sampan.linux import filetree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _build_args(items: list[str]) -> dict[str, str]:
    """--build-arg NAME takes the environment's value, if it has one."""
    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if equals:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def _fields(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in text.split(","):
        key, equals, value = item.partition("=")
        if not equals:
            raise UsageError(f"invalid field {item!r} must be a key=value pair")
        found[{"source": "src"}.get(key, key)] = value
    return found


def _secrets(items: list[str]) -> dict[str, str]:
    """By id, in base64: of files, or of variables."""
    import base64

    found = {}
    for item in items:
        fields = _fields(item)
        name = fields.get("id", "")
        if not name:
            raise UsageError(f"invalid secret {item!r}: id is missing")
        if "env" in fields or (fields.get("type") == "env" and "src" not in fields):
            variable = fields.get("env") or name
            if variable not in os.environ:
                raise UsageError(f"secret {name}: the environment variable {variable} is not set")
            data = os.environ[variable].encode()
        else:
            path = fields.get("src") or name
            try:
                with open(path, "rb") as file:
                    data = file.read(512000 + 1)
            except OSError as error:
                raise UsageError(f"failed to stat {path}: {error.strerror}") from None
            if len(data) > 512000:
                raise UsageError(f"secret {name}: larger than 500 KB")
        found[name] = base64.b64encode(data).decode()
    return found


def _ssh(items: list[str]) -> dict[str, str]:
    found = {}
    for item in items:
        name, _, path = item.partition("=")
        path = path or os.environ.get("SSH_AUTH_SOCK", "")
        if not path:
            raise UsageError("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")
        found[name] = os.path.realpath(path)
    return found


def _output(items: list[str], tags: list[str]) -> dict[str, str]:
    """Where the result goes: image, or a directory, a tar, a layout."""
    if len(items) > 1:
        raise UsageError("multiple outputs are not supported")
    if not items:
        return {"type": "image"}
    if items[0] == "-":
        return {"type": "tar", "dest": "-"}
    if "=" not in items[0]:
        return {"type": "local", "dest": items[0]}
    fields = _fields(items[0])
    kind = fields.get("type", "local")
    if kind not in ("image", "registry", "local", "tar", "oci", "docker"):
        raise UsageError(f"unknown output type {kind!r}")
    if kind in ("local", "tar") and not fields.get("dest"):
        raise UsageError(f"output type {kind} needs dest=PATH")
    if kind in ("oci", "docker") and not fields.get("dest"):
        return {"type": "image"} if kind == "docker" else {"type": "oci", "dest": "-"}
    if fields.get("name"):
        tags += fields["name"].split(",")
    return {**fields, "type": kind}


def _body(v: Values) -> dict[str, Any]:
    if v.items("security-opt"):
        raise UsageError("--security-opt: security options are not supported on linux", 1)
    if v.text("isolation") not in ("", "default"):
        raise UsageError(f"--isolation {v.text('isolation')}: unsupported isolation: steps run in containers", 1)
    if v.on("compress"):
        warn("--compress: the engine reads the context where it is, so that nothing is sent")
    host: dict[str, Any] = {"ExtraHosts": v.items("add-host"), "CgroupParent": v.text("cgroup-parent")}
    limits = {
        "Memory": bytes_of(v, "memory"), "MemorySwap": bytes_of(v, "memory-swap"), "ShmSize": bytes_of(v, "shm-size"),
        "CpuShares": v.number("cpu-shares"), "CpuPeriod": v.number("cpu-period"), "CpuQuota": v.number("cpu-quota"),
        "CpusetCpus": v.text("cpuset-cpus"), "CpusetMems": v.text("cpuset-mems"),
    }  # fmt: skip
    host |= {key: value for key, value in limits.items() if value}
    if v.items("ulimit"):
        from sampan.cli.options import ulimit

        host["Ulimits"] = [ulimit(item) for item in v.items("ulimit")]
    args = _build_args(v.items("build-arg"))
    if "SOURCE_DATE_EPOCH" in os.environ:
        args.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    return {
        "buildargs": args,
        "labels": pairs(v.items("label")),
        "tags": list(v.items("tag")),
        "target": v.text("target"),
        "platform": v.text("platform") or os.environ.get("DOCKER_DEFAULT_PLATFORM", ""),
        "nocache": v.on("no-cache"),
        "nocachefilter": v.items("no-cache-filter"),
        "pull": v.on("pull"),
        "network": v.text("network"),
        "secrets": _secrets(v.items("secret")),
        "ssh": _ssh(v.items("ssh")),
        "contexts": pairs(v.items("build-context")),
        "entitlements": v.items("allow"),
        "host": host,
        "squash": v.on("squash"),
        "cachefrom": [_image_of(item) for item in v.items("cache-from")],
        "inlinecache": _inline(v.items("cache-to")),
        "auths": credentials.every(),
    }


def _image_of(text: str) -> str:
    """The image of a --cache-from."""
    if "=" not in text:
        return text
    fields = _fields(text)
    if fields.get("type") != "registry" or not fields.get("ref"):
        raise UsageError(f"--cache-from {text}: only images can be taken from: IMAGE or type=registry,ref=IMAGE")
    return fields["ref"]


def _inline(items: list[str]) -> bool:
    for item in items:
        if item not in ("inline", "type=inline"):
            raise UsageError(f"--cache-to {item}: only type=inline can be written to")
    return bool(items)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(
            f"unable to prepare context: unable to evaluate symlinks in Dockerfile path: {path}: {error.strerror}"
        ) from None


def build(v: Values, names: list[str]) -> int:
    """build"""
    _refuse(v)
    context, body = names[0], _body(v)
    output = _output(v.items("output"), body["tags"])
    if context == "-":
        return _from_input(v, body, output)
    import base64

    body["quiet"] = v.on("quiet")
    if _is_remote(context):
        body |= {"remote": context, "dockerfile": v.text("file")}
    else:
        path = os.path.realpath(context)
        if not os.path.isdir(path):
            raise UsageError(f'unable to prepare context: path "{context}" not found')
        body["context"] = path
        if v.text("file") == "-":
            body["text"] = base64.b64encode(sys.stdin.buffer.read()).decode()
        elif v.text("file"):
            body["text"] = base64.b64encode(_read(v.text("file"))).decode()
            if os.path.exists(f"{v.text('file')}.dockerignore"):
                body["ignore"] = base64.b64encode(_read(f"{v.text('file')}.dockerignore")).decode()
    return _send(body, output, v)


def _refuse(v: Values) -> None:
    """Raises UsageError for what no build does."""
    if not v.on("rm"):
        raise UsageError("--rm=false: no container of a build step is ever left behind")
    if v.text("progress") not in ("auto", "plain", "quiet"):
        raise UsageError(f"invalid progress type {v.text('progress')!r}: auto, plain or quiet")
    if v.on("load") and v.items("output"):
        raise UsageError("--load and --output exclude each other")


def _is_remote(text: str) -> bool:
    return text.startswith(("http://", "https://", "git://", "ssh://", "git@")) and not os.path.isdir(text)


def _send(body: dict[str, Any], output: dict[str, str], v: Values) -> int:
    http = engine()
    if output["type"] == "local":
        os.makedirs(output["dest"], exist_ok=True)
        body["output"] = {"type": "local", "dest": os.path.realpath(output["dest"])}
        transfers.show(http.send("POST", "/sampan/build", body).lines(), v.on("quiet"))
        return 0
    if output["type"] == "tar":
        return _as_tar(body, output["dest"], v)
    quiet = v.on("quiet") or v.text("progress") == "quiet" or output.get("dest") == "-"
    aux = transfers.show(http.send("POST", "/sampan/build", body).lines(), quiet)
    return _finish(aux[-1]["ID"], output, body["tags"], v)


def _finish(identifier: str, output: dict[str, str], tags: list[str], v: Values) -> int:
    if v.text("iidfile"):
        with open(v.text("iidfile"), "w", encoding="ascii") as file:
            file.write(identifier)
    if output.get("dest"):
        from sampan.cli.archives import save_images

        return save_images(tags or [identifier], "" if output["dest"] == "-" else output["dest"])
    if v.on("quiet"):
        print(identifier)
    if v.on("push") or output["type"] == "registry":
        from sampan.cli.registries import push_image

        for tag in tags:
            push_image(tag)
    return 0


def _as_tar(body: dict[str, object], dest: str, v: Values) -> int:
    """The files as a tar: through a directory of our own, since the engine writes directories."""
    import tarfile
    import tempfile

    top = tempfile.mkdtemp(prefix="sampan-build-")
    try:
        body["output"] = {"type": "local", "dest": top}
        transfers.show(engine().send("POST", "/sampan/build", body).lines(), True)
        with (
            open(sys.stdout.fileno(), "wb", closefd=False) if dest == "-" else result(dest) as out,
            tarfile.open(fileobj=out, mode="w|") as tar,
        ):
            for name in sorted(os.listdir(top)):
                tar.add(f"{top}/{name}", name)
    finally:
        filetree.remove(top)
    return 0


def _from_input(v: Values, body: dict[str, Any], output: dict[str, str]) -> int:
    """`build -`: standard input is a context's tar or a Dockerfile."""
    if v.text("file") == "-":
        raise UsageError("invalid argument: can't use stdin for both build context and dockerfile")
    if body["secrets"] or body["ssh"] or output["type"] not in ("image", "docker"):
        raise UsageError("secrets, ssh and other outputs need a context that is a directory or a URL")
    from sampan import quickjson

    wanted = query(
        t=body["tags"], buildargs=quickjson.dumps(body["buildargs"]), labels=quickjson.dumps(body["labels"]),
        target=body["target"] or None, platform=body["platform"] or None, nocache=body["nocache"], pull=body["pull"],
        networkmode=body["network"] or None, dockerfile=v.text("file") or None, squash=body["squash"],
    )  # fmt: skip
    answer = engine().send(
        "POST", f"/build{wanted}", stream=chunks(sys.stdin.buffer), headers=credentials.config_header()
    )
    aux = transfers.show(answer.lines(), v.on("quiet"))
    return _finish(aux[-1]["ID"], output, body["tags"], v)
