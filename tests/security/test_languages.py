"""What people and registries write: every text is read, or refused by the error that its reader names."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from sampan import matching, sizes
from sampan.api import json as api_json
from sampan.build import running, words
from sampan.build.build import Build
from sampan.build.configuring import CONFIGURE
from sampan.build.copying import changed_mode
from sampan.build.dockerfile import parse, trigger
from sampan.build.errors import BuildError
from sampan.build.fetching import is_git, is_url, parse_git
from sampan.build.model import Options, State
from sampan.build.patterns import parse_ignore
from sampan.build.plan import Plan
from sampan.cli import options as cli_options
from sampan.cli import ports as cli_ports
from sampan.cli.flags import UsageError
from sampan.engine import moments
from sampan.engine.errors import BadRequest
from sampan.engine.filters import reading
from sampan.engine.policy import model as policy
from sampan.images import signatures
from sampan.images.config import Execution, ImageConfig
from sampan.images.registry import auth, client
from sampan.images.registry.errors import RegistryError
from sampan.linux import seccomp
from sampan.oci import manifest, reference
from sampan.oci.manifest import Platform
from sampan.runtime import accounts
from sampan.runtime.errors import RuntimeFailure
from sampan.web.sessions import Sessions
from tests.security.fuzzing import bounded, fuzzed, mutated, refused_or, texts, values
from tests.support.dockerfiles import HOSTILE_DOCKERFILES

DIGEST = "sha256:" + "a" * 64
DOCKERFILES = [
    b"# syntax=docker/dockerfile:1\n# escape=`\nARG V=1\nFROM --platform=$BUILDPLATFORM alpine:$V AS one\nRUN x `\n y\n",
    b"FROM scratch\nENV A=1 B=\"$A ${C:-d}\" D='x'\nLABEL a=b\nEXPOSE 80/tcp 90-95/udp\nVOLUME [\"/a\", \"/b\"]\nUSER 1:2\nSTOPSIGNAL SIGTERM\n",
    b"FROM a\nCOPY --from=0 --chown=1:2 --chmod=u+x a b c/\nADD --checksum=sha256:00 https://x/y /z\nRUN <<-E cat <<'F'\n\ta\nE\nb\nF\n",
    b"FROM a\nRUN --mount=type=cache,target=/x,id=y,sharing=locked --mount=type=secret,id=s --network=none --security=sandbox echo\n",
    b"FROM a AS b\nHEALTHCHECK --interval=5s --timeout=1m30s --retries=3 CMD [\"x\"]\nONBUILD RUN x\nSHELL [\"a\"]\nCMD x\nENTRYPOINT [\"y\"]\n",
]  # fmt: skip
KEYWORDS = [b"FROM ", b"RUN ", b"COPY ", b"\nENV A=$A$A", b"<<E", b"<<-'E'", b"--mount=", b"--from=", b"ONBUILD ", b"${A:-", b"${A/a/", b"${A##", b"`", b"# escape=`\n"]  # fmt: skip


def state() -> State:
    args = {"V": "value", "E": "", "N": "a b"}
    return State("", [], Execution(env=("PATH=/bin", "A=before")), ImageConfig(), [], Platform("linux", "amd64"), args)


@fuzzed(mutated(DOCKERFILES, KEYWORDS), short=40)
def test_dockerfiles(data: bytes) -> None:
    refused_or(BuildError, configured, data)


def configured(data: bytes) -> State:
    """What a build makes of the instructions that run nothing, as Build does it."""
    parsed = parse(data)
    plan = Plan(parsed, Options(Platform("linux", "amd64")))
    now, build = state(), Build.__new__(Build)
    build._options, build._consumed, build._plan = Options(Platform("linux", "amd64")), set(), plan
    for instruction in parsed.instructions:
        if instruction.name in CONFIGURE:
            CONFIGURE[instruction.name](instruction, now, parsed.escape)
            now = build._configured(now, instruction)
        elif instruction.name == "ARG":
            build._parsed = parsed
            now = build._arg(now, instruction)
        elif instruction.name == "RUN":
            for mount in running.parse_mounts(instruction, now, parsed.escape):
                for name in ("uid", "gid", "mode"):
                    mount.number(name, 0, 8 if name == "mode" else 10)
                mount.size()
        elif instruction.name in ("COPY", "ADD"):
            changed_mode(0o644, instruction.flag("chmod"), False)
    return now


@pytest.mark.parametrize("what", HOSTILE_DOCKERFILES)
def test_hostile_dockerfiles_are_refused(what: str) -> None:
    with bounded(memory=192 << 20), pytest.raises(BuildError):
        configured(HOSTILE_DOCKERFILES[what])


@fuzzed(texts(["RUN x", "COPY a b", "ENV a=b", 'CMD ["a"]', "ONBUILD RUN x", "HEALTHCHECK CMD x"]))
def test_triggers(text: str) -> None:
    refused_or(BuildError, trigger, text)


@fuzzed(
    texts(
        ["$V", "${V:-d}", "${P##*/}", "${U//foo/X}", "'a' \"b$V\"", "${M:?needed}", r"a\ b"],
        ["${V:-", "${V/", "*", "?"],
    ),
    short=80,
)
def test_words(text: str) -> None:
    for read in (words.expand, words.expand_body, words.expand_list):
        refused_or(words.WordError, read, text, {"V": "value", "U": "foobar" * 50, "P": "/a/b.c"})
    parts = refused_or(words.WordError, words.split, text)
    if parts is not None:
        assert words.split(" ".join(parts)) == parts


@fuzzed(
    mutated([b"a\n!b\n**/c\n# x\n", b"/x/*.y\n[a-z]\n", b"a/../b\n\\!c\n"]),
    st.sampled_from(["a", "x/q.y", "b/c/d", "é"]),
    short=60,
)
def test_ignore_files(data: bytes, path: str) -> None:
    found = refused_or(BuildError, parse_ignore, data)
    if found is not None:
        assert found.hides(path) in (True, False)


@fuzzed(texts(["*.tar", "a?[b-d]", "**/x", r"\*", "[^a]"]), st.text(max_size=30))
def test_patterns(text: str, other: str) -> None:
    for compiled in (
        refused_or(matching.BadPattern, matching.path, text, True),
        refused_or(matching.BadPattern, matching.expression, text),
    ):
        if compiled is not None:
            compiled.matches(other)


@fuzzed(
    texts(
        [
            "https://h/x.git#ref:sub",
            "git@h:x.git",
            "git://h/x#:..",
            "ssh://a@b/c",
            "http://h/file",
            "http://[::1]/x.git",
        ]
    ),
    short=120,
)
def test_sources(text: str) -> None:
    def whole() -> None:
        if is_git(text):
            found = parse_git(text)
            assert not found.ref.startswith("-")
            assert not found.url.startswith("-")
            assert ".." not in found.subdir.split("/")
        is_url(text)

    refused_or(BuildError, whole)


@fuzzed(texts(["busybox", "a.b:5000/c/d:tag", f"x@{DIGEST}", f"localhost/x:1@{DIGEST}", "[::1]:1/x"]), short=80)
def test_references(text: str) -> None:
    found = refused_or(reference.BadReference, reference.parse, text)
    if found is not None:
        assert reference.parse(str(found)) == found
        assert reference.parse(found.familiar) == found
        assert ".." not in str(found).split("/")


def document(**more: Any) -> bytes:
    row = {
        "mediaType": manifest.OCI_LAYER,
        "digest": DIGEST,
        "size": 5,
        "urls": ["http://x"],
        "platform": {"os": "linux"},
    }
    return json.dumps(
        {"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, "config": row, "layers": [row], **more}
    ).encode()


MANIFESTS = [
    document(),
    document(manifests=[]),
    json.dumps({"schemaVersion": 2, "manifests": [{"digest": DIGEST, "size": 1}]}).encode(),
]


@fuzzed(
    mutated(MANIFESTS, [b'"layers": [', b'"manifests": [', b'"size": -1', DIGEST.encode()])
    | values(["schemaVersion", "layers", "manifests", "config", "digest", "size", "mediaType", "platform"], [2, DIGEST]).map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["", manifest.OCI_MANIFEST, manifest.OCI_INDEX, "text/html"]), short=100,
)  # fmt: skip
def test_manifests(data: bytes, kind: str) -> None:
    found = refused_or(manifest.BadManifest, manifest.parse, data, kind)
    if isinstance(found, manifest.Index):
        refused_or(manifest.BadManifest, manifest.choose, found, Platform("linux", "arm", "v" + "7" * 3))
    elif found is not None:
        assert all(
            0 <= row.size <= 1 << 40 and reference.is_digest(row.digest) for row in (found.config, *found.layers)
        )
    signatures.rows_of(data)


@fuzzed(texts(["linux/arm/v7", "arm64", "windows"]))
def test_platforms(text: str) -> None:
    refused_or(manifest.BadManifest, manifest.parse_platform, text)


@fuzzed(texts(['Bearer realm="https://a/t",service="s",scope="x"', 'Basic realm="a", Bearer realm="b\\"c"', "Basic"]))
def test_challenges(text: str) -> None:
    refused_or((), auth.challenges, text)


@fuzzed(mutated([b'{"token": "x", "expires_in": 60}', b'{"access_token": "y", "expires_in": 1e3}', b"[]"]) | values(["token", "expires_in"], ["t"]).map(lambda value: json.dumps(value).encode()), short=60)  # fmt: skip
def test_token_answers(data: bytes) -> None:
    found = refused_or(RegistryError, auth.token_of, data)
    assert found is None or found[1] >= 60


@fuzzed(
    values(["username", "password", "auth", "identitytoken"], ["YTpi", "YQ==", "/w==", "é"]).filter(
        lambda value: isinstance(value, dict)
    )
)
def test_credentials(value: Any) -> None:
    strings = {key: item for key, item in value.items() if isinstance(item, str)}
    refused_or(ValueError, auth.from_fields, strings)


@fuzzed(texts(["120", "Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 1 Jan 0001 00:00:00 +9999", "1.5"]), short=60)
def test_when_to_come_again(text: str) -> None:
    found = refused_or((), client._retry_after, text)
    assert found is not None
    assert found >= 0


POLICIES = [
    b'default = "vm"\nadmins = ["root", "ann"]\n[[tenant]]\nname = "a"\nusers = ["u"]\nmounts = ["/x"]\ntrusted = true\n',
    b'[[rule]]\nname = "r"\nisolation = "deny"\nimage = ["x/*"]\nprivileged = true\n[rule.except]\nuser = "u"\n',
    b'[[trust]]\ntenants = ["a", "b"]\n[[key]]\nname = "k"\nfile = "/k.pem"\n',
]  # fmt: skip


@fuzzed(
    mutated(POLICIES, [b"[]", b"{}", b"[[rule]]", b"default = []", b"name = 1", b"isolation = {}", b"= [[", b"\n"]),
    short=120,
)
def test_policies(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    found = refused_or(policy.PolicyError, policy.parse, text)
    if found is not None:
        found.notes()
        assert found.default in policy.STRICTNESS


@fuzzed(
    texts(['{"name": ["a"]}', '{"label": {"a=b": true}}', "null", '{"x": [1]}'])
    | values(["name", "label"]).map(json.dumps), short=60,
)  # fmt: skip
def test_filters(text: str) -> None:
    found = refused_or(BadRequest, reading.parse, text)
    assert found is None or all(isinstance(item, str) for items in found.values() for item in items)


@fuzzed(mutated([b'{"a": [1, "\\ud800", {"b": null}]}', b"[1e5]", b'"\\u0000"']), short=60)
def test_bodies(data: bytes) -> None:
    refused_or(BadRequest, api_json.decode, data, "what")


@fuzzed(texts(["10m", "1.5h3s", "2026-11-28T10:00:00.5+02:00", "1700000000.123456789", "2026-01-01"]), short=80)
def test_moments(text: str) -> None:
    refused_or(BadRequest, moments.moment, text, 0.0)


@fuzzed(texts(["64m", "1.5g", "2GiB", "-1", "10", "infg", "nan"]), short=80)
def test_sizes(text: str) -> None:
    refused_or(ValueError, sizes.parse, text)


@fuzzed(texts(["1h2m3.5s", "100ms", "5us", "0"]), short=40)
def test_durations(text: str) -> None:
    refused_or(UsageError, cli_options.duration, text, "flag")


@fuzzed(texts(["127.0.0.1:80:90/udp", "[::1]:80:90", "1000-1010:2000-2010", "80"], [":", "-", "/tcp"]), short=60)
def test_ports(text: str) -> None:
    refused_or(UsageError, cli_ports.bindings, [text])


@fuzzed(mutated([b"root:x:0:0::/root:/bin/sh\nann:x:1000:100:A:/home/ann:/bin/sh\n"], [b"root", b"ann", b"4294967296", b"-1", b"+0", b" 0", b"::"]),
        mutated([b"root:x:0:\nstaff:x:50:ann,bob\n"], [b"staff", b"4294967295"]),
        texts(["ann", "1000", "ann:staff", "0:50", "", "1000:1000"], ["-1", "4294967296"]), short=80)  # fmt: skip
def test_users_of_an_image(passwd: bytes, group: bytes, user: str) -> None:

    directory = _etc(passwd, group)
    rootfd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
    try:
        found = refused_or(RuntimeFailure, accounts.resolve, rootfd, user, ("staff",))
        if found is not None:
            assert all(0 <= number < 1 << 31 for number in (found.uid, found.gid, *found.groups))
            if found.uid == 0:  # only for those who asked for it, or whom the file says to be 0
                name = user.partition(":")[0]
                assert name in ("", "0") or name.isdecimal() or any(
                    line.split(":")[0] == name for line in passwd.decode(errors="surrogateescape").splitlines()
                )  # fmt: skip
    finally:
        os.close(rootfd)


_ROOTS: list[str] = []


def _etc(passwd: bytes, group: bytes) -> str:
    Path(_ROOTS[0], "etc/passwd").write_bytes(passwd)
    Path(_ROOTS[0], "etc/group").write_bytes(group)
    return _ROOTS[0]


@pytest.fixture(autouse=True, scope="module")
def _root(tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("root")
    (top / "etc").mkdir()
    _ROOTS.append(str(top))


@fuzzed(values(["defaultAction", "architectures", "syscalls", "names", "action", "args", "index", "value", "valueTwo", "op", "flags", "errnoRet"],
               ["SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW", "SCMP_ARCH_X86_64", "read", "socket", "SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ", 5], 20), short=60)  # fmt: skip
def test_seccomp_sections(value: Any) -> None:
    if isinstance(value, dict):
        refused_or(
            (seccomp.SeccompError, KeyError, TypeError, AttributeError),
            seccomp.compile_filter,
            {"defaultAction": "SCMP_ACT_ERRNO", **value},
        )


@fuzzed(st.text(max_size=80))
def test_keys_of_the_page(text: str) -> None:
    sessions = Sessions()
    key = sessions.redeem(sessions.offer("ann"))
    assert key is not None
    assert sessions.user(key) == "ann"
    for guess in (text, key + text, text + key, key[: len(text)], key.swapcase()):
        if guess != key:
            assert sessions.user(guess) is None
        assert sessions.redeem(guess) is None
