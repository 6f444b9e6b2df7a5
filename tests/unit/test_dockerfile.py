"""The Dockerfile language: words, the parser, patterns, settings; each case from the reference or a public thread."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sampan.build import words
from sampan.build.configuring import CONFIGURE
from sampan.build.copying import changed_mode
from sampan.build.dockerfile import Instruction, parse
from sampan.build.errors import BuildError
from sampan.build.fetching import check_digest, is_git, is_url, parse_git
from sampan.build.model import State
from sampan.build.patterns import Ignore, compile_pattern, parse_ignore
from sampan.images.config import Execution, ImageConfig, members
from sampan.oci.manifest import Platform

ENV = {"V": "value", "E": "", "P": "/usr/lib/x.tar.gz", "N": "a b", "U": "foobar_foo"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$V", "value"),
        ("${V}", "value"),
        ("${V}_x", "value_x"),
        ("$V_x", ""),
        ("pre$V/post", "prevalue/post"),
        ("$MISSING", ""),
        (r"\$V", "$V"),
        (r"\${V}", "${V}"),
        ("'$V'", "$V"),
        ('"$V"', "value"),
        ('"it\'s $V"', "it's value"),
        (r'"x\"y"', 'x"y'),
        (r'"a\$V"', "a$V"),
        (r'"a\nb"', r"a\nb"),
        (r"a\ b", "a b"),
        ("a'b c'd", "ab cd"),
        ("${V:-d}", "value"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${M:-d}", "d"),
        ("${M-d}", "d"),
        ("${V:+x}", "x"),
        ("${E:+x}", ""),
        ("${E+x}", "x"),
        ("${M+x}", ""),
        ("${M:-${V}}", "value"),
        ("${M:-$V$V}", "valuevalue"),
        ("${M:-'q q'}", "q q"),
        ("${V:?no}", "value"),
        ("${P#*/}", "usr/lib/x.tar.gz"),
        ("${P##*/}", "x.tar.gz"),
        ("${P%.*}", "/usr/lib/x.tar"),
        ("${P%%.*}", "/usr/lib/x"),
        ("${P#/nothing}", "/usr/lib/x.tar.gz"),
        ("${V#?}", "alue"),
        ("${U/foo/X}", "Xbar_foo"),
        ("${U//foo/X}", "Xbar_X"),
        ("${U/o*/-}", "f-"),
        ("${U//nothing/X}", "foobar_foo"),
        ("${M:=d}", None),
        ("${V", None),
        ("${}", None),
        ("${M:?needed}", None),
        ("${M?needed}", None),
        ("${E:?empty}", None),
        ("'open", None),
        ('"open', None),
        ("$", "$"),
        ("a$", "a$"),
        ("$$", ""),
        ("end\\", "end\\"),
    ],
)
def test_words(word: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(words.WordError):
            words.expand(word, ENV)
    else:
        assert words.expand(word, ENV) == expected


def test_the_backtick_escape() -> None:
    assert words.expand(r"C:\dir\$V", ENV, "`") == r"C:\dir\value"
    assert words.expand("`$V", ENV, "`") == "$V"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b  c", ["a", "b", "c"]),
        ("'a b' c", ["'a b'", "c"]),
        (r"a\ b c", [r"a\ b", "c"]),
        ('x="a b" y', ['x="a b"', "y"]),
        ("", []),
        ("\ta\t", ["a"]),
    ],
)
def test_splitting(text: str, expected: list[str]) -> None:
    assert words.split(text) == expected


def test_heredoc_bodies() -> None:
    """P001"""
    body = "\"$V\" '$V' ${V} \\$V ${M:-dflt} \\n\n"
    assert words.expand_body(body, ENV) == "\"value\" 'value' value $V dflt \\n\n"


@given(st.text(max_size=60))
def test_words_never_crash(text: str) -> None:
    try:
        words.expand(text, ENV)
        words.split(text)
        words.expand_body(text, ENV)
    except words.WordError:
        pass


def names(text: str) -> list[str]:
    return [f"{i.name} {i.text}" for i in parse(text.encode()).instructions]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a", ["FROM a"]),
        ("from a", ["FROM a"]),
        ("\ufeffFROM a", ["FROM a"]),
        ("FROM a\r\nRUN x\r\n", ["FROM a", "RUN x"]),
        ("\n\n  FROM a  \n", ["FROM a"]),
        ("# comment\nFROM a", ["FROM a"]),
        ("   # comment\nFROM a", ["FROM a"]),
        ("FROM a\nRUN echo # no comment", ["FROM a", "RUN echo # no comment"]),
        ("FROM a\nRUN x \\\n  y", ["FROM a", "RUN x   y"]),
        ("FROM a\nRUN x \\  \n y", ["FROM a", "RUN x  y"]),
        ("FROM a\nRUN x \\\n# gone\n y", ["FROM a", "RUN x  y"]),
        ("FROM a\nRUN x \\\n\n y", ["FROM a", "RUN x  y"]),
        ("FROM a\nRUN x \\", ["FROM a", "RUN x"]),
        ("FROM\ta", ["FROM a"]),
        ("# escape=`\nFROM a\nRUN x `\n y", ["FROM a", "RUN x  y"]),
        ("# Escape = `\nFROM a\nWORKDIR /w\\x", ["FROM a", "WORKDIR /w\\x"]),
        ("# hello\n# escape=`\nFROM a\nRUN x \\\n y", ["FROM a", "RUN x  y"]),
        ("\n# escape=`\nFROM a\nRUN x \\\n y", ["FROM a", "RUN x  y"]),
        ("#syntax=docker/dockerfile:1\n#escape=`\nFROM a\nRUN x `\n y", ["FROM a", "RUN x  y"]),
        ("# unknown=1\n# escape=`\nFROM a\nRUN x `", ["FROM a", "RUN x `"]),
    ],
)
def test_lines(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be empty"),
        ("# only\n", "cannot be empty"),
        ("FRMO a", r"line 1: unknown instruction: FRMO \(did you mean FROM\?\)"),
        ("FROM a\nXYZ b", "line 2: unknown instruction: XYZ"),
        ("FROM a\nRUN", "line 2: RUN requires at least one argument"),
        ("FROM a\nWORKDIR", "line 2: WORKDIR requires exactly one argument"),
        ("# escape=`\n# escape=\\\nFROM a", "line 2: only one escape parser directive"),
        ("# escape=x\nFROM a", "invalid escape token 'x'"),
        ("FROM a\nCOPY --frm=x a b", "line 2: unknown flag: frm"),
        ("FROM a\nCOPY --from a b", "requires a value"),
        ("FROM a\nCOPY --from=x --from=y a b", "duplicate flag specified: from"),
        ("FROM a\nCOPY --link=maybe a b", None),
        ("FROM a\nRUN <<E\nnever ends", "line 2: unterminated heredoc 'E'"),
        ("FROM a\nSHELL /bin/sh -c", "SHELL requires the arguments to be in JSON form"),
        (b"FROM a\nRUN \xff", "not UTF-8"),
    ],
)
def test_bad_files(text: str | bytes, message: str | None) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    if message is None:
        with pytest.raises(BuildError, match="boolean"):
            parse(data).instructions[1].on("link")
        return
    with pytest.raises(BuildError, match=message):
        parse(data)


@pytest.mark.parametrize(
    ("line", "flags", "text", "as_json"),
    [
        ('CMD ["a", "b"]', {}, '["a", "b"]', ["a", "b"]),
        ("CMD ['a']", {}, "['a']", None),
        ("CMD [a", {}, "[a", None),
        ("CMD []", {}, "[]", []),
        ('CMD ["a", 1]', {}, '["a", 1]', None),
        ("COPY --from=x --chown=1:2 a b", {"from": ["x"], "chown": ["1:2"]}, "a b", None),
        ("COPY --link a b", {"link": [""]}, "a b", None),
        ('COPY ["a b", "c"]', {}, '["a b", "c"]', ["a b", "c"]),
        ("COPY --exclude=x --exclude=y a b", {"exclude": ["x", "y"]}, "a b", None),
        (
            "RUN --mount=type=cache,target=/x --network=none x",
            {"mount": ["type=cache,target=/x"], "network": ["none"]},
            "x",
            None,
        ),
        ("RUN --mount=type=bind,source='a b',target=/x y", {"mount": ["type=bind,source='a b',target=/x"]}, "y", None),
        ("RUN -- --flag", {}, "--flag", None),
        ("HEALTHCHECK --interval=5s CMD x", {"interval": ["5s"]}, "CMD x", None),
        ("FROM --platform=linux/arm64 a AS b", {"platform": ["linux/arm64"]}, "a AS b", None),
    ],
)
def test_flags_and_forms(line: str, flags: dict[str, list[str]], text: str, as_json: list[str] | None) -> None:
    made = parse(f"FROM x\n{line}".encode()).instructions[1]
    assert (made.flags, made.text, made.json) == (flags, text, as_json)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("RUN <<E\nFROM x\nE", [("E", "FROM x\n", True)]),
        ("RUN <<-E\n\t\ta\n\tE", [("E", "a\n", True)]),
        ("RUN <<'E'\n$x\nE", [("E", "$x\n", False)]),
        ('RUN <<"E"\n$x\nE', [("E", "$x\n", False)]),
        ("COPY <<a <<b /d/\n1\na\n2\nb", [("a", "1\n", True), ("b", "2\n", True)]),
        ("RUN cat <<E > /x\ny\nE", [("E", "y\n", True)]),
        ("RUN <<E\n# kept\n\nline \\\nE", [("E", "# kept\n\nline \\\n", True)]),
        ("RUN echo 1 <<< x", []),
        ("RUN <<E\nE", [("E", "", True)]),
    ],
)
def test_heredocs(text: str, expected: list[tuple[str, str, bool]]) -> None:
    """P001, P002"""
    made = parse(f"FROM x\n{text}\nUSER u".encode()).instructions
    assert [(doc.name, doc.content, doc.expand) for doc in made[1].heredocs] == expected
    assert made[2].name == "USER"


def test_a_very_long_line_is_parsed() -> None:
    """P024"""
    assert len(parse(b"FROM a\nRUN " + b"x" * (20 << 20)).instructions[1].text) == 20 << 20


@given(st.text(max_size=200))
def test_the_parser_never_crashes(text: str) -> None:
    try:
        parse(text.encode("utf-8", "surrogatepass"))
    except BuildError:
        pass


KEYWORDS = st.sampled_from(
    [
        "FROM",
        "RUN",
        "COPY",
        "ENV",
        "ARG",
        "ONBUILD",
        "<<E",
        "E",
        "\\",
        "`",
        "#",
        "# escape=`",
        "--from=",
        "[",
        '"',
        "'",
        "$x",
        "${",
        "\n",
        " ",
        "=",
        "AS",
        "HEALTHCHECK",
        "NONE",
        "CMD",
    ]
)


@given(st.lists(KEYWORDS, max_size=40).map("".join))
def test_the_parser_and_the_settings_never_crash(text: str) -> None:
    try:
        parsed = parse(text.encode())
        state = new_state()
        for instruction in parsed.instructions:
            if instruction.name in CONFIGURE:
                CONFIGURE[instruction.name](instruction, state, parsed.escape)
    except BuildError:
        pass


def new_state(**config: Any) -> State:
    return State(
        "",
        [],
        replace(Execution(env=("PATH=/bin", "A=before")), **config),
        ImageConfig(),
        [],
        Platform("linux", "amd64"),
        {"ARG1": "arg", "A": "arg-a"},
    )


def configure(line: str, **config: Any) -> dict[str, Any]:
    state = new_state(**config)
    instruction = parse(f"FROM x\n{line}".encode()).instructions[1]
    CONFIGURE[instruction.name](instruction, state, "\\")
    return {**members(state.config), **members(state.image)}


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("ENV B=1", "Env", ["PATH=/bin", "A=before", "B=1"]),
        ("ENV A=2 B=$A", "Env", ["PATH=/bin", "A=2", "B=before"]),
        ("ENV B one two", "Env", ["PATH=/bin", "A=before", "B=one two"]),
        ("ENV B=$ARG1", "Env", ["PATH=/bin", "A=before", "B=arg"]),
        (r'ENV B="x\"y" C=a\ b D=' + "'$A'", "Env", ["PATH=/bin", "A=before", 'B=x"y', "C=a b", "D=$A"]),
        (r'ENV E="${F:-d}" G=\$A', "Env", ["PATH=/bin", "A=before", "E=d", "G=$A"]),
        ("ENV X=", "Env", ["PATH=/bin", "A=before", "X="]),
        ("LABEL a=1 b='two words'", "Labels", {"a": "1", "b": "two words"}),
        ('LABEL "com.x y"="z"', "Labels", {"com.x y": "z"}),
        ("LABEL multi.$A=$A", "Labels", {"multi.before": "before"}),
        ("CMD echo $A", "Cmd", ["/bin/sh", "-c", "echo $A"]),
        ('CMD ["echo", "$A"]', "Cmd", ["echo", "$A"]),
        ("CMD ['echo']", "Cmd", ["/bin/sh", "-c", "['echo']"]),
        ('ENTRYPOINT ["x"]', "Entrypoint", ["x"]),
        ("ENTRYPOINT x y", "Entrypoint", ["/bin/sh", "-c", "x y"]),
        ("USER $ARG1:$A", "User", "arg:before"),
        ("EXPOSE 80 443/udp", "ExposedPorts", {"80/tcp": {}, "443/udp": {}}),
        ("EXPOSE 7000-7002", "ExposedPorts", {"7000/tcp": {}, "7001/tcp": {}, "7002/tcp": {}}),
        ("EXPOSE 80/TCP", "ExposedPorts", {"80/tcp": {}}),
        ('VOLUME ["/a", "/b c"]', "Volumes", {"/a": {}, "/b c": {}}),
        ("VOLUME /a /$A", "Volumes", {"/a": {}, "/before": {}}),
        ("STOPSIGNAL SIGTERM", "StopSignal", "SIGTERM"),
        ("STOPSIGNAL 9", "StopSignal", "9"),
        ('SHELL ["/bin/bash", "-c"]', "Shell", ["/bin/bash", "-c"]),
        ("MAINTAINER me <x@y>", "author", "me <x@y>"),
        ("ONBUILD RUN x", "OnBuild", ["RUN x"]),
        ("ONBUILD COPY . /x", "OnBuild", ["COPY . /x"]),
        ("HEALTHCHECK NONE", "Healthcheck", {"Test": ["NONE"]}),
        ("HEALTHCHECK CMD x y", "Healthcheck", {"Test": ["CMD-SHELL", "x y"]}),
        ('HEALTHCHECK --interval=1m30s --retries=2 --timeout=5s --start-period=1h CMD ["x"]', "Healthcheck",
         {"Test": ["CMD", "x"], "Interval": 90 * 10**9, "Timeout": 5 * 10**9, "StartPeriod": 3600 * 10**9, "Retries": 2}),
    ],
)  # fmt: skip
def test_settings(line: str, key: str, value: object) -> None:
    assert configure(line)[key] == value


def test_settings_that_depend_on_others() -> None:
    assert "Cmd" not in configure('ENTRYPOINT ["x"]', cmd=("base",))
    assert configure("CMD x", shell=("/b", "-x"))["Cmd"] == ["/b", "-x", "x"]
    assert configure("EXPOSE 80", exposed_ports={"22/tcp": {}})["ExposedPorts"] == {"22/tcp": {}, "80/tcp": {}}
    assert configure("ENV A=new")["Env"] == ["PATH=/bin", "A=new"]


@pytest.mark.parametrize(
    "line",
    [
        "ENV A",
        "ENV A=1 B",
        "ENV =x",
        'ENV A="open',
        "LABEL a",
        "USER a b",
        "USER $NOTHING",
        "EXPOSE 0",
        "EXPOSE 70000",
        "EXPOSE x",
        "EXPOSE 80/icmp",
        "EXPOSE 90-80",
        "STOPSIGNAL SIGNOPE",
        "STOPSIGNAL 9x",
        "SHELL []",
        "ONBUILD ONBUILD RUN x",
        "ONBUILD FROM x",
        "ONBUILD NOPE x",
        "HEALTHCHECK NOPE",
        "HEALTHCHECK CMD",
        "HEALTHCHECK NONE x",
        "HEALTHCHECK --interval=x CMD y",
        "HEALTHCHECK --interval=1us CMD y",
        "HEALTHCHECK --retries=-1 CMD y",
        "VOLUME $NOTHING",
    ],
)
def test_settings_that_are_wrong(line: str) -> None:
    with pytest.raises(BuildError, match="line 2"):
        configure(line)


@pytest.mark.parametrize(
    ("lines", "hidden", "shown"),
    [
        (["*", "!data", "data/file1"], ["x", "data/file1", "other/y"], ["data", "data/file2"]),
        (["ignored/*", "!ignored/*/"], [], ["ignored/a", "ignored/d/x"]),
        (["*.md", "!README.md"], ["a.md"], ["README.md", "sub/a.md"]),
        (["**/*.md"], ["a.md", "sub/deep/a.md"], ["a.txt"]),
        (["*/temp*"], ["a/temp", "a/tempx/y"], ["temp", "a/b/temp"]),
        (["*/*/temp*"], ["a/b/temp1"], ["a/temp"]),
        (["temp?"], ["tempa", "tempb/x"], ["temp", "tempab"]),
        (["/foo/bar"], ["foo/bar"], ["x/foo/bar"]),
        (["foo/"], ["foo", "foo/x"], ["foox"]),
        (["# comment", " "], [], ["# comment", "a"]),
        (["!a", "a"], ["a"], []),
        (["a", "!a/b"], ["a", "a/c"], ["a/b"]),
        (["**"], ["a", "a/b"], []),
        (["**", "!keep"], ["a"], ["keep", "keep/x"]),
        (["[a-c]x"], ["ax", "bx"], ["dx"]),
        (["[^a]x"], ["bx"], ["ax"]),
        ([r"\*"], ["*"], ["a"]),
        (["./a/../b"], ["b"], ["a"]),
        (["a.b"], ["a.b"], ["axb"]),
        (["**/node_modules"], ["node_modules", "x/node_modules/y"], ["x/node_modulesx"]),
    ],
)
def test_ignoring(lines: list[str], hidden: list[str], shown: list[str]) -> None:
    """P009"""
    ignore = parse_ignore("\n".join(lines).encode())
    assert [path for path in hidden if not ignore.hides(path)] == []
    assert [path for path in shown if ignore.hides(path)] == []


@pytest.mark.parametrize("pattern", ["[", "a[b", "[]", "\\"])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(BuildError, match="pattern"):
        Ignore([pattern])


@given(st.text(st.sampled_from("ab*?[]^-!\\/."), max_size=12), st.text(st.sampled_from("ab/"), max_size=8))
def test_patterns_never_crash(pattern: str, path: str) -> None:
    try:
        compile_pattern(pattern).matches(path)
    except BuildError:
        pass


@pytest.mark.parametrize(
    ("mode", "text", "directory", "expected"),
    [
        (0o644, "", False, 0o644),
        (0o644, "755", False, 0o755),
        (0o644, "0400", False, 0o400),
        (0o644, "u+x,go-w", False, 0o744),
        (0o666, "go-w", False, 0o644),
        (0o644, "a+X", False, 0o644),
        (0o644, "a+X", True, 0o755),
        (0o600, "g=u", False, None),
        (0o644, "u=rwx,g=rx,o=", False, 0o750),
        (0o755, "+t", False, 0o1755),
        (0o755, "u+s", False, 0o4755),
        (0o644, "9", False, None),
        (0o644, "rwx", False, None),
    ],
)
def test_modes(mode: int, text: str, directory: bool, expected: int | None) -> None:
    if expected is None:
        with pytest.raises(BuildError):
            changed_mode(mode, text, directory)
    else:
        assert changed_mode(mode, text, directory) == expected


@pytest.mark.parametrize(
    ("text", "git", "url"),
    [
        ("http://x/y.tar", False, True),
        ("https://x/y.git", True, False),
        ("https://x/y.git#main:sub", True, False),
        ("git@host:a/b.git", True, False),
        ("ssh://git@host/a", True, False),
        ("git://host/a", True, False),
        ("file", False, False),
        ("./a.git", False, False),
    ],
)
def test_what_is_elsewhere(text: str, git: bool, url: bool) -> None:
    assert (is_git(text), is_url(text)) == (git, url)


@pytest.mark.parametrize(
    "text", ["https://x/y.git#--upload-pack=evil", "https://x/y.git#main:../..", "https://x/y.git#a b", "-x@h:y"]
)
def test_git_references_that_are_attacks(text: str) -> None:
    """S024"""
    with pytest.raises(BuildError):
        parse_git(text)


def test_checksums() -> None:
    check_digest(io.BytesIO(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "x")
    for bad in ("sha256:00", "md5:00", "sha256:xyz", "nothing"):
        with pytest.raises(BuildError):
            check_digest(io.BytesIO(), bad, "x")


def test_onbuild_of_an_image_is_read_again() -> None:
    from sampan.build.dockerfile import trigger

    made = trigger('COPY --from=maker /a "/b c"')
    assert (made.name, made.flag("from"), made.text) == ("COPY", "maker", '/a "/b c"')
    assert json.dumps(made.json) == "null"
    assert isinstance(made, Instruction)
