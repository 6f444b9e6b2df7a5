"""Completion for bash, zsh and fish, made of the table of commands. Names come from the engine, if one runs."""

from __future__ import annotations

from sampan.cli import globals, help
from sampan.cli.flags import BOOL, Command, Flag, UsageError, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MADE = "Made by scripts/command_table of the table of commands (src/sampan/cli/table)."
# How the names of a kind are asked for.
NAMES = {
    "containers": "sampan ps -a --format '{{.Names}}'",
    "images": "sampan images --format '{{.Repository}}:{{.Tag}}'",
    "machines": "sampan vm ls --format '{{.Name}}'",
    "networks": "sampan network ls --format '{{.Name}}'",
    "volumes": "sampan volume ls -q",
}
_BY_WORD = {"CONTAINER": "containers", "IMAGE": "images", "SOURCE_IMAGE": "images", "NETWORK": "networks", "VOLUME": "volumes",
            "FILE": "files", "PATH": "files", "file": "files", "SRC_PATH": "files", "DEST_PATH": "files"}  # fmt: skip
_BY_FLAG = {
    "network": "networks",
    "net": "networks",
    "volume": "volumes",
    "volumes-from": "containers",
    "link": "containers",
}
_MAKES = ("network create", "volume create", "vm create", "vm import")  # which take a name that is new


def completion(v: Values, names: list[str]) -> int:
    """completion: the script of a shell. Raises UsageError."""
    found = {file.removeprefix("_sampan").removeprefix("sampan.") or "zsh": text for file, text in scripts(help.table()).items()}  # fmt: skip
    if names[0] not in found:
        raise UsageError(f"no completion for {names[0]!r}: {', '.join(sorted(found))}", 1)
    print(found[names[0]], end="")
    return 0


def scripts(commands: Iterable[Command]) -> dict[str, str]:
    """The scripts by the names of their files."""
    rows = [(name, command) for command in commands for name in command.names]
    rows.sort(key=lambda row: row[0])
    return {"sampan.bash": _bash(rows), "_sampan": _zsh(rows), "sampan.fish": _fish(rows)}


def kinds(command: Command) -> list[str]:
    """What each argument of a command names, by its place: a kind of NAMES, "files", "objects" or "none"."""
    if command.name in _MAKES:
        return []
    found = []
    for word in command.arguments.replace(" | ", "|").split():
        first = word.strip("[]").partition("|")[0].partition("[")[0].partition(":")[0].removesuffix("...")
        if command.name.startswith("vm ") and first in ("NAME", "IMAGE"):
            found.append("machines")
        elif word.startswith("NAME|ID"):
            found.append("objects")
        elif command.name == "container cp":
            found.append("containers files")
        elif first not in ("COMMAND", "ARG", "ps"):
            found.append(_BY_WORD.get(first, "none"))
    return found if "..." in command.arguments and command.interspersed else [*found, "none"]


def _first_words(rows: list[tuple[str, Command]]) -> list[tuple[str, str]]:
    words = [(name, command.summary) for name, command in rows if " " not in name]
    return sorted([*words, *help.GROUPS.items(), ("help", "Help about a command")])


def _flag_words(flags: Iterable[Flag]) -> list[str]:
    found = [f"--{flag.name}" for flag in flags if not flag.same] + [f"-{flag.short}" for flag in flags if flag.short]
    return sorted({*found, "--help"})


def _valued(flags: Iterable[Flag]) -> list[str]:
    """The forms of the flags that take a value, with the kind of names it is: "--network=networks"."""
    found = []
    for flag in flags:
        if flag.kind != BOOL:
            kind = _BY_FLAG.get(flag.name, "files")
            found += [f"--{flag.name}={kind}", *([f"-{flag.short}={kind}"] if flag.short else [])]
    return sorted(found)


def _subcommands(rows: list[tuple[str, Command]], group: str) -> list[tuple[str, str]]:
    return [(name.partition(" ")[2], command.summary) for name, command in rows if name.startswith(f"{group} ")]


def _arrays(rows: list[tuple[str, Command]]) -> dict[str, dict[str, str]]:
    """The table as associative arrays by the names of commands, "_" where there is none yet: what bash and zsh look into."""
    words = {"_": " ".join(word for word, _ in _first_words(rows))}
    words |= {group: " ".join(word for word, _ in _subcommands(rows, group)) for group in sorted(help.GROUPS)}
    flags = {"_": " ".join(_flag_words(globals.FLAGS))}
    valued = {"_": " ".join(_valued(globals.FLAGS))}
    places = {}
    for name, command in rows:
        flags[name] = " ".join(_flag_words(command.flags))
        valued[name] = " ".join(_valued(command.flags))
        places[name] = " ".join(kind.replace(" ", "+") for kind in kinds(command))
    return {"words": words, "flags": flags, "valued": valued, "kinds": places}


def _names() -> str:
    """A function that prints the names of kinds, without starting an engine."""
    cases = "\n".join(f"      {kind}) {ask} ;;" for kind, ask in NAMES.items())
    return f"""_sampan_names() {{
  local kind
  local -x SAMPAN_AUTOSTART=0
  for kind in "$@"; do
    case $kind in
{cases}
    esac
  done 2>/dev/null
}}"""


# Finds the command among the words before the cursor. Sets `name`, `place` (of the argument) and `value` (the kind a flag waits for).
_WALK = """
  local name='' place=0 value='' word item
  for word in "${before[@]}"; do
    if [[ -n $value ]]; then value=''; continue; fi
    if [[ $word == -* ]]; then
      for item in ${VALUED}; do
        [[ $item == "$word="* ]] && value=${item#*=}
      done
    elif [[ -z $name || ( -n ${_sampan_words[$name]:-} && -z ${_sampan_flags[$name]:-} ) ]]; then
      name=${name:+$name }$word
    else
      place=$((place + 1))
    fi
  done
"""


def _bash(rows: list[tuple[str, Command]]) -> str:
    walk = _WALK.replace("${VALUED}", '${_sampan_valued["$name"]:-}').replace("[$name]", '["$name"]')
    arrays = "\n".join(
        f"_sampan_{array}[{key!r}]={text!r}" for array, found in _arrays(rows).items() for key, text in found.items()
    )
    walk = walk.replace('["$name"]', '["${name:-_}"]')
    return f"""# {MADE}
declare -gA _sampan_flags _sampan_valued _sampan_kinds _sampan_words
{arrays}

{_names()}

_sampan() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} list kind
  local -a before=("${{COMP_WORDS[@]:1:COMP_CWORD-1}}") places
{walk}
  COMPREPLY=()
  if [[ -z $value && $current == -* ]]; then
    list=${{_sampan_flags["${{name:-_}}"]:-}}
  elif [[ -z $value && -n ${{_sampan_words["${{name:-_}}"]:-}} ]]; then
    list=${{_sampan_words["${{name:-_}}"]}}
  else
    read -ra places <<<"${{_sampan_kinds["${{name:-_}}"]:-none}}"
    kind=${{value:-${{places[place]:-${{places[-1]}}}}}}
    [[ $kind == objects ]] && kind=containers+images+networks+volumes
    [[ $kind == *files* ]] && compopt -o default 2>/dev/null
    list=$(_sampan_names ${{kind//+/ }})
  fi
  mapfile -t COMPREPLY < <(compgen -W "$list" -- "$current")
  declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$current"
}}
complete -F _sampan sampan
"""


def _zsh(rows: list[tuple[str, Command]]) -> str:
    # A subscript of zsh keeps quotation marks: whole arrays of keys and values instead.
    arrays = "\n".join(
        f"  _sampan_{array}=({' '.join(f'{key!r} {text!r}' for key, text in found.items())})"
        for array, found in _arrays(rows).items()
    )
    walk = _WALK.replace("${VALUED}", "${=_sampan_valued[${name:-_}]}").replace("[$name]:-", "[${name:-_}]:-")
    return f"""#compdef sampan
# {MADE}
{_names()}

_sampan() {{
  local -A _sampan_flags _sampan_valued _sampan_kinds _sampan_words
{arrays}
  local current=${{words[CURRENT]}} kind
  local -a before=("${{(@)words[2,CURRENT-1]}}") places list
{walk}
  if [[ -z $value && $current == -* ]]; then
    list=(${{=_sampan_flags[${{name:-_}}]:-}})
  elif [[ -z $value && -n ${{_sampan_words[${{name:-_}}]:-}} ]]; then
    list=(${{=_sampan_words[${{name:-_}}]}})
  else
    places=(${{=_sampan_kinds[${{name:-_}}]:-none}})
    kind=${{value:-${{places[place+1]:-${{places[-1]}}}}}}
    [[ $kind == objects ]] && kind=containers+images+networks+volumes
    [[ $kind == *files* ]] && _files
    list=(${{(f)"$(_sampan_names ${{(s:+:)kind}})"}})
  fi
  compadd -- $list
}}
_sampan "$@"
"""


def _fish(rows: list[tuple[str, Command]]) -> str:
    lines = []
    for word, summary in _first_words(rows):
        lines.append(f"complete -c sampan -n '__sampan_at \"\"' -a {word} -d {_quote(summary)}")
    for flag in globals.FLAGS:
        lines.append(f"complete -c sampan -n '__sampan_at \"\"' {_fish_flag(flag)}")
    for group in sorted(help.GROUPS):
        for word, summary in _subcommands(rows, group):
            lines.append(f"complete -c sampan -n '__sampan_at \"{group}\"' -a {word} -d {_quote(summary)}")
    for name, command in rows:
        here = f"-n '__sampan_at \"{name}\"'"
        wanted = sorted({part for kind in kinds(command) for part in kind.split() if part != "none"})
        if "objects" in wanted:
            wanted = sorted({*wanted, *NAMES} - {"objects", "machines"})
        for kind in wanted:
            lines.append(f"complete -c sampan {here} " + ("-F" if kind == "files" else f"-a '(__sampan_names {kind})'"))
        lines += [f"complete -c sampan {here} {_fish_flag(flag)}" for flag in command.flags if not flag.same]
    cases = "\n".join(f"            case {kind}\n                {ask} 2>/dev/null" for kind, ask in NAMES.items())
    return f"""# {MADE}
function __sampan_names
    set -lx SAMPAN_AUTOSTART 0
    for kind in $argv
        switch $kind
{cases}
        end
    end
end

function __sampan_at --description 'Whether the command line has come to a command'
    set -l groups {" ".join(sorted(help.GROUPS))}
    set -l name ''
    for word in (commandline -opc)[2..]
        if string match -q -- '-*' $word
            continue
        else if test -z "$name"
            set name $word
        else if contains -- $name $groups
            set name "$name $word"
        end
    end
    test "$name" = "$argv[1]"
end

complete -c sampan -f
{chr(10).join(lines)}
"""


def _fish_flag(flag: Flag) -> str:
    short = f" -s {flag.short}" if flag.short else ""
    kind = _BY_FLAG.get(flag.name)
    value = "" if flag.kind == BOOL else f" -x -a '(__sampan_names {kind})'" if kind else " -r"
    return f"-l {flag.name}{short}{value} -d {_quote(flag.help)}"


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
