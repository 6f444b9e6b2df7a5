"""build and builder: images from Dockerfiles."""

from __future__ import annotations

import os
import sys

from sampan import sizes
from sampan.cli import credentials, transfers
from sampan.cli.arguments import chunks, filters
from sampan.cli.flags import BOOL, LIST, STR, Flag, UsageError, parse
from sampan.cli.options import pairs
from sampan.cli.output import human
from sampan.cli.results import result
from sampan.client.connection import engine
from sampan.client.http import query
from sampan.linux import filetree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAGS = [
    Flag("add-host", "", LIST, "Add a custom host-to-IP mapping (host:ip)"),
    Flag("allow", "", LIST, "Allow entitlements: network.host, security.insecure"),
    Flag("build-arg", "", LIST, "Set build-time variables"),
    Flag("build-context", "", LIST, "Additional contexts: name=docker-image://IMAGE"),
    Flag("cache-from", "", LIST, "Images with an inline cache to take steps from: IMAGE or type=registry,ref=IMAGE"),
    Flag("cache-to", "", LIST, "type=inline: write the cache into the image, for --cache-from"),
    Flag("file", "f", STR, "Name of the Dockerfile (default: PATH/Dockerfile), - for standard input"),
    Flag("force-rm", "", BOOL, "Accepted for compatibility; no containers are left behind"),
    Flag("iidfile", "", STR, "Write the image ID to the file"),
    Flag("label", "", LIST, "Set metadata for an image"),
    Flag("load", "", BOOL, "Accepted for compatibility; images are always in the engine"),
    Flag("memory", "m", STR, "Memory limit"),
    Flag("network", "", STR, "Networking mode for the RUN instructions, or a network's name"),
    Flag("no-cache", "", BOOL, "Do not use cache when building the image"),
    Flag("no-cache-filter", "", LIST, "Do not cache specified stages"),
    Flag("output", "o", LIST, "Output: type=image|local|tar|oci|docker, dest=PATH, or a directory, or - for a tar"),
    Flag("platform", "", STR, "Set target platform for build"),
    Flag("progress", "", STR, "Type of progress output (auto, plain, tty, quiet)"),
    Flag("pull", "", BOOL, "Always attempt to pull all referenced images"),
    Flag("push", "", BOOL, "Push the image when it is built"),
    Flag("quiet", "q", BOOL, "Suppress the build output and print image ID on success"),
    Flag("rm", "", BOOL, "Accepted for compatibility", True),
    Flag("secret", "", LIST, "Secret to expose to the build: id=NAME[,src=FILE|,env=VARIABLE]"),
    Flag("shm-size", "", STR, "Size of /dev/shm"),
    Flag("squash", "", BOOL, "Squash what the build adds into one layer"),
    Flag("ssh", "", LIST, "SSH agent socket to expose: default or ID=SOCKET"),
    Flag("tag", "t", LIST, "Name and optionally a tag (format: name:tag)"),
    Flag("target", "", STR, "Set the target build stage to build"),
    Flag("ulimit", "", LIST, "Ulimit options"),
]


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


def _body(v: dict[str, Any]) -> dict[str, Any]:
    host: dict[str, Any] = {"ExtraHosts": v["add-host"]}
    try:
        host |= {"Memory": sizes.parse(v["memory"])} if v["memory"] else {}
        host |= {"ShmSize": sizes.parse(v["shm-size"])} if v["shm-size"] else {}
    except ValueError as error:
        raise UsageError(f"invalid size: {error}") from None
    if v["ulimit"]:
        from sampan.cli.options import ulimit

        host["Ulimits"] = [ulimit(item) for item in v["ulimit"]]
    args = _build_args(v["build-arg"])
    if "SOURCE_DATE_EPOCH" in os.environ:
        args.setdefault("SOURCE_DATE_EPOCH", os.environ["SOURCE_DATE_EPOCH"])
    return {
        "buildargs": args,
        "labels": pairs(v["label"]),
        "tags": list(v["tag"]),
        "target": v["target"],
        "platform": v["platform"] or os.environ.get("DOCKER_DEFAULT_PLATFORM", ""),
        "nocache": v["no-cache"],
        "nocachefilter": v["no-cache-filter"],
        "pull": v["pull"],
        "network": v["network"],
        "secrets": _secrets(v["secret"]),
        "ssh": _ssh(v["ssh"]),
        "contexts": pairs(v["build-context"]),
        "entitlements": v["allow"],
        "host": host,
        "squash": v["squash"],
        "cachefrom": [_image_of(item) for item in v["cache-from"]],
        "inlinecache": _inline(v["cache-to"]),
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


def build(args: list[str]) -> int:
    """build [OPTIONS] PATH | URL | -"""
    v, names = parse(FLAGS, args)
    if len(names) != 1:
        raise UsageError("'sampan build' requires 1 argument: PATH | URL | -")
    context, body = names[0], _body(v)
    output = _output(v["output"], body["tags"])
    if context == "-":
        return _from_input(v, body, output)
    import base64

    body["quiet"] = v["quiet"]
    if _is_remote(context):
        body |= {"remote": context, "dockerfile": v["file"]}
    else:
        path = os.path.realpath(context)
        if not os.path.isdir(path):
            raise UsageError(f'unable to prepare context: path "{context}" not found')
        body["context"] = path
        if v["file"] == "-":
            body["text"] = base64.b64encode(sys.stdin.buffer.read()).decode()
        elif v["file"]:
            body["text"] = base64.b64encode(_read(v["file"])).decode()
            if os.path.exists(f"{v['file']}.dockerignore"):
                body["ignore"] = base64.b64encode(_read(f"{v['file']}.dockerignore")).decode()
    return _send(body, output, v)


def _is_remote(text: str) -> bool:
    return text.startswith(("http://", "https://", "git://", "ssh://", "git@")) and not os.path.isdir(text)


def _send(body: dict[str, Any], output: dict[str, str], v: dict[str, Any]) -> int:
    http = engine()
    if output["type"] == "local":
        os.makedirs(output["dest"], exist_ok=True)
        body["output"] = {"type": "local", "dest": os.path.realpath(output["dest"])}
        transfers.show(http.send("POST", "/sampan/build", body).lines(), v["quiet"])
        return 0
    if output["type"] == "tar":
        return _as_tar(body, output["dest"], v)
    quiet = v["quiet"] or v["progress"] == "quiet" or output.get("dest") == "-"
    aux = transfers.show(http.send("POST", "/sampan/build", body).lines(), quiet)
    return _finish(aux[-1]["ID"], output, body["tags"], v)


def _finish(identifier: str, output: dict[str, str], tags: list[str], v: dict[str, Any]) -> int:
    if v["iidfile"]:
        with open(v["iidfile"], "w", encoding="ascii") as file:
            file.write(identifier)
    if output.get("dest"):
        from sampan.cli.images import save

        names = tags or [identifier]
        return save([*names] if output["dest"] == "-" else ["-o", output["dest"], *names])
    if v["quiet"]:
        print(identifier)
    if v["push"] or output["type"] == "registry":
        from sampan.cli.registries import push

        for tag in tags:
            push([tag])
    return 0


def _as_tar(body: dict[str, Any], dest: str, v: dict[str, Any]) -> int:
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


def _from_input(v: dict[str, Any], body: dict[str, Any], output: dict[str, str]) -> int:
    """`build -`: standard input is a context's tar or a Dockerfile."""
    if v["file"] == "-":
        raise UsageError("invalid argument: can't use stdin for both build context and dockerfile")
    if body["secrets"] or body["ssh"] or output["type"] not in ("image", "docker"):
        raise UsageError("secrets, ssh and other outputs need a context that is a directory or a URL")
    from sampan import quickjson

    wanted = query(
        t=body["tags"], buildargs=quickjson.dumps(body["buildargs"]), labels=quickjson.dumps(body["labels"]),
        target=body["target"] or None, platform=body["platform"] or None, nocache=body["nocache"], pull=body["pull"],
        networkmode=body["network"] or None, dockerfile=v["file"] or None, squash=body["squash"],
    )  # fmt: skip
    answer = engine().send(
        "POST", f"/build{wanted}", stream=chunks(sys.stdin.buffer), headers=credentials.config_header()
    )
    aux = transfers.show(answer.lines(), v["quiet"])
    return _finish(aux[-1]["ID"], output, body["tags"], v)


def builder(args: list[str]) -> int:
    """builder prune|build [OPTIONS]"""
    if args[:1] == ["build"]:
        return build(args[1:])
    if args[:1] != ["prune"]:
        raise UsageError("'sampan builder' knows prune and build")
    v, _ = parse(
        [Flag("all", "a"), Flag("filter", "", LIST), Flag("force", "f"), Flag("keep-storage", "", STR)], args[1:]
    )
    if not v["force"]:
        print(
            "WARNING! This will remove all dangling build cache. Are you sure you want to continue? [y/N] ",
            end="",
            flush=True,
        )
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            return 0
    keep = sizes.parse(v["keep-storage"]) if v["keep-storage"] else None
    wanted = query(filters=filters(v["filter"]) if v["filter"] else None, **{"keep-storage": keep})
    answer = engine().call("POST", f"/build/prune{wanted}")
    for key in answer["CachesDeleted"] or []:
        print(key[:25])
    print(f"Total reclaimed space: {human(answer['SpaceReclaimed'])}")
    return 0
