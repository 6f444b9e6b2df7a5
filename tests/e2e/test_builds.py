"""Builds: what each instruction leaves in the files and in the configuration, what goes wrong and how, the cache."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.conftest import Daemon, eventually
from tests.support.contexts import Files, build, image, lay, result, tar_of_one_file

CASES: list[tuple[str, str, Files, dict[str, object]]] = [
    # (name, Dockerfile after its FROM, context, expected: path → content, or mode, or (uid, gid), or None for none)
    ("copy file", "COPY a /b", {"a": "1"}, {"b": "1"}),
    ("copy file into slash", "COPY a /d/", {"a": "1"}, {"d/a": "1"}),
    ("copy file into existing", "RUN mkdir /d\nCOPY a /d", {"a": "1"}, {"d/a": "1"}),
    ("copy file relative", "WORKDIR /w\nCOPY a b", {"a": "1"}, {"w/b": "1"}),
    ("copy file to dot", "WORKDIR /w\nCOPY a .", {"a": "1"}, {"w/a": "1"}),
    ("copy directory content", "COPY d /t", {"d/x": "1", "d/s/y": "2"}, {"t/x": "1", "t/s/y": "2", "t/d": None}),
    ("copy whole context", "COPY . /t/", {"x": "1"}, {"t/x": "1", "t/Dockerfile": ...}),
    ("copy several", "COPY a b /t/", {"a": "1", "b": "2"}, {"t/a": "1", "t/b": "2"}),
    ("copy wildcard", "COPY *.txt /t/", {"a.txt": "1", "b.txt": "2", "c": "3"}, {"t/a.txt": "1", "t/b.txt": "2", "t/c": None}),
    ("copy question mark", "COPY a?c /t/", {"abc": "1", "ac": "2"}, {"t/abc": "1", "t/ac": None}),
    ("copy class", "COPY [ab] /t/", {"a": "1", "b": "2", "c": "3"}, {"t/a": "1", "t/b": "2", "t/c": None}),
    ("copy wildcard directories", "COPY d* /t/", {"d1/x": "1", "d2/y": "2"}, {"t/x": "1", "t/y": "2"}),
    ("copy json form", 'COPY ["a b", "/c d"]', {"a b": "1"}, {"c d": "1"}),
    ("copy with variable", "ARG N=a\nENV D=/t\nCOPY $N ${D}/", {"a": "1"}, {"t/a": "1"}),
    ("copy overwrites", "RUN echo old > /a\nCOPY a /a", {"a": "new"}, {"a": "new"}),
    ("copy merges", "RUN mkdir /t && echo o > /t/old\nCOPY d /t", {"d/new": "n"}, {"t/old": "o\n", "t/new": "n"}),
    ("copy keeps links", "COPY d /t", {"d/f": "1", "d/l": "-> f"}, {"t/l": "-> f"}),
    ("copy follows its own source", "COPY l /t", {"f": "1", "l": "-> f"}, {"t": "1"}),
    ("copy through a linked directory", "COPY l/f /t", {"d/f": "1", "l": "-> d"}, {"t": "1"}),
    ("copy owner", "COPY --chown=5:6 a /a", {"a": "1"}, {"a": (5, 6)}),
    ("copy owner by name", "COPY --chown=nobody:nogroup a /a", {"a": "1"}, {"a": (65534, 65534)}),
    ("copy owner without group", "COPY --chown=7 a /a", {"a": "1"}, {"a": (7, 7)}),
    ("copy mode", "COPY --chmod=4711 a /a", {"a": "1"}, {"a": 0o4711}),
    ("copy symbolic mode", "COPY --chmod=u+x,go-r a /a", {"a": "1"}, {"a": 0o700}),
    ("copy makes parents of root", "COPY --chown=5:6 a /p/q/a", {"a": "1"}, {"p": (0, 0), "p/q": 0o755, "p/q/a": (5, 6)}),
    ("copy leaves existing parents", "RUN mkdir -m 750 /srv2 && chown 2000:2000 /srv2\nCOPY --link --chown=100:100 a /srv2/x/a", {"a": "1"},
     {"srv2": (2000, 2000), "srv2/x/a": (100, 100)}),
    ("copy leaves mode of existing directory", "RUN mkdir -m 700 /d\nCOPY d /d", {"d/a": "1"}, {"d": 0o700}),
    ("copy excludes", "COPY --exclude=*.md --exclude=sub/secret . /d/", {"a.md": "1", "b": "2", "sub/x.md": "3", "sub/secret": "4"},
     {"d/a.md": None, "d/b": "2", "d/sub/x.md": "3", "d/sub/secret": None}),
    ("copy excludes everywhere", "COPY --exclude=**/*.md . /d/", {"a.md": "1", "sub/x.md": "3", "sub/y": "4"}, {"d/a.md": None, "d/sub/x.md": None, "d/sub/y": "4"}),
    ("copy parents", "COPY --parents ./x/y/a.txt ./x/./y/b.txt /p/", {"x/y/a.txt": "a", "x/y/b.txt": "b"}, {"p/x/y/a.txt": "a", "p/y/b.txt": "b"}),
    ("copy parents of one file", "COPY --parents x/a /p", {"x/a": "1"}, {"p/x/a": "1"}),
    ("copy parents deep pattern", "COPY --parents **/b /p/", {"x/b": "1", "y/z/b": "2"}, {"p/x/b": "1", "p/y/z/b": "2"}),
    ("copy never unpacks zip", "ADD a.zip /d/", {"a.zip": "PK\x03\x04"}, {"d/a.zip": ...}),
    ("copy heredoc", "ENV W=ann\nCOPY <<E /a.txt\n\"$W\" '$W' \\${W} ${Z:-dflt}\nE", {}, {"a.txt": "\"ann\" 'ann' ${W} dflt\n"}),
    ("copy quoted heredoc", "ENV W=ann\nCOPY <<'E' /a.txt\n\"$W\" \\$\nE", {}, {"a.txt": '"$W" \\$\n'}),
    ("copy two heredocs", "COPY <<a.txt <<b.txt /d/\n1\na.txt\n2\nb.txt", {}, {"d/a.txt": "1\n", "d/b.txt": "2\n"}),
    ("copy heredoc with instruction words", "COPY <<E /f\nFROM x\nRUN y\nE", {}, {"f": "FROM x\nRUN y\n"}),
    ("copy heredoc mode and owner", "COPY --chmod=755 --chown=3:4 <<E /f\nx\nE", {}, {"f": 0o755}),
    ("run", "RUN echo $((1+1)) > /f", {}, {"f": "2\n"}),
    ("run json", 'RUN ["touch", "/a b"]', {}, {"a b": ""}),
    ("run continuation", "RUN echo a \\\n # comment\n b \\\n> /f", {}, {"f": "a b\n"}),
    ("run heredoc", "RUN <<E\necho one > /f\necho two >> /f\nE", {}, {"f": "one\ntwo\n"}),
    ("run heredoc variables are the shell's", "RUN <<E\nX=1\necho $X > /f\nE", {}, {"f": "1\n"}),
    ("run heredoc with interpreter", "RUN <<E\n#!/bin/cat\nhello\nE", {}, {}),
    ("run heredoc into a command", "RUN cat <<E > /f\nhi\nE", {}, {"f": "hi\n"}),
    ("run heredoc with words of the language", "RUN cat <<E > /r\nFROM x\nE", {}, {"r": "FROM x\n"}),
    ("run in workdir", "WORKDIR /w\nRUN pwd > f", {}, {"w/f": "/w\n"}),
    ("run as user", "USER nobody\nRUN id -u > /tmp/u", {}, {"tmp/u": "65534\n"}),
    ("run with own shell", 'SHELL ["/bin/sh", "-xc"]\nRUN echo $0 > /f', {}, {"f": ...}),
    ("run removes", "RUN echo 1 > /f\nRUN rm /f", {}, {"f": None}),
    ("run removes from the base", "RUN rm -r /home", {}, {"home": None}),
    ("run replaces a directory", "RUN mkdir /d && touch /d/a\nRUN rm -r /d && mkdir /d && touch /d/b", {}, {"d/a": None, "d/b": ""}),
    ("env reaches run", "ENV A=1\nRUN echo $A > /f", {}, {"f": "1\n"}),
    ("arg reaches run", "ARG A=1\nRUN echo $A > /f", {}, {"f": "1\n"}),
    ("env beats arg", "ARG V=a\nENV V=e\nRUN echo [$V] > /2", {}, {"2": "[e]\n"}),
    ("no capability is inheritable", "RUN grep CapInh /proc/self/status > /f", {}, {"f": "CapInh:\t0000000000000000\n"}),
    ("workdir adds up", "WORKDIR /a\nWORKDIR b\nWORKDIR c\nRUN pwd > /f", {}, {"f": "/a/b/c\n"}),
    ("workdir expands", "ENV V=x\nWORKDIR /$V/y\nRUN pwd > /f", {}, {"f": "/x/y\n"}),
    ("workdir is made", "WORKDIR /deep/er", {}, {"deep/er": 0o755}),
    ("workdir keeps what is there", "RUN mkdir -m 700 /d && chown 5:6 /d\nWORKDIR /d", {}, {"d": (5, 6)}),
    ("cache mount is not in the image", "RUN --mount=type=cache,target=/c touch /c/x /f", {}, {"f": "", "c": None}),
    ("tmpfs mount", "RUN --mount=type=tmpfs,target=/t touch /t/x && stat -f -c %T /t > /f", {}, {"f": "tmpfs\n", "t": None}),
    ("bind mount of the context", "RUN --mount=type=bind,target=/ctx cat /ctx/a > /f", {"a": "1"}, {"f": "1"}),
    ("bind mount is read-only", "RUN --mount=target=/ctx sh -c 'touch /ctx/x 2>/dev/null || echo ro > /f'", {"a": "1"}, {"f": "ro\n"}),
    ("bind mount that may be written", "RUN --mount=target=/ctx,rw sh -c 'echo 2 > /ctx/a; cat /ctx/a > /f'", {"a": "1"}, {"f": "2\n"}),
    ("secret that is not given", "RUN --mount=type=secret,id=nope sh -c 'ls /run/secrets 2>/dev/null; touch /f'", {}, {"f": ""}),
    ("network none", "RUN --network=none ls /sys/class/net > /f", {}, {"f": "lo\n"}),
    ("add archive", "ADD a.tar.gz /d/", {"a.tar.gz": "<tgz>"}, {"d/inside": "packed"}),
    ("add archive by content", "ADD data.bin /d/", {"data.bin": "<tar>"}, {"d/inside": "packed"}),
    ("add keeps an archive", "ADD --unpack=false a.tar.gz /d/", {"a.tar.gz": "<tgz>"}, {"d/a.tar.gz": ..., "d/inside": None}),
    ("copy never unpacks", "COPY a.tar.gz /d/", {"a.tar.gz": "<tgz>"}, {"d/a.tar.gz": ..., "d/inside": None}),
    ("add plain file", "ADD a /d/", {"a": "1"}, {"d/a": "1"}),
    ("dockerignore", "COPY . /d/", {".dockerignore": "*\n!data\ndata/file1\n", "x": "", "data/file1": "1", "data/file2": "2"},
     {"d/data/file2": "2", "d/data/file1": None, "d/x": None}),
    ("dockerignore may name the Dockerfile", "COPY . /d/", {".dockerignore": "Dockerfile\n.dockerignore\n", "x": "1"}, {"d/x": "1", "d/Dockerfile": None, "d/.dockerignore": None}),
    ("own dockerignore wins", "COPY . /d/", {".dockerignore": "x\n", "Dockerfile.dockerignore": "y\n", "x": "1", "y": "2"}, {"d/x": "1", "d/y": None}),
    ("modes and times are kept", "COPY a /a", {"a": "<exec>"}, {"a": 0o755}),
    ("crlf", "RUN echo a > /f\r\nRUN echo b >> /f\r\n", {}, {"f": "a\nb\n"}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "files", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_a_build_leaves(
    daemon: Daemon, tmp_path: Path, text: str, files: Files, expected: dict[str, object]
) -> None:
    top = lay(tmp_path / "context", {**files, "Dockerfile": f"FROM busybox\n{text}\n"})
    for name, content in files.items():
        if content in ("<tgz>", "<tar>"):
            (top / name).write_bytes(tar_of_one_file(content == "<tgz>"))
        elif content == "<exec>":
            (top / name).chmod(0o755)
    out = result(daemon, top)
    for name, wanted in expected.items():
        path = out / name
        if wanted is None:
            assert not os.path.lexists(path), name
        elif isinstance(wanted, tuple):
            assert (path.lstat().st_uid, path.lstat().st_gid) == wanted, name
        elif isinstance(wanted, int):
            assert path.lstat().st_mode & 0o7777 == wanted, name
        elif isinstance(wanted, str) and wanted.startswith("-> "):
            assert os.readlink(path) == wanted[3:]
        elif isinstance(wanted, str):
            assert path.read_text() == wanted, name
        else:
            assert path.exists(), name


STAGES: list[tuple[str, str, list[str], dict[str, str | None]]] = [
    ("copy from a stage", "FROM busybox AS one\nRUN echo 1 > /f\nFROM busybox\nCOPY --from=one /f /g", [], {"g": "1\n"}),
    ("copy from a number", "FROM busybox\nRUN echo 1 > /f\nFROM busybox\nCOPY --from=0 /f /g", [], {"g": "1\n"}),
    ("names are case-insensitive", "FROM busybox AS One\nRUN echo 1 > /f\nFROM busybox\nCOPY --from=ONE /f /g", [], {"g": "1\n"}),
    ("from a stage", "FROM busybox AS one\nRUN echo 1 > /f\nENV A=1\nFROM one\nRUN echo $A >> /f", [], {"f": "1\n1\n"}),
    ("from an image", "FROM scratch\nCOPY --from=busybox /bin/busybox /b", [], {"b": ...}),
    ("copy from keeps owners", "FROM busybox AS one\nRUN touch /f && chown 3:4 /f\nFROM busybox\nCOPY --from=one /f /g\nRUN stat -c %u:%g /g > /o", [], {"o": "3:4\n"}),
    ("unused stages are not built", "FROM busybox AS bad\nRUN exit 1\nFROM busybox\nRUN touch /f", [], {"f": ""}),
    ("target", "FROM busybox AS one\nRUN touch /one\nFROM busybox\nRUN touch /two", ["--target", "one"], {"one": "", "two": None}),
    ("global arg in from", "ARG T=latest\nFROM busybox:$T\nRUN echo [$T] > /1", [], {"1": "[]\n"}),
    ("global arg imported", "ARG V=d\nFROM busybox\nARG V\nRUN echo [$V] > /f", [], {"f": "[d]\n"}),
    ("arg ends with its stage", "FROM busybox AS a\nARG V=x\nFROM a\nRUN echo [${V:-none}] > /3", [], {"3": "[none]\n"}),
    ("build-arg beats default", "FROM busybox\nARG V=d\nRUN echo $V > /f", ["--build-arg", "V=9"], {"f": "9\n"}),
    ("build-arg of an ENV is nothing", "FROM busybox\nARG V=a\nENV V=e\nRUN echo [$V] > /f", ["--build-arg", "V=9"], {"f": "[e]\n"}),
    ("platform args", "FROM busybox\nARG TARGETARCH\nARG TARGETOS\nRUN echo $TARGETOS/$TARGETARCH > /f", [], {"f": "linux/amd64\n"}),
    ("arg default from another", "FROM busybox\nARG A=1\nARG B=${A}2\nRUN echo $B > /f", [], {"f": "12\n"}),
    ("several args", "FROM busybox\nARG A=1 B=2\nRUN echo $A$B > /f", [], {"f": "12\n"}),
    ("mount from a stage", "FROM busybox AS one\nRUN echo 1 > /f\nFROM busybox\nRUN --mount=from=one,source=/f,target=/m cat /m > /g", [], {"g": "1\n", "m": None}),
    ("secret", "FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s > /f", ["--secret", "id=s,env=MY_SECRET"], {"f": "hush", "run/secrets/s": None}),
    ("secret as a variable", "FROM busybox\nRUN --mount=type=secret,id=s,env=S echo $S > /f", ["--secret", "id=s,env=MY_SECRET"], {"f": "hush\n"}),
    ("secret with mode and owner", "FROM busybox\nRUN --mount=type=secret,id=s,target=/x,mode=0440,uid=5 stat -c %a:%u /x > /f", ["--secret", "id=s,env=MY_SECRET"], {"f": "440:5\n"}),
    ("insecure when allowed", "FROM busybox\nRUN --security=insecure grep CapEff /proc/self/status > /f", ["--allow", "security.insecure"], {"f": ...}),
    ("added host", "FROM busybox\nRUN grep 1.2.3.4 /etc/hosts > /f", ["--add-host", "x:1.2.3.4"], {"f": "1.2.3.4\tx\n"}),
    ("proxy without arg", "FROM busybox\nRUN echo $HTTP_PROXY > /f", ["--build-arg", "HTTP_PROXY=http://p"], {"f": "http://p\n"}),
    ("copy parents from a stage", "FROM busybox AS st\nRUN mkdir -p /out/a/bin /out/b/c/bin && touch /out/a/bin/x /out/b/c/bin/y /out/z\nFROM scratch\nCOPY --from=st --parents /out/./**/bin/ /\n", [], {"a/bin/x": "", "b/c/bin/y": "", "z": None}),
    ("three deep", "FROM busybox AS a\nRUN echo a > /a\nFROM a AS b\nRUN echo b > /b\nFROM b\nRUN cat /a /b > /c", [], {"c": "a\nb\n"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "options", "expected"), [case[1:] for case in STAGES], ids=[case[0] for case in STAGES]
)
def test_stages_and_options(
    daemon: Daemon,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    options: list[str],
    expected: dict[str, str | None],
) -> None:
    monkeypatch.setenv("MY_SECRET", "hush")
    out = result(daemon, lay(tmp_path / "context", {"Dockerfile": text + "\n"}), *options)
    for name, wanted in expected.items():
        if wanted is None:
            assert not os.path.lexists(out / name), name
        elif isinstance(wanted, str):
            assert (out / name).read_text() == wanted, name
        else:
            assert (out / name).exists(), name


ERRORS: list[tuple[str, str, Files, list[str], str]] = [
    ("no from", "RUN x", {}, [], "no build stage in current context"),
    ("empty", "", {}, [], "cannot be empty"),
    ("unknown instruction", "FROM busybox\nNOPE x", {}, [], "line 2: unknown instruction: NOPE"),
    ("missing source", "FROM busybox\nCOPY nope /x", {}, [], '"nope": not found'),
    ("missing wildcard", "FROM busybox\nCOPY *.nope /x", {}, [], '"*.nope": not found'),
    ("source outside", "FROM busybox\nCOPY ../../../etc/shadow /x", {}, [], "not found"),
    ("ignored source", "FROM busybox\nCOPY a /x", {"a": "", ".dockerignore": "a\n"}, [], '"a": not found'),
    ("several into a file", "FROM busybox\nCOPY a b /x", {"a": "", "b": ""}, [], "must be a directory and end with a /"),
    ("one argument", "FROM busybox\nCOPY a", {"a": ""}, [], "at least two arguments"),
    ("command fails", "FROM busybox\nRUN exit 3", {}, [], "returned a non-zero code: 3"),
    ("program is missing", 'FROM busybox\nRUN ["nope"]', {}, [], "executable file not found"),
    ("user is missing", "FROM busybox\nUSER nobodyatall\nRUN true", {}, [], "nobodyatall"),
    ("chown of a missing user", "FROM busybox\nCOPY --chown=nobodyatall a /a", {"a": ""}, [], "nobodyatall"),
    ("bad chmod", "FROM busybox\nCOPY --chmod=9 a /a", {"a": ""}, [], "invalid chmod parameter"),
    ("target is missing", "FROM busybox", {}, ["--target", "nope"], "target stage 'nope' could not be found"),
    ("stage name", "FROM busybox AS 1x", {}, [], "invalid name for build stage"),
    ("later stage", "FROM busybox\nCOPY --from=1 /a /b\nFROM busybox", {}, [], "not before this one"),
    ("own name", "FROM busybox AS a\nCOPY --from=a.invalid/x /a /b", {}, [], "a.invalid"),
    ("empty from", "ARG T\nFROM $T", {}, [], "should not be blank"),
    ("from with two words", "FROM busybox x", {}, [], "either one or three arguments"),
    ("bad arg in from", "FROM busybox:${T", {}, [], "missing '}'"),
    ("bad platform", "FROM --platform=a/b/c/d busybox", {}, [], "invalid platform"),
    ("required secret", "FROM busybox\nRUN --mount=type=secret,id=s,required=true true", {}, [], "secret s: not found"),
    ("required ssh", "FROM busybox\nRUN --mount=type=ssh,required=true true", {}, [], "unset ssh forward key default"),
    ("unknown mount type", "FROM busybox\nRUN --mount=type=nope,target=/x true", {}, [], "unsupported mount type 'nope'"),
    ("mount without target", "FROM busybox\nRUN --mount=type=cache true", {}, [], "target of a cache mount is missing"),
    ("unknown mount key", "FROM busybox\nRUN --mount=type=tmpfs,target=/x,nope=1 true", {}, [], "unexpected key 'nope'"),
    ("mount of a missing source", "FROM busybox\nRUN --mount=source=nope,target=/x true", {}, [], '"nope": not found'),
    ("insecure without leave", "FROM busybox\nRUN --security=insecure true", {}, [], "security.insecure is not allowed"),
    ("host network without leave", "FROM busybox\nRUN --network=host true", {}, [], "network.host is not allowed"),
    ("unknown network", "FROM busybox\nRUN --network=nope true", {}, [], "unsupported network mode"),
    ("checksum of a local file", "FROM busybox\nADD --checksum=sha256:00 a /a", {"a": ""}, [], "checksum can't be specified"),
    ("damaged archive", "FROM busybox\nADD a.tar /d/", {"a.tar": "<cut>"}, [], "damaged"),
    ("bad ignore pattern", "FROM busybox\nCOPY . /x", {".dockerignore": "[\n"}, [], "syntax error in pattern"),
    ("chained onbuild", "FROM busybox\nONBUILD ONBUILD RUN x", {}, [], "isn't allowed"),
    ("file over a directory", "FROM busybox\nRUN mkdir /d /d/a\nCOPY a /d/", {"a": "1"}, [], "cannot replace to directory"),
    ("directory over a file", "FROM busybox\nRUN touch /f\nCOPY d /f", {"d/x": "1"}, [], "/f"),
    ("missing Dockerfile", "", {}, ["-f", "nope"], "nope"),
    ("open quote", 'FROM busybox\nENV A="x', {}, [], "line 2"),
    ("workdir is a file", "FROM busybox\nRUN touch /f\nWORKDIR /f", {}, [], "no directory"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "files", "options", "message"), [case[1:] for case in ERRORS], ids=[case[0] for case in ERRORS]
)
def test_what_goes_wrong(
    daemon: Daemon, tmp_path: Path, text: str, files: Files, options: list[str], message: str
) -> None:
    top = lay(tmp_path / "context", {**files, "Dockerfile": text + "\n"})
    if files.get("a.tar") == "<cut>":
        (top / "a.tar").write_bytes(tar_of_one_file(False)[:700])
    done = build(daemon, top, *options)
    assert done.returncode == 1
    assert message in done.stderr.decode(), done.stdout.decode() + done.stderr.decode()
    assert not list((daemon.root / "data/builds/work").iterdir())
    assert not list((daemon.root / "data/images/tmp").iterdir())


def test_the_configuration(daemon: Daemon, tmp_path: Path) -> None:
    text = """FROM busybox
LABEL a=1
ENV A=b
EXPOSE 80
VOLUME /v
USER nobody
WORKDIR /w
ENTRYPOINT ["e"]
CMD ["c"]
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
SHELL ["/bin/sh", "-e", "-c"]
ONBUILD RUN x
MAINTAINER me
"""
    found = image(daemon, lay(tmp_path / "c", {"Dockerfile": text}), "--label", "b=2", "-t", "configured:1")
    config = found["Config"]
    assert config["Labels"] == {"a": "1", "b": "2"}
    assert "A=b" in config["Env"]
    assert (config["User"], config["WorkingDir"], config["Entrypoint"], config["Cmd"]) == ("nobody", "/w", ["e"], ["c"])
    assert (config["ExposedPorts"], config["Volumes"], config["StopSignal"]) == ({"80/tcp": {}}, {"/v": {}}, "SIGINT")
    assert config["Healthcheck"] == {"Test": ["CMD-SHELL", "true"], "Interval": 5 * 10**9}
    assert (config["Shell"], config["OnBuild"], found["Author"]) == (["/bin/sh", "-e", "-c"], ["RUN x"], "me")
    assert found["RepoTags"] == ["configured:1"]
    daemon.ok("rmi", "configured:1")


def test_onbuild(daemon: Daemon, tmp_path: Path) -> None:
    """P015: the trigger waits for the stage it copies from; the child has none; a grandchild runs none."""
    base = lay(
        tmp_path / "b", {"Dockerfile": "FROM busybox\nONBUILD COPY --from=maker /out /out\nONBUILD RUN cat /out/v\n"}
    )
    image(daemon, base, "-t", "onbuild:1")
    text = "FROM busybox AS maker\nRUN sleep 0.5; mkdir /out; echo made > /out/v\nFROM onbuild:1\n"
    child = image(daemon, lay(tmp_path / "c", {"Dockerfile": text}), "-t", "child:1")
    assert "OnBuild" not in child["Config"]
    assert daemon.ok("run", "--rm", "--network", "none", "child:1", "cat", "/out/v") == "made\n"
    image(daemon, lay(tmp_path / "g", {"Dockerfile": "FROM child:1\nRUN touch /x\n"}))
    daemon.ok("rmi", "child:1", "onbuild:1")


def _cached(done: subprocess.CompletedProcess[bytes]) -> int:
    assert done.returncode == 0, done.stderr
    return done.stdout.count(b"Using cache")


def test_the_cache(daemon: Daemon, tmp_path: Path) -> None:
    text = "FROM busybox\nCOPY --exclude=*.log . /c/\nARG V=1\nRUN echo $V > /v\nRUN cat /proc/sys/kernel/random/uuid > /t\n"
    top = lay(
        tmp_path / "c", {"Dockerfile": text, "f": "1", "x.log": "1", ".dockerignore": "ignored\n", "ignored": "1"}
    )
    assert _cached(build(daemon, top)) == 0
    first = image(daemon, top)["Id"]
    assert image(daemon, top)["Id"] == first
    assert _cached(build(daemon, top)) == 3
    # What is excluded, ignored or only touched is not part of it (P010).
    (top / "x.log").write_text("2")
    (top / "ignored").write_text("2")
    os.utime(top / "f", (1, 1))
    assert _cached(build(daemon, top)) == 3
    (top / "f").write_text("2")
    assert _cached(build(daemon, top)) == 0
    assert _cached(build(daemon, top, "--build-arg", "V=2")) == 1
    (top / "f").chmod(0o755)
    assert _cached(build(daemon, top)) == 0
    assert _cached(build(daemon, top, "--no-cache")) == 0
    assert _cached(build(daemon, top)) == 3


def test_the_cache_of_one_stage_is_left_out(daemon: Daemon, tmp_path: Path) -> None:
    text = "FROM busybox AS a\nRUN cat /proc/sys/kernel/random/uuid > /a\nFROM busybox AS b\nRUN cat /proc/sys/kernel/random/uuid > /b\nFROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    top = lay(tmp_path / "c", {"Dockerfile": text})
    first = {name: (result(daemon, top) / name).read_text() for name in "ab"}
    out = result(daemon, top, "--no-cache-filter", "b")
    assert (out / "a").read_text() == first["a"]
    assert (out / "b").read_text() != first["b"]


def test_a_failed_step_is_not_cached_and_those_before_are(daemon: Daemon, tmp_path: Path) -> None:
    top = lay(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN echo before-failure > /f\nRUN false\n"})
    assert build(daemon, top).returncode == 1
    done = build(daemon, top)
    assert (done.returncode, done.stdout.count(b"Using cache")) == (1, 1)


def test_an_image_is_no_cache(daemon: Daemon, tmp_path: Path) -> None:
    """S028: an image whose history looks like the next step."""
    top = lay(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN echo real > /x\n"})
    daemon.ok("run", "--name", "fake", "--network", "none", "busybox", "sh", "-c", "echo fake > /x")
    daemon.ok("commit", "-m", "RUN /bin/sh -c echo real > /x", "fake", "poison:1")
    assert (result(daemon, top) / "x").read_text() == "real\n"
    daemon.ok("rm", "fake")
    daemon.ok("rmi", "poison:1")


def test_pruning(daemon: Daemon, tmp_path: Path) -> None:
    top = lay(
        tmp_path / "c",
        {"Dockerfile": "FROM busybox\nRUN dd if=/dev/zero of=/z bs=1M count=3 && echo 1 >> /z\nRUN touch /y\n"},
    )
    image(daemon, top, "-t", "kept:1")
    build(
        daemon,
        lay(tmp_path / "d", {"Dockerfile": "FROM busybox\nRUN head -c 3000000 /dev/urandom > /r\n"}),
        "-o",
        str(tmp_path / "o"),
    )
    assert daemon.http.call("GET", "/system/df")["BuildCache"]
    out = daemon.ok("builder", "prune", "-af")
    assert "Total reclaimed space: 3" in out or "MB" in out
    assert daemon.http.call("GET", "/system/df")["BuildCache"] == []
    # What an image has stays.
    assert daemon.ok("run", "--rm", "--network", "none", "kept:1", "ls", "/y") == "/y\n"
    daemon.ok("rmi", "kept:1")
    assert _cached(build(daemon, top)) == 0


def test_stages_run_side_by_side(daemon: Daemon, tmp_path: Path) -> None:
    stages = "".join(f"FROM busybox AS s{n}\nRUN sleep 1; echo {n}-{time.time_ns()} > /f\n" for n in range(4))
    text = stages + "FROM busybox\n" + "".join(f"COPY --from=s{n} /f /f{n}\n" for n in range(4))
    began = time.monotonic()
    result(daemon, lay(tmp_path / "c", {"Dockerfile": text}))
    assert time.monotonic() - began < 3


def test_reproducible(daemon: Daemon, tmp_path: Path) -> None:
    """P022: two builds without cache give one image; layers of the base stay as they are; directories are clamped too."""
    top = lay(
        tmp_path / "c", {"Dockerfile": "FROM busybox\nWORKDIR /w\nCOPY f /d/e/\nRUN touch /x && mkdir /y\n", "f": "1"}
    )
    found = []
    for _ in range(2):
        found.append(image(daemon, top, "--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=0"))
        time.sleep(1.1)
    assert found[0]["Id"] == found[1]["Id"]
    assert found[0]["Created"] == "1970-01-01T00:00:00Z"
    base = json.loads(daemon.ok("inspect", "busybox"))[0]
    assert found[0]["RootFS"]["Layers"][:1] == base["RootFS"]["Layers"]


def test_squash(daemon: Daemon, tmp_path: Path) -> None:
    text = "FROM busybox\nRUN echo 1 > /a; echo 1 > /b; mkdir /d; touch /d/x\nRUN rm /a; echo 2 > /b\nRUN rm -r /home /d; mkdir /d; touch /d/y\n"
    found = image(daemon, lay(tmp_path / "c", {"Dockerfile": text}), "--squash", "-t", "squashed:1")
    assert len(found["RootFS"]["Layers"]) == 2
    out = daemon.ok(
        "run", "--rm", "--network", "none", "squashed:1", "sh", "-c", "cat /b; ls /d; ls -d /a /home 2>/dev/null; true"
    )
    assert out == "2\ny\n"
    daemon.ok("rmi", "squashed:1")


def test_outputs(daemon: Daemon, tmp_path: Path) -> None:
    top = lay(tmp_path / "c", {"Dockerfile": "FROM scratch\nCOPY f /g\n", "f": "1"})
    done = build(daemon, top, "-o", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["g"]
    build(daemon, top, "-o", f"type=tar,dest={tmp_path}/x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == ["g"]
    assert build(daemon, top, "-o", f"type=oci,dest={tmp_path}/oci.tar", "-t", "out:1").returncode == 0
    with tarfile.open(tmp_path / "oci.tar") as tar:
        assert {"index.json", "oci-layout", "manifest.json"} <= set(tar.getnames())
    daemon.ok("rmi", "out:1")
    assert b"unknown output type" in build(daemon, top, "-o", "type=nope").stderr
    assert build(daemon, top, "--iidfile", str(tmp_path / "iid")).returncode == 0
    assert (tmp_path / "iid").read_text().startswith("sha256:")


def test_standard_input(daemon: Daemon, tmp_path: Path) -> None:
    done = daemon.sampan("build", "--network", "none", "-q", "-", input=b"FROM busybox\nRUN touch /x\n")
    assert done.stdout.startswith(b"sha256:")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in (("Dockerfile", b"FROM busybox\nCOPY f /f\n"), ("f", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert daemon.sampan("build", "--network", "none", "-q", "-", input=out.getvalue()).stdout.startswith(b"sha256:")
    top = lay(tmp_path / "c", {"f": "1"})
    done = daemon.sampan("build", "--network", "none", "-q", "-f", "-", str(top), input=b"FROM busybox\nCOPY f /f\n")
    assert done.stdout.startswith(b"sha256:")


def test_a_cache_mount_lasts(daemon: Daemon, tmp_path: Path) -> None:
    for number in range(2):
        text = f"FROM busybox\nRUN --mount=type=cache,id=lasting,target=/c echo {number} >> /c/x && cat /c/x > /f\n"
        out = result(daemon, lay(tmp_path / str(number) / "c", {"Dockerfile": text}))
    assert (out / "f").read_text() == "0\n1\n"


def test_a_locked_cache_mount(daemon: Daemon, tmp_path: Path) -> None:
    run = "RUN --mount=type=cache,id=lock,sharing=locked,target=/c test ! -e /c/busy && touch /c/busy && sleep 0.7 && rm /c/busy"
    text = f"FROM busybox AS a\n{run}\nFROM busybox AS b\n{run}; touch /b\nFROM busybox\nCOPY --from=a /bin/sh /a\nCOPY --from=b /b /b\n"
    result(daemon, lay(tmp_path / "c", {"Dockerfile": text}))


def test_a_build_ends_with_its_client(daemon: Daemon, tmp_path: Path) -> None:
    """P115"""
    top = lay(tmp_path / "c", {"Dockerfile": "FROM busybox\nRUN sleep 1234.5\n"})
    process = subprocess.Popen(
        ["sampan", "build", "--network", "none", str(top)], env=daemon.env, stdout=subprocess.PIPE
    )

    def sleeping() -> bool:
        return subprocess.run(["pgrep", "-f", "sleep 1234.5"], capture_output=True).returncode == 0

    eventually(sleeping)
    process.kill()
    process.wait()
    eventually(lambda: not sleeping())
    eventually(lambda: not list((daemon.root / "data/builds/work").iterdir()))


def test_the_inline_cache(daemon: Daemon, own_daemon: Daemon, tmp_path: Path) -> None:
    """--cache-to type=inline here, --cache-from on another engine."""
    text = "FROM busybox\nWORKDIR /w\nRUN cat /proc/sys/kernel/random/uuid > /u\nRUN touch /later\n"
    top = lay(tmp_path / "c", {"Dockerfile": text})
    made = image(daemon, top, "--cache-to", "type=inline", "-t", "inline:1")
    archive = daemon.sampan("save", "busybox", "inline:1").stdout
    own_daemon.sampan("rmi", "busybox")
    own_daemon.ok("load", input=archive)
    assert _cached(build(own_daemon, top)) == 0
    own_daemon.ok("builder", "prune", "-af")
    assert _cached(build(own_daemon, top, "--cache-from", "inline:1")) == 3
    again = image(own_daemon, top, "--cache-from", "type=registry,ref=inline:1")
    assert again["RootFS"]["Layers"] == made["RootFS"]["Layers"]
    done = build(own_daemon, top, "--cache-from", "127.0.0.1:1/no/such:1")
    assert (done.returncode, b"[Warning] --cache-from" in done.stdout) == (0, True)
    assert b"only type=inline" in build(own_daemon, top, "--cache-to", "type=local,dest=x").stderr
    daemon.ok("rmi", "inline:1")
