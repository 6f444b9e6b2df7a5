"""`--format` of our command line against that of Docker's client, on the same engine: the same templates, the same output."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import Daemon

pytestmark = pytest.mark.skipif(shutil.which("docker") is None, reason="no docker client on this machine")

# What makes texts of fields, applied to every field of every list.
SHAPES = ["{{.F}}", "table {{.F}}\t{{.G}}", "table {{.G}}\t{{upper .F}}\t{{.F}}", "{{json .F}}", "{{.F | lower | printf \"%-12s|%q\" .G}}",
          "{{if .F}}[{{title .F}}]{{else}}-{{end}}", "{{len .F}} {{eq .F .G}} {{pad .F 1 2}}|{{truncate .F 3}}"]  # fmt: skip
LISTS = {
    ("ps", "-a"): "ID Image Command Ports State Names Labels Mounts LocalVolumes Networks CreatedAt",
    ("ps", "-a", "--no-trunc"): "ID Command",
    ("images",): "ID Repository Tag Digest Size CreatedAt SharedSize Containers",
    ("volume", "ls"): "Name Driver Scope Mountpoint Labels Links Size Availability Group Status",
    ("network", "ls"): "ID Name Driver Scope IPv4 IPv6 Internal Labels CreatedAt",
    ("history", "busybox"): "ID CreatedBy Size Comment CreatedAt",
    ("system", "df"): "Type TotalCount Active Size Reclaimable",
}
MORE = {
    ("ps", "-a"): ["json", "{{json .}}", "table", "table {{.Names}}\\t{{.Label \"tier\"}}", "{{.Label \"tier\"}}", "{{.Names}}\\n",
                   "{{range split .Labels \",\"}}<{{.}}>{{end}}", "{{.Foo}}", "{{nope}}", "{{.ID", "table {{.Names}}: {{.Image}}", ""],
    ("images",): ["json", "table", "{{.Repository}}:{{.Tag}}", ""],
    ("volume", "ls"): ["json", "table", "{{.Label \"x\"}}", ""],
    ("network", "ls"): ["json", "table", ""],
    ("history", "busybox"): ["json"],
    ("system", "df"): ["json", "table", ""],
}  # fmt: skip
OBJECTS = {
    ("inspect", "web"): [
        "{{.Id}} {{.Name}} {{.State.Status}} {{.State.Pid}} {{.State.Running}} {{.RestartCount}}", "{{.Config.Env}} {{.Config.Labels}}", "{{json .Config.Labels}}",
        "{{json .Config.Env}} {{json .State.Running}} {{json .Name}}", "{{range .Config.Env}}{{println .}}{{end}}", "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
        "{{index .Config.Labels \"tier\"}} {{index .Config.Labels \"none\"}}", "{{with .State}}{{.Status}}{{end}}{{with .State.Error}}x{{else}}fine{{end}}",
        "{{range $i, $e := .Config.Env}}{{if $i}}, {{end}}{{$i}}:{{$e}}{{end}}", "{{len .Config.Env}} {{len .Mounts}} {{slice .Name 1}} {{index .Config.Env 0}}",
        "{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.RW}}{{end}}", "{{range $p, $c := .NetworkSettings.Ports}}{{$p}} -> {{(index $c 0).HostPort}}{{end}}",
        "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "{{.HostConfig.NetworkMode}} {{.HostConfig.Memory}}",
        "{{if eq .State.Status \"running\" \"paused\"}}on{{end}}{{if and .State.Running (not .State.Paused)}} really{{end}}", "{{if gt .State.Pid 1}}yes{{end}} {{lt 1 2}} {{ne .Name \"x\"}}",
        "{{$n := .Name}}{{with .Config}}{{$n}} {{.Image}} {{$.Name}}{{end}}", "{{printf \"%s has %d, %v %q %5d|%-5d|%t\" .Name .State.Pid .State.Running .Name 7 7 .State.Running}}",
        "{{join .Config.Env \"+\"}} {{join (split \"a,b\" \",\") \"-\"}} {{upper .Name}} {{title \"a b\"}}", "{{define \"x\"}}<{{.}}>{{end}}{{template \"x\" .Name}}", "{{- .Name -}} x {{- /* c */ -}} y",
        "{{.Nope}}", "{{.State.Nope}}", "{{.Id", "{{nope .Id}}", "{{index .Config.Env 99}}", "{{if .Id}}", "{{print 1 2 \"a\" 3}} {{html \"<\"}} {{urlquery \"a b\"}}", "{{.Id}}\\n", "{{or .State.Error \"none\"}} {{and 1 0}}",
    ],
    ("image", "inspect", "busybox"): ["{{.Id}} {{.Architecture}} {{.Os}}", "{{json .RepoTags}}", "{{range .RepoTags}}{{.}} {{end}}", "{{.Config.Cmd}} {{.Size}}", "{{len .RootFS.Layers}} {{.RootFS.Type}}"],
    ("network", "inspect", "front"): ["{{.Name}} {{.Driver}} {{.Internal}}", "{{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}}", "{{range $id, $c := .Containers}}{{$c.Name}}{{end}}", "{{json .Labels}}"],
    ("volume", "inspect", "data"): ["{{.Name}} {{.Driver}} {{.Scope}} {{.Mountpoint}}", "{{json .Labels}} {{.Labels}}", "{{index .Labels \"x\"}}"],
    ("info",): ["{{.NCPU}} {{.ServerVersion}} {{.Containers}} {{.ContainersRunning}}", "{{json .Driver}} {{.OSType}} {{.Architecture}}", "{{.ID"],
    ("version",): ["{{.Server.Version}} {{.Server.APIVersion}}", "{{range .Server.Components}}{{.Name}}{{end}}"],
}  # fmt: skip
AGE = re.compile(r"(?:Less than a|About an?|\d+) (?:second|minute|hour)s?(?: ago)?")
# Where Docker's client and ours differ on purpose: by (command, template), with the reason.
DIFFERENT = {
    (
        ("inspect", "web"),
        "{{.HostConfig.NetworkMode}} {{.HostConfig.Memory}}",
    ): "the engine leaves out what is 0, Go has a field for it",
}


def cases() -> list[tuple[tuple[str, ...], str]]:
    found = []
    for command, names in LISTS.items():
        fields = names.split()
        for index, field in enumerate(fields):
            # Every field by itself, and with the next field in one of the other shapes.
            for shape in dict.fromkeys(
                (SHAPES[0], SHAPES[1 + index % (len(SHAPES) - 1)], SHAPES[1 + (index + 3) % (len(SHAPES) - 1)])
            ):
                found.append(
                    (
                        command,
                        shape.replace(".F", f".{field} ")
                        .replace(".G", f".{fields[(index + 1) % len(fields)]}")
                        .replace(f".{field} ", f".{field}"),
                    )
                )
        found += [(command, template) for template in MORE.get(command, [])]
    found += [(command, template) for command, templates in OBJECTS.items() for template in templates]
    return [case for case in found if case not in DIFFERENT]


@pytest.fixture
def world(daemon: Daemon) -> Iterator[Daemon]:
    daemon.ok("network", "create", "--label", "n=1", "front")
    daemon.ok("volume", "create", "--label", "x=y", "data")
    daemon.ok("run", "-d", "--name", "web", "--label", "tier=front", "--label", "b=c", "-e", "A=b", "-v", "data:/data", "--network", "front",
              "-p", "127.0.0.1::80", "busybox", "sleep", "100000")  # fmt: skip
    daemon.ok("create", "--name", "idle", "--network", "none", "busybox", "echo", "a much longer command line")
    yield daemon
    daemon.ok("rm", "-f", "web", "idle")
    daemon.ok("network", "rm", "front")
    daemon.ok("volume", "rm", "data")


def said(done: subprocess.CompletedProcess[bytes]) -> tuple[int, object, str]:
    """(exit code, output, the last line of what is said of an error), comparable.

    JSON counts as what it means. Time passes between the one and the other: ages are all the same, and then blanks are, too.
    """
    text, ages = AGE.subn("AGE", done.stdout.decode())
    lines: list[object] = []
    for line in (re.sub(" +", " ", text) if ages else text).split("\n"):
        try:
            lines.append(json.loads(line) if line[:1] in ("{", "[") else line.rstrip())
        except ValueError:
            lines.append(line.rstrip())
    error = done.stderr.decode().strip().rpartition("\n")[2].removeprefix("sampan: ")
    for prefix in ("template parsing error: ", "failed to execute template: "):
        error = error.removeprefix(prefix)
    return done.returncode, lines if done.returncode == 0 else [line for line in lines if line], error


def test_the_same_templates_give_the_same(world: Daemon) -> None:
    env = {**world.env, "DOCKER_HOST": f"unix://{world.socket}", "HOME": "/nonexistent"}

    def ask(program: str, command: tuple[str, ...], template: str) -> tuple[int, object, str]:
        words = [program, *command, *(["--format", template] if template else [])]
        return said(subprocess.run(words, env=env, capture_output=True, timeout=60, check=False))

    wanted = cases()
    assert len(wanted) >= 200
    with ThreadPoolExecutor(4) as pool:
        theirs = list(pool.map(lambda case: ask("docker", *case), wanted))
        ours = list(pool.map(lambda case: ask("sampan", *case), wanted))
    different = [
        f"{' '.join(command)} --format {template!r}\n  docker: {their}\n  sampan: {our}"
        for (command, template), their, our in zip(wanted, theirs, ours, strict=True)
        if their != our
    ]
    assert not different, f"{len(different)} of {len(wanted)}:\n" + "\n".join(different)


def test_sizes_have_docker_s_digits(daemon: Daemon, tmp_path: Path) -> None:
    """Three for one thing, four for a sum; what images have as well is not the build cache's."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN head -c 1765432 /dev/urandom > /x\n")
    daemon.ok("build", "--network", "none", "-t", "sized", str(tmp_path))
    write = "head -c 1234567 /dev/zero > /v/a; head -c 7654321 /dev/urandom > /b"
    daemon.ok("run", "--name", "sized", "--network", "none", "-v", "sized:/v", "busybox", "sh", "-c", write)
    daemon.ok("commit", "sized", "sized:2")
    try:
        for words in (
            ["system", "df"],
            ["system", "df", "-v"],
            ["images"],
            ["ps", "-as"],
            ["history", "sized:2"],
            ["volume", "ls", "--format", "{{.Size}}"],
        ):
            ours, docker = (AGE.sub("AGE", daemon.run(cli, *words).stdout.decode()) for cli in ("sampan", "docker"))
            assert ours.split() == docker.split(), words
    finally:
        daemon.ok("rm", "-f", "sized")
        daemon.ok("volume", "rm", "sized")
        daemon.ok("rmi", "sized:latest", "sized:2")
