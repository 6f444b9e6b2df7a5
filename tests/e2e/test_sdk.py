"""`import sampan`: the same things by the client and by the one for asyncio."""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
import tarfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import sampan
from sampan.client import asynchronous, options, sync
from tests.conftest import Daemon


@pytest.fixture
def client(daemon: Daemon) -> sampan.Client:
    return sampan.Client(f"unix://{daemon.socket}")


def test_run(client: sampan.Client) -> None:
    done = client.containers.run("busybox", ["sh", "-c", "echo out; echo err >&2; exit 3"], network="none")
    assert done == sampan.Completed(3, b"out\n", b"err\n")
    assert client.containers.list(all=True) == []
    done = client.containers.run("busybox", "wc -c", input=b"x" * 1_000_000, network="none", environment={"A": "b"})
    assert done.stdout == b"1000000\n"
    done = client.containers.run("busybox", ["sh", "-c", "echo $A; id -u; pwd"], environment={"A": "b"}, user="5",
                                 working_dir="/tmp", network="none", memory="64m", cpus=0.5)  # fmt: skip
    assert done.stdout == b"b\n5\n/tmp\n"


def test_lifecycle(client: sampan.Client) -> None:
    container = client.containers.start("busybox", "sleep 100", name="sdk", labels={"a": "b"}, network="none")
    assert (container.name, container.status) == ("sdk", "running")
    assert [c.id for c in client.containers.list(filter={"label": "a=b"})] == [container.id]
    assert container.exec(["sh", "-c", "cat; echo e >&2; exit 4"], input=b"in") == sampan.Completed(4, b"in", b"e\n")
    container.pause()
    assert container.reload().status == "paused"
    container.unpause()
    container.update(memory="64m")
    assert container.stats()["memory_stats"]["limit"] == 64 << 20
    assert container.top()["Titles"]
    container.rename("other")
    assert client.containers.get("other").id == container.id
    container.exec("touch /made")
    assert {"Path": "/made", "Kind": 1} in container.diff()
    container.kill("TERM")
    container.stop(1)
    assert container.wait() in (137, 143)
    image = container.commit("sdk-made", "one")
    assert image.tags == ["sdk-made:one"]
    assert image.history()
    client.images.remove("sdk-made:one")
    container.remove()
    with pytest.raises(sampan.APIError, match="No such container: other") as error:
        client.containers.get("other")
    assert error.value.status == 404


def test_logs_files_events(client: sampan.Client) -> None:
    container = client.containers.create("busybox", ["sh", "-c", "echo one; echo two; cat /f"], network="none")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("f")
        info.size = 4
        tar.addfile(info, io.BytesIO(b"file"))
    container.put_archive("/", buffer.getvalue())
    container.start()
    assert b"".join(data for _, data in container.follow()) == b"one\ntwo\nfile"
    assert container.wait() == 0
    assert container.logs(tail=1) == b"file"
    with tarfile.open(fileobj=io.BytesIO(b"".join(container.get_archive("/f")))) as tar:
        member = tar.extractfile("f")
        assert member is not None
        assert member.read() == b"file"
    actions = [
        event["Action"]
        for event in client.events(since="0", until=str(time.time()), filter={"container": container.id})
    ]
    assert [action for action in actions if action in ("create", "start", "die")][:3] == ["create", "start", "die"]
    assert client.version()["ApiVersion"] == "1.51"
    assert client.ping()


def test_images_and_volumes(client: sampan.Client) -> None:
    image = client.images.get("busybox")
    archive = b"".join(image.save())
    image.tag("copy", "v1")
    assert "copy:v1" in client.images.get("copy:v1").tags
    client.images.remove("copy:v1")
    assert "busybox" in client.images.load(archive)
    assert image.id in [found.id for found in client.images.list()]
    volume = client.volumes.create("sdk-volume", {"k": "v"})
    assert client.volumes.get("sdk-volume")["Labels"] == {"k": "v"}
    assert volume["Name"] in [row["Name"] for row in client.volumes.list()]
    client.containers.run("busybox", ["sh", "-c", "echo kept > /v/f"], volumes=["sdk-volume:/v"], network="none")
    done = client.containers.run("busybox", "cat /v/f", volumes=["sdk-volume:/v:ro"], network="none")
    assert done.stdout == b"kept\n"
    client.volumes.remove("sdk-volume")


def test_the_asyncio_client(daemon: Daemon) -> None:
    async def scenario() -> None:
        async with sampan.AsyncClient(f"unix://{daemon.socket}") as client:
            assert await client.ping()
            several = await asyncio.gather(
                *(client.containers.run("busybox", ["echo", str(n)], network="none") for n in range(8))
            )
            assert [done.stdout for done in several] == [b"%d\n" % n for n in range(8)]
            done = await client.containers.run("busybox", "wc -c", input=b"y" * 1_000_000, network="none")
            assert done.stdout == b"1000000\n"
            container = await client.containers.start("busybox", "sleep 100", network="none")
            done = await container.exec(["sh", "-c", "echo o; echo e >&2; exit 4"])
            assert done == sampan.Completed(4, b"o\n", b"e\n")
            waiting = asyncio.ensure_future(container.wait())
            await container.kill()
            assert await waiting == 137
            await container.remove()
            container = await client.containers.start("busybox", ["sh", "-c", "echo a; echo b"], network="none")
            assert b"".join([data async for _, data in container.follow()]) == b"a\nb\n"

            async def pieces(data: bytes) -> AsyncIterator[bytes]:
                for begin in range(0, len(data), 1000):
                    yield data[begin : begin + 1000]

            archive = b"".join([chunk async for chunk in client.images.save(["busybox"])])
            assert "busybox" in await client.images.load(pieces(archive))
            with pytest.raises(sampan.APIError, match="No such image"):
                await client.containers.run("nosuch", "true")

    asyncio.run(scenario())


def test_building_and_registries(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nARG V\nRUN --mount=type=secret,id=s cat /run/secrets/s > /s && echo $V > /v\n"
    )
    said: list[str] = []
    host = f"unix://{daemon.socket}"
    with sampan.Client(host) as client:
        made = client.images.build(
            str(tmp_path), tags=["sdk:1"], args={"V": "7"}, network="none", secrets={"s": b"hush"}, output=said.append
        )
        assert made.tags == ["sdk:1"]
        assert any(text.startswith("Step 1/3") for text in said)
        assert client.containers.run("sdk:1", ["cat", "/s", "/v"], network="none").stdout == b"hush7\n"
        with pytest.raises(sampan.APIError, match="target stage"):
            client.images.build(str(tmp_path), target="nope", network="none")
        for action in (client.images.pull, client.images.push):
            with pytest.raises(sampan.APIError):
                action("127.0.0.1:1/no/such:1", auth={"username": "a", "password": "b"})

    async def scenario() -> None:
        async with sampan.AsyncClient(host) as client:
            made = await client.images.build(
                str(tmp_path), tags=["sdk:2"], args={"V": "8"}, network="none", secrets={"s": b"hush"}
            )
            assert made.tags == ["sdk:2"]
            for action in (client.images.pull, client.images.push):
                with pytest.raises(sampan.APIError):
                    await action("127.0.0.1:1/no/such:1")
            for name in ("sdk:1", "sdk:2"):
                await client.images.remove(name)

    asyncio.run(scenario())


def test_without_an_engine() -> None:
    with pytest.raises(sampan.NoEngine, match="/nonexistent"):
        sampan.Client("unix:///nonexistent").ping()
    with pytest.raises(sampan.NoEngine, match="only unix"):
        sampan.Client("tcp://127.0.0.1:1")


@pytest.mark.parametrize("name", ["Client", "Containers", "Container", "Images", "Image", "Volumes", "Networks"])
def test_both_clients_have_the_same_methods(name: str) -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        return {key: list(inspect.signature(value).parameters) for key, value in vars(kind).items()
                if callable(value) and not key.startswith("_") and key != "close"}  # fmt: skip

    assert surface(getattr(sync, name)) == surface(getattr(asynchronous, f"Async{name}"))


def test_options_become_the_api_objects() -> None:
    body = options.container_body("i", "a b", ports={80: 8080, "53/udp": ("127.0.0.1", 5353)}, restart="on-failure:3", memory="1.5g",
                        config={"StopTimeout": 5}, host_config={"ShmSize": 1})  # fmt: skip
    assert body["Cmd"] == ["a", "b"]
    assert body["StopTimeout"] == 5
    host = body["HostConfig"]
    assert host["PortBindings"]["80/tcp"] == [{"HostIp": "", "HostPort": "8080"}]
    assert host["PortBindings"]["53/udp"] == [{"HostIp": "127.0.0.1", "HostPort": "5353"}]
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert (host["Memory"], host["ShmSize"]) == (3 << 29, 1)
    with pytest.raises(ValueError, match="lots"):
        options.size("lots")
    for call in (lambda: options.container_body("i", memroy="1g"), lambda: options.exec_body("a", enviroment={})):
        with pytest.raises(TypeError, match=r"no option '(memroy|enviroment)'"):
            call()


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, sampan; print(sorted(m for m in ('asyncio', 'json', 'typing', 'aiohttp', 're') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, 'src'); {code}"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout == "[]\n"
