"""Operations whose result has to survive: each is entered in the ledger, from its request to its answer."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from sampan.client.http import APIError, Http, NoEngine, Response, encode_request
from tests.faults.ledger import ABSENT, Allowed, Key, Ledger
from tests.faults.limited import LimitedHttp

REGISTRY = "127.0.0.1:5000"
SIZES = (0, 1, 700, 4096, 5000, 40000)
LINES = (100, 3000)  # of the files that a container writes before it is committed
WRITE = "mkdir /payload; for i in 100 3000; do seq $i > /payload/$i; done; exit {code}"


def payload(rng: random.Random, count: int = 12, prefix: str = "") -> dict[str, bytes]:
    """Files that an image is known by."""
    return {f"payload/{prefix}{number}": rng.randbytes(rng.choice(SIZES)) for number in range(count)}


def fingerprint(files: dict[str, bytes]) -> str:
    """Names and contents in one word, with the number of files so that a person sees what is missing."""
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name} {len(data)} ".encode() + data)
    return f"{len(files)} files, {sum(map(len, files.values()))} bytes, {digest.hexdigest()[:12]}"


WRITTEN = fingerprint({f"payload/{n}": "".join(f"{i}\n" for i in range(1, n + 1)).encode() for n in LINES})


def archive(files: dict[str, bytes]) -> bytes:
    """A tar of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def saved_image(name: str, layers: list[dict[str, bytes]]) -> bytes:
    """What `docker save` would make of an image with these layers."""
    tars = [archive(files) for files in layers]
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["x"]},
                         "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()  # fmt: skip
    names = [f"{number}/layer.tar" for number in range(len(tars))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": names}]).encode()
    return archive({"manifest.json": manifest, "config.json": config, **dict(zip(names, tars, strict=True))})


def send(http: Http, path: str, body: bytes) -> bytes:
    """A POST of a tar. Raises APIError for an error in the stream of messages, too."""
    sock = http.connect()
    head = encode_request("POST", path, None, True).replace(
        b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)
    )
    try:
        sock.sendall(head + body)
    except BrokenPipeError:
        pass  # an early answer
    except OSError as error:
        raise NoEngine(str(error)) from error
    response = Response(sock)
    data = response.read()
    response.close()
    if response.status >= 400:
        raise response.head.error(data)
    return checked(data)


def checked(data: bytes) -> bytes:
    """A stream of JSON messages, without an error in it. Raises APIError."""
    for line in data.splitlines():
        if b'"error"' in line:
            raise APIError(500, line.decode())
    return data


class Worker(threading.Thread):
    """One client that does one thing after the other, with names of its own."""

    def __init__(self, name: str, socket: str, ledger: Ledger, rng: random.Random, pulls: dict[str, str]) -> None:
        super().__init__(name=name, daemon=True)
        self.label, self.socket, self.ledger, self.rng = name, socket, ledger, rng
        self.http = LimitedHttp(socket)
        self.doing = ""
        self.pulls = pulls  # what the registry has for us: fingerprints by tag
        self.over, self.number = threading.Event(), 0
        self.counts: dict[str, int] = {}
        self.errors: list[str] = []
        self.boxes: dict[str, str] = {}  # containers that have ended: label to id
        self.fresh: dict[str, str] = {}  # and those never started
        self.names: dict[str, str] = {}
        self.images: dict[str, str] = {}  # fingerprints by tag
        self.volumes: list[str] = []
        self.networks: list[str] = []

    cut_short: tuple[str, int] = ("exited", 255)  # what a container may be that was started when the fault came

    def choices(self) -> list[Callable[[], None]]:
        """What it may do next."""
        return [
            self.create, self.run_to_exit, self.run_to_exit, self.rename, self.remove, self.commit, self.tag, self.untag,
            self.load, self.import_, self.build, self.pull, self.make_volume, self.fill_volume, self.drop_volume,
            self.make_network, self.drop_network]  # fmt: skip

    def run(self) -> None:
        """Until told to stop, or something fails."""
        choices = self.choices()
        while not self.over.is_set():
            operation = self.rng.choice(choices)
            self.doing = operation.__name__
            try:
                operation()
            except (NoEngine, OSError, APIError) as error:
                if not self.over.is_set():  # else it is what was to be expected
                    self.errors.append(f"{self.doing}: {error}")
                return
            self.counts[operation.__name__] = self.counts.get(operation.__name__, 0) + 1

    def _new(self, kind: str) -> str:
        self.number += 1
        return f"{self.label}-{kind}{self.number}"

    def _known(self, states: set[tuple[str, str, int]]) -> Allowed:
        return frozenset(states)

    # containers: what is seen is (name, status, exit code)

    def create(self) -> None:
        """A container that is not started yet."""
        label = self._new("c")
        code = self.rng.randrange(100)
        body = {"Image": "busybox", "Cmd": ["sh", "-c", WRITE.format(code=code)], "Labels": {"cut": label},
                "HostConfig": {"NetworkMode": "none"}}  # fmt: skip
        with self.ledger.becoming({("container", label): self._known({(label, "created", 0)})}):
            self.fresh[label] = self.http.call("POST", f"/containers/create?name={label}", body)["Id"]
        self.names[label] = label

    def run_to_exit(self) -> None:
        """Starts a container and awaits its end: its exit code stands from then on."""
        if not self.fresh:
            self.create()
        label, identifier = self.fresh.popitem()
        name, key = self.names[label], ("container", label)
        code = int(self.http.call("GET", f"/containers/{identifier}/json")["Args"][-1].rpartition(" ")[2])
        ended = (name, "exited", code)
        with self.ledger.becoming({key: self._known({ended, (name, *self.cut_short)})}):
            self.http.call("POST", f"/containers/{identifier}/start")
        with self.ledger.becoming({key: self._known({ended})}):
            answer = self.http.call("POST", f"/containers/{identifier}/wait")
        if answer["StatusCode"] != code:
            self.errors.append(f"{label}: wait says {answer}, not {code}")
        self.boxes[label] = identifier

    def rename(self) -> None:
        """Another name for a container."""
        if not self.fresh:
            self.create()
        label, identifier = self.rng.choice(sorted(self.fresh.items()))
        name = self._new("r")
        with self.ledger.becoming({("container", label): self._known({(name, "created", 0)})}):
            self.http.call("POST", f"/containers/{identifier}/rename?name={name}")
        self.names[label] = name

    def remove(self) -> None:
        """No container any more."""
        if not self.boxes:
            self.run_to_exit()
        label, identifier = self.boxes.popitem()
        with self.ledger.becoming({("container", label): ABSENT}):
            self.http.call("DELETE", f"/containers/{identifier}")

    # images: what is seen is the fingerprint of their files

    def _make_image(self, print_: str, make: Callable[[str], object]) -> None:
        name = f"cut/{self._new('i')}:1"
        with self.ledger.becoming({("image", name): frozenset({print_})}):
            make(name)
        self.images[name] = print_

    def commit(self) -> None:
        """An image of a container's files."""
        if not self.boxes:
            self.run_to_exit()
        identifier = self.rng.choice(sorted(self.boxes.values()))
        self._make_image(WRITTEN, lambda name: self.http.call("POST", f"/commit?container={identifier}&repo={name}"))

    def load(self) -> None:
        """An image of two layers from an archive."""
        lower, upper = payload(self.rng), payload(self.rng, 5, "up")
        self._make_image(
            fingerprint(lower | upper),
            lambda name: send(self.http, "/images/load?quiet=1", saved_image(name, [lower, upper])),
        )

    def import_(self) -> None:
        """An image of a plain tar."""
        files = payload(self.rng)
        self._make_image(
            fingerprint(files), lambda name: send(self.http, f"/images/create?fromSrc=-&repo={name}", archive(files))
        )

    def build(self) -> None:
        """An image of a Dockerfile."""
        files = payload(self.rng)
        context = archive({"Dockerfile": b"FROM busybox\nCOPY payload /payload\nENV made=yes\n", **files})
        self._make_image(fingerprint(files), lambda name: send(self.http, f"/build?t={name}&networkmode=none", context))

    def pull(self) -> None:
        """An image from a registry, whose name is removed first if it is here."""
        if not self.pulls:
            return self.load()
        name = self.rng.choice(sorted(self.pulls))
        if name in self.images:
            self._drop(name)
        with self.ledger.becoming({("image", name): frozenset({self.pulls[name]})}):
            checked(self.http.send("POST", f"/images/create?fromImage={name}").read())
        self.images[name] = self.pulls[name]
        return None

    def tag(self) -> None:
        """One more name for an image."""
        if not self.images:
            self.load()
        old = self.rng.choice(sorted(self.images))
        self._make_image(self.images[old], lambda name: self.http.call("POST", f"/images/{old}/tag?repo={name}"))

    def untag(self) -> None:
        """One name less; with the last one the image goes."""
        if not self.images:
            self.load()
        self._drop(self.rng.choice(sorted(self.images)))

    def _drop(self, name: str) -> None:
        with self.ledger.becoming({("image", name): ABSENT}):
            self.http.call("DELETE", f"/images/{name}?force=1")
        del self.images[name]

    # volumes: what is seen is what their file holds

    def make_volume(self) -> None:
        """A volume without a file."""
        name = self._new("v")
        with self.ledger.becoming({("volume", name): frozenset({f"{name}: nothing"})}):
            self.http.call("POST", "/volumes/create", {"Name": name, "Labels": {"cut": name}})
        self.volumes.append(name)

    def fill_volume(self) -> None:
        """A program writes a file in a volume and asks the kernel to keep it."""
        if not self.volumes:
            self.make_volume()
        name = self.rng.choice(self.volumes)
        text = f"{self.rng.random()}"
        body = {"Image": "busybox", "Cmd": ["sh", "-c", f"echo {text} | dd of=/d/f conv=fsync"],
                "HostConfig": {"NetworkMode": "none", "AutoRemove": True, "Binds": [f"{name}:/d"]}}  # fmt: skip
        key = ("volume", name)
        with self.ledger.becoming({key: frozenset({f"{name}: {text}"})}, {key: frozenset({f"{name}: "})}):
            identifier = self.http.call("POST", "/containers/create", body)["Id"]
            waiting = LimitedHttp(self.socket)
            response = waiting.send("POST", f"/containers/{identifier}/wait?condition=next-exit")
            self.http.call("POST", f"/containers/{identifier}/start")
            code = json.loads(response.read())["StatusCode"]
            response.close()
            if code != 0:
                self.errors.append(f"writing in volume {name} ended with {code}")

    def drop_volume(self) -> None:
        """No volume any more."""
        if not self.volumes:
            self.make_volume()
        name = self.volumes.pop()
        with self.ledger.becoming({("volume", name): ABSENT}):
            self.http.call("DELETE", f"/volumes/{name}")

    # networks: what is seen is their label

    def make_network(self) -> None:
        """A network with a label."""
        name = self._new("n")
        with self.ledger.becoming({("network", name): frozenset({name})}):
            self.http.call("POST", "/networks/create", {"Name": name, "Labels": {"cut": name}})
        self.networks.append(name)

    def drop_network(self) -> None:
        """No network any more."""
        if not self.networks:
            self.make_network()
        name = self.networks.pop()
        with self.ledger.becoming({("network", name): ABSENT}):
            self.http.call("DELETE", f"/networks/{name}")


def image_files(http: Http, name: str) -> str:
    """The fingerprint of an image, read the long way: through the root of a container of it."""
    body = {"Image": name, "Cmd": ["x"], "HostConfig": {"NetworkMode": "none"}}
    identifier = http.call("POST", "/containers/create", body)["Id"]
    exported = io.BytesIO(http.send("GET", f"/containers/{identifier}/export").read())
    http.call("DELETE", f"/containers/{identifier}")
    files: dict[str, bytes] = {}
    with tarfile.open(fileobj=exported) as tar:
        for member in tar:
            if member.isfile() and (member.name.startswith("payload/") or not name.startswith(("cut/", REGISTRY))):
                file = tar.extractfile(member)
                assert file is not None
                files[member.name] = file.read()
    return fingerprint(files)


def observe(http: Http, top: Path) -> dict[Key, Hashable]:
    """All that an engine has, as the ledger names it. `top`: the root directory that it sees."""
    seen: dict[Key, Hashable] = {}
    for row in http.call("GET", "/containers/json?all=1"):
        label = (row.get("Labels") or {}).get("cut")
        if label:
            state = http.call("GET", f"/containers/{row['Id']}/json")
            seen["container", label] = (state["Name"][1:], state["State"]["Status"], state["State"]["ExitCode"])
        elif "cut" in str(row.get("Names")):
            seen["container", row["Id"]] = json.dumps(row)
    for row in http.call("GET", "/images/json"):
        for name in row["RepoTags"] or []:
            try:
                seen["image", name] = image_files(http, name)
            except (APIError, tarfile.TarError) as error:
                seen["image", name] = f"unreadable: {error}"
    for row in http.call("GET", "/volumes")["Volumes"] or []:
        label = (row.get("Labels") or {}).get("cut") or "no label"
        file = Path(f"{top}{row['Mountpoint']}/f")
        seen["volume", row["Name"]] = f"{label}: {file.read_text().strip() if file.exists() else 'nothing'}"
    for row in http.call("GET", "/networks"):
        if row["Name"] not in ("bridge", "host", "none"):
            seen["network", row["Name"]] = (row.get("Labels") or {}).get("cut") or "no label"
    return seen


def quiet(call: Callable[[], Any]) -> Any:
    """A call whose failure does not matter."""
    try:
        return call()
    except (APIError, NoEngine, OSError):
        return None
