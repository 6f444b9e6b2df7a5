"""compare: native, container and virtual machine side by side."""

from __future__ import annotations

import os
import sys

from sampan.cli.flags import UsageError, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.compare.model import Result

_FORMATS = ("table", "json", "csv", "html")


def compare(values: Values, names: list[str]) -> int:
    """compare"""
    form = values.text("format") or _form_of(values.text("output") or "")
    if form not in _FORMATS:
        raise UsageError(f"--format {form}: {', '.join(_FORMATS)}")
    if bool(values.text("from")) == bool(names):
        raise UsageError("'sampan compare' requires 1 argument: IMAGE, or --from FILE")
    from sampan.client.http import APIError
    from sampan.compare.model import CompareError

    try:
        result = _read(values.text("from")) if values.text("from") else _measure(values, names[0], names[1:])
    except (CompareError, APIError, OSError) as error:
        print(f"sampan: {error}", file=sys.stderr)
        return 1
    from sampan.compare import report

    text = report.render(result, form)
    if values.text("output"):
        from sampan.cli import results

        with results.result(values.text("output")) as file:
            file.write(text.encode())
        print(values.text("output"))
    else:
        sys.stdout.write(text)
    return 0


def _form_of(path: str) -> str:
    ending = path.rpartition(".")[2]
    return ending if ending in _FORMATS else "table"


def _read(path: str) -> Result:
    import json

    from sampan.compare.model import CompareError, from_json

    with open(path, encoding="utf-8") as file:
        try:
            return from_json(json.load(file))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CompareError(f"{path}: no comparison: {error!r}") from None


def _measure(values: Values, image: str, command: list[str]) -> Result:
    from sampan.client.connection import engine, socket_path
    from sampan.client.sync import Client
    from sampan.compare.measuring import Plan, compare

    plan = Plan(2, 5, 0, 2) if values.on("quick") else Plan()
    wanted = {
        "rounds": values.number("rounds"),
        "starts": values.number("starts"),
        "cold_starts": values.number("cold-starts"),
        "instances": values.number("instances"),
    }
    least = {"rounds": 1, "starts": 1, "cold_starts": 0, "instances": 2}
    for name, value in wanted.items():
        if value is not None and value < least[name]:
            raise UsageError(f"--{name.replace('_', '-')} must be {least[name]} at least")
    found = {name: getattr(plan, name) if value is None else value for name, value in wanted.items()}
    engine().close()  # started now, if none runs
    bar, client = _Bar(), Client(f"unix://{socket_path()}")
    try:
        result = compare(client, image, command, Plan(**found, system=bool(values.on("system-vm"))), bar.show)
    finally:
        bar.end()
    kept = client.call("POST", "/sampan/comparisons", result.json())["Id"]
    print(f"kept as {kept}", file=sys.stderr)
    return result


class _Bar:
    """One line at the bottom of the terminal; where there is none, a line for each part."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = 0.0

    def show(self, text: str, part: float) -> None:
        if self._terminal:
            width = 30
            done = int(part * width)
            line = f"[{'=' * done}{'>' if done < width else ''}{' ' * (width - done - 1)}] {part:4.0%} {text}"
            columns = os.get_terminal_size(2).columns
            sys.stderr.write(f"\r\x1b[2K{line[: columns - 1]}")
            sys.stderr.flush()
        elif part - self._last >= 0.1 or not part:
            self._last = part
            print(f"{part:4.0%} {text}", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()
