"""Flags, sizes, env files and templates of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.cli import options
from sampan.cli.flags import UsageError, parse
from sampan.cli.output import human
from sampan.cli.table import running


def request(*args: str) -> dict:
    values, rest = parse(running.RUN, list(args), interspersed=False)
    return options.request(values, rest[0], rest[1:])


def test_everything_after_the_image_is_the_command() -> None:
    body = request("-it", "--rm", "-e", "A=b", "img", "ls", "-l", "--rm=false")
    assert body["Cmd"] == ["ls", "-l", "--rm=false"]
    assert body["Tty"]
    assert body["OpenStdin"]
    assert body["HostConfig"]["AutoRemove"]


def test_boolean_values_and_joined_shorthands() -> None:
    body = request("--rm=false", "-uroot:adm", "-w/x", "-m", "64m", "img")
    assert body["HostConfig"]["AutoRemove"] is False
    assert (body["User"], body["WorkingDir"], body["HostConfig"]["Memory"]) == ("root:adm", "/x", 64 << 20)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--nope", "img"], "unknown flag: --nope"),
        (["-Z", "img"], "unknown shorthand flag: 'Z'"),
        (["--memory"], "flag needs an argument: --memory"),
        (["-m", "12q", "img"], "invalid size"),
        (["--rm=maybe", "img"], "not true or false"),
        (["--pids-limit", "x", "img"], "not a number"),
        (["--ulimit", "nofile", "img"], "invalid ulimit"),
        (["--mount", "type=bind,from=/x", "img"], "unexpected key 'from'"),
        (["--health-interval", "5", "img"], "invalid duration"),
    ],
)
def test_mistakes_are_named(args: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        request(*args)


def test_env_file_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P042: no quotes, no expansion; a bare name is the client's value or nothing."""
    monkeypatch.setenv("C", "from-client")
    monkeypatch.delenv("GONE", raising=False)
    file = tmp_path / "env"
    file.write_bytes(b'\xef\xbb\xbfA="x y"\r\nB=a#b\n#c\n  C\nGONE\nD=\nA=last\n')
    assert options.env_file(str(file)) == ['A="x y"', "B=a#b", "C=from-client", "D=", "A=last"]
    file.write_bytes(b"E F=1\n")
    with pytest.raises(UsageError, match="whitespaces"):
        options.env_file(str(file))
    file.write_bytes(b"E=\xff\n")
    with pytest.raises(UsageError, match="invalid utf8"):
        options.env_file(str(file))


@given(st.lists(st.text(max_size=12), max_size=8))
def test_any_command_line_parses_or_is_refused(args: list[str]) -> None:
    try:
        parse(running.RUN, args, interspersed=False)
    except UsageError:
        pass


def test_human_sizes() -> None:
    assert human(2140160) == "2.14MB"
    assert human(409600, 1024) == "400KiB"
