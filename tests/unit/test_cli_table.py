"""The table of commands: what is made of it is current, what it names is there, and every flag is read."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.cli import globals, help, main
from sampan.cli.flags import BOOL, INT, LIST, STR, STRINGS, Command, Flag, UsageError, Values
from sampan.cli.table import MODULES, find

TOP = Path(__file__).resolve().parents[2]
READERS = {BOOL: "on", STR: "text", INT: "number", LIST: "items", STRINGS: "items"}
# Flags that ask for what is always so, and those of a `run` which are not about the container that is explained.
ALWAYS_SO = {("image build", "force-rm"), ("container cp", "quiet")} | {
    ("policy explain", name)
    for name in ("cidfile", "detach", "detach-keys", "name", "platform", "pull", "quiet", "sig-proxy")
}


def test_what_is_made_of_the_table_is_current() -> None:
    done = subprocess.run(
        [sys.executable, TOP / "scripts/command_table", "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", help.table(), ids=lambda command: command.name)
def test_command(command: Command) -> None:
    parameters = list(inspect.signature(main.handler(command)).parameters)
    assert len(parameters) == 2
    assert command.summary
    assert not [flag.name for flag in command.flags if "Docker" in flag.help and "Dockerfile" not in flag.help]
    names = [flag.name for flag in command.flags] + [flag.short for flag in command.flags if flag.short]
    assert len(names) == len(set(names))
    known = {flag.name for flag in command.flags}
    for flag in command.flags:
        assert flag.help or flag.same in known
    assert find(command.name.split()) == (command, command.name, [])


def counts(arguments: str) -> tuple[int, int | None]:
    """(least, most) of a usage line's arguments: what stands in brackets may be left out."""
    least = most = depth = 0
    for word in (
        arguments.replace(" | ", "|").replace("ps OPTIONS", "ps...").replace("OPTIONS OF sampand", "options").split()
    ):
        most += depth == 0 and word != "--"
        least += depth == 0 and not word.startswith("[")
        depth += word.count("[") - word.count("]")
    return least, None if "..." in arguments or "OPTIONS" in arguments or "--" in arguments else most


@pytest.mark.parametrize("command", help.table(), ids=lambda command: command.name)
def test_the_counts_of_arguments_are_those_of_the_usage(command: Command) -> None:
    assert (command.least, command.most) == counts(command.arguments)


def test_no_name_means_two_commands() -> None:
    names = [name for command in help.table() for name in command.names]
    assert sorted(names) == sorted(MODULES)
    assert not {name for name in names if " " not in name} & set(help.GROUPS)
    assert {name.partition(" ")[0] for name in names if " " in name} == set(help.GROUPS)


def readings(module: str, seen: set[str]) -> set[tuple[str, str]]:
    """(method of Values, flag) of all that a module of cli and those it imports read."""
    seen.add(module)
    tree = ast.parse((TOP / f"src/sampan/cli/{module}.py").read_text())
    found: set[tuple[str, str]] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("sampan.cli", "sampan.cli.options"):
            for name in (
                [node.module.rpartition(".")[2]] if node.module != "sampan.cli" else [a.name for a in node.names]
            ):
                if name not in seen and name not in ("help", "globals"):
                    found |= readings(name, seen)
        if isinstance(node, ast.Call) and node.args and isinstance(last := node.args[-1], ast.Constant):
            if isinstance(node.func, ast.Attribute) and node.func.attr in READERS.values():
                found.add((node.func.attr, last.value))
            elif isinstance(node.func, ast.Name) and node.func.id == "bytes_of":
                found.add(("text", last.value))
    return found


@pytest.mark.parametrize("command", help.table(), ids=lambda command: command.name)
def test_every_flag_is_read(command: Command) -> None:
    read = readings(command.handler.partition(":")[0], set())
    unread = [
        flag.name
        for flag in command.flags
        if not flag.same and (READERS[flag.kind], flag.name) not in read and (command.name, flag.name) not in ALWAYS_SO
    ]
    assert unread == []


@pytest.mark.parametrize("module", sorted({command.handler.partition(":")[0] for command in help.table()}))
def test_nothing_is_read_that_is_no_flag(module: str) -> None:
    flags = {
        (READERS[flag.kind], flag.name)
        for command in help.table()
        if command.handler.startswith(f"{module}:")
        for flag in command.flags
    }
    everything = {path.stem for path in (TOP / "src/sampan/cli").glob("*.py")}
    assert readings(module, everything) - flags == set()


def handed_on(module: str, function: str, seen: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """(method of Values, flag) of what a function of cli reads of the values that it is given, and those that it gives them to."""
    if (module, function) in seen:
        return set()
    seen.add((module, function))
    path = TOP / f"src/sampan/cli/{module}.py"
    body = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    found: set[tuple[str, str]] = set()
    whole = next((n for n in ast.walk(body) if isinstance(n, ast.FunctionDef) and n.name == function), None)
    if whole is None or not (
        names := [a.arg for a in whole.args.args if a.annotation and ast.unparse(a.annotation) == "Values"]
    ):
        return found
    imported = {
        alias.asname or alias.name: (node.module.rpartition(".")[2], alias.name)
        for node in ast.walk(body)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("sampan.cli.")
        for alias in node.names
    }
    for node in ast.walk(whole):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Attribute(ast.Name(name), method) if name in names:
                if method in READERS.values() and isinstance(node.args[0], ast.Constant):
                    found.add((method, node.args[0].value))
            case ast.Attribute(ast.Name(other), called) if _given(node, names[0]):
                found |= handed_on(other, called, seen)
            case ast.Name(called) if _given(node, names[0]):
                found |= handed_on(*imported.get(called, (module, called)), seen)
    return found


def _given(call: ast.Call, name: str) -> bool:
    return any(isinstance(each, ast.Name) and each.id == name for each in call.args)


@pytest.mark.parametrize("command", help.table(), ids=lambda command: command.name)
def test_no_handler_reads_a_flag_that_its_command_has_not(command: Command) -> None:
    """Also not by another command's handler, to which it hands its values: that is a KeyError for who types it."""
    module, _, function = command.handler.partition(":")
    flags = {(READERS[flag.kind], flag.name) for flag in command.flags}
    assert handed_on(module, function, set()) - flags == set()


def test_help_lists_every_flag_with_its_default() -> None:
    command = find(["run"])
    assert command is not None
    text = help.of_command(command[0], "run")
    for flag in command[0].flags:
        assert (f" --{flag.name} " in text) == (not flag.same)
    assert '(default "missing")' in text
    assert "(default true)" in text
    lines = help.flag_lines(command[0].flags, 80)
    assert max(map(len, lines)) <= 80
    column = max(len(line[6:].split("   ")[0]) for line in lines if line[:8].endswith("--")) + 6 + 3
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)


@pytest.mark.parametrize(
    "args", [["ps", "--help"], ["ps", "-a", "--help"], ["run", "-it", "--help", "img"], ["container", "ls", "--help"]]
)
def test_help_is_given_anywhere_among_the_flags(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(args) == 0
    assert "Options:" in capsys.readouterr().out


@pytest.mark.parametrize("args", [["run", "img", "ls", "--help"], ["exec", "c", "ls", "--help"]])
def test_help_of_what_runs_in_a_container_is_not_ours(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(main, "handler", lambda command: lambda values, names: seen.append(names) or 0)
    assert main.dispatch(args) == 0
    assert seen == [args[1:]]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ps", "x"], "'sampan ps' accepts no arguments"),
        (["stop"], "'sampan stop' requires at least 1 argument"),
        (["container", "rename", "a"], "'sampan container rename' requires 2 arguments"),
        (["volume", "create", "a", "b"], "'sampan volume create' requires at most 1 argument"),
        (["port", "a", "b", "c"], "'sampan port' requires 1 to 2 arguments"),
    ],
)
def test_wrong_counts_of_arguments(args: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        main.dispatch(args)
    assert caught.value.code == 1


@pytest.mark.parametrize(
    ("args", "near"),
    [
        (["pss"], "'ps'"),
        (["contaner"], "'container'"),
        (["image", "lss"], "'image ls'"),
        (["volume", "inspct"], "'volume inspect'"),
    ],
)
def test_did_you_mean(args: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(args) == 1
    said = capsys.readouterr().err
    assert "is not a sampan command" in said
    assert near in said.partition("Did you mean")[2]


def test_groups_and_help_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(["network"]) == 0
    assert "disconnect" in capsys.readouterr().out
    assert main.dispatch(["help", "volume", "ls"]) == 0
    assert "Usage:  sampan volume ls" in capsys.readouterr().out
    assert main.dispatch(["help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in [*help.GROUPS, "run", "ps", "compare"])


def test_global_options(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("SAMPAN_HOST", raising=False)
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    assert globals.take(["-H", "unix:///x/y.sock", "--config", "/c", "ps", "-a"]) == ["ps", "-a"]
    import os

    assert (os.environ["SAMPAN_HOST"], os.environ["DOCKER_CONFIG"]) == ("unix:///x/y.sock", "/c")
    assert globals.take(["--version"]) == []
    assert capsys.readouterr().out.startswith("Sampan version ")
    with pytest.raises(UsageError, match="only unix://"):
        globals.take(["-H", "tcp://1.2.3.4", "ps"])


def test_values() -> None:
    flags = [
        Flag("all", "a"),
        Flag("tag", "t", STRINGS),
        Flag("net", "", LIST, same="network"),
        Flag("network", "", LIST),
    ]
    from sampan.cli.flags import parse

    values, rest = parse(flags, ["-a", "x", "--tag", "1,2", "-t3", "--net", "n", "--network=m", "--", "-y"])
    assert rest == ["x", "-y"]
    assert (values.on("all"), values.items("tag"), values.items("network")) == (True, ["1", "2", "3"], ["n", "m"])
    assert values.given == {"all", "tag", "network"}
    with pytest.raises(KeyError):
        Values(flags).on("net")


@pytest.mark.parametrize(
    ("args", "most", "modules"),
    [
        (["run", "--network", "none", "busybox", "true"], 17, "run options session table.running"),
        (["exec", "box", "true"], 17, "run options session table.running"),
        (["ps"], 19, "arguments columns listing output session table.containers"),
    ],
)
def test_quick_path_imports_no_more_than_it_did(args: list[str], most: int, modules: str) -> None:
    """The modules of `run` and `exec` were 17 before the table, those of `ps` 24 with re, json and typing besides."""
    code = (
        "import os, sys; old = set(sys.modules); sys.path.insert(0, 'src'); from sampan.cli.main import dispatch\n"
        f"try: dispatch({args!r})\nexcept Exception as error: print(type(error).__name__)\nprint(*sorted(set(sys.modules) - old))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True, cwd=TOP,
        env={"SAMPAN_AUTOSTART": "0", "SAMPAN_HOST": "unix:///nobody/listens"},
    )  # fmt: skip
    ended, loaded = done.stdout.splitlines()
    assert ended == "NoEngine"
    assert len(loaded.split()) <= most
    ours = {name.removeprefix("sampan.cli.") for name in loaded.split() if name.startswith("sampan.cli.")}
    assert ours == {*modules.split(), "flags", "main", "table"}
