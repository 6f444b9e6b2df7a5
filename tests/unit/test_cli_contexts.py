"""Contexts: kept in Docker's format, chosen by option, environment and `context use`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sampan.cli import contexts, globals, main
from sampan.cli.flags import UsageError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("SAMPAN_HOST", "unix:///set/by/the/test")  # so that what a test sets is taken away after it
    monkeypatch.delenv("SAMPAN_HOST")
    monkeypatch.setenv("SAMPAN_CONTEXT", "x")
    monkeypatch.delenv("SAMPAN_CONTEXT")
    contexts._followed.clear()
    return tmp_path


def run(*args: str) -> int:
    return main.dispatch(["context", *args])


def test_a_context_has_dockers_format(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("create", "--description", "of ours", "--docker", "host=unix:///a.sock", "one") == 0
    (path,) = config.glob("contexts/meta/*/meta.json")
    assert path.parent.name == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"  # sha256 of "one"
    assert json.loads(path.read_text()) == {
        "Name": "one", "Metadata": {"Description": "of ours"}, "Endpoints": {"docker": {"Host": "unix:///a.sock", "SkipTLSVerify": False}},
    }  # fmt: skip
    assert run("ls", "-q") == 0
    assert capsys.readouterr().out == "one\ndefault\none\n"


def test_which_one_is_in_use(config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run("create", "--docker", "host=unix:///a.sock", "one")
    run("create", "--docker", "from=one", "two")
    run("use", "one")
    assert contexts.current() == "one"
    main.choose_engine()
    assert os.environ["SAMPAN_HOST"] == "unix:///a.sock"
    assert contexts.current() == "one"
    assert run("rm", "one") == 1
    assert "is in use" in capsys.readouterr().err
    assert run("rm", "-f", "one") == 0
    contexts._followed.clear()
    del os.environ["SAMPAN_HOST"]
    assert contexts.current() == "default"
    assert globals.take(["--context", "two", "ps"]) == ["ps"]
    assert os.environ["SAMPAN_HOST"] == "unix:///a.sock"
    monkeypatch.setenv("SAMPAN_HOST", "unix:///b.sock")
    contexts._followed.clear()
    run("use", "two")
    assert "overrides" in capsys.readouterr().err
    main.choose_engine()
    assert os.environ["SAMPAN_HOST"] == "unix:///b.sock"


def test_export_and_import(config: Path, tmp_path: Path) -> None:
    run("create", "--description", "d", "--docker", "host=unix:///a.sock", "one")
    assert run("export", "one", f"{tmp_path}/x.tar") == 0
    assert run("export", "one", f"{tmp_path}/x.tar") == 1  # it is there
    assert run("import", "two", f"{tmp_path}/x.tar") == 0
    found = contexts.find("two")
    assert (found.name, found.description, found.host) == ("two", "d", "unix:///a.sock")
    (tmp_path / "bad").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(UsageError, match="no archive of a context"):
        run("import", "three", f"{tmp_path}/bad")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["create", "x"], "is invalid"),
        (["create", "default"], "reserved"),
        (["create", "--docker", "host=tcp://1.2.3.4", "xx"], "only unix:// sockets"),
        (["create", "--docker", "ca=x", "xx"], "unrecognized config key: ca"),
        (["create", "--from", "nope", "xx"], "context not found"),
        (["inspect", "nope"], "context not found"),
        (["use", "nope"], "context not found"),
        (["update", "nope"], "context not found"),
        (["export", "default"], "not exported"),
    ],
)
def test_mistakes(args: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        run(*args)
    assert caught.value.code == 1


def test_update_and_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    run("create", "--docker", "host=unix:///a.sock", "one")
    run("update", "--description", "new", "one")
    capsys.readouterr()
    assert run("inspect", "--format", "{{.Name}} {{.Metadata.Description}} {{.Endpoints.docker.Host}}", "one") == 0
    assert capsys.readouterr().out == "one new unix:///a.sock\n"
    with pytest.raises(UsageError, match="both --host and --context"):
        globals.take(["-H", "unix:///x", "--context", "one", "ps"])
    with pytest.raises(UsageError, match="log-level"):
        globals.take(["--log-level", "loud", "ps"])
