"""Options of `run` on single devices: rates, weights, GPUs and devices by CDI. Loaded by those who give one."""

from __future__ import annotations

import csv
import re

from sampan import sizes
from sampan.cli.flags import UsageError, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CDI = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*=.+")


def limits(v: Values) -> dict[str, Any]:
    """Rates and weights by their keys in HostConfig. Raises UsageError."""
    return {
        "BlkioWeightDevice": [_weight(text) for text in v.items("blkio-weight-device")],
        "BlkioDeviceReadBps": [_rate(text, "device-read-bps") for text in v.items("device-read-bps")],
        "BlkioDeviceWriteBps": [_rate(text, "device-write-bps") for text in v.items("device-write-bps")],
        "BlkioDeviceReadIOps": [_rate(text, "device-read-iops") for text in v.items("device-read-iops")],
        "BlkioDeviceWriteIOps": [_rate(text, "device-write-iops") for text in v.items("device-write-iops")],
    }


def _split(text: str, flag: str) -> tuple[str, str]:
    path, colon, value = text.rpartition(":")
    if not colon or not value:
        raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: bad format: {text}')
    if not path.startswith("/dev/"):
        raise UsageError(f'invalid argument "{text}" for "--{flag}" flag: bad format for device path: {text}')
    return path, value


def _rate(text: str, flag: str) -> dict[str, object]:
    path, value = _split(text, flag)
    in_bytes = flag.endswith("bps")
    unit = "[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb" if in_bytes else ""
    try:
        rate = sizes.parse(value) if in_bytes else int(value)
    except ValueError:
        rate = -1
    if rate < 0:
        raise UsageError(
            f'invalid argument "{text}" for "--{flag}" flag: invalid rate for device: {text}. The correct format is '
            f"<device-path>:<number>{unit}"
        )
    return {"Path": path, "Rate": rate}


def _weight(text: str) -> dict[str, object]:
    path, value = _split(text, "blkio-weight-device")
    if not value.isdecimal() or (int(value) and not 10 <= int(value) <= 1000):
        raise UsageError(
            f'invalid argument "{text}" for "--blkio-weight-device" flag: invalid weight for device: {text}'
        )
    return {"Path": path, "Weight": int(value)}


def is_cdi(text: str) -> bool:
    """Whether a --device is the name of one by CDI: VENDOR/CLASS=NAME."""
    return _CDI.fullmatch(text) is not None


def requests(v: Values) -> list[dict[str, object]]:
    """What is asked for by name or by what it can do: --gpus, and those of --device that are names. Raises UsageError."""
    named = [text for text in v.items("device") if is_cdi(text)]
    found: list[dict[str, object]] = [{"Driver": "cdi", "DeviceIDs": named}] if named else []
    return found + [_gpus(text) for text in v.items("gpus")]


def _gpus(text: str) -> dict[str, object]:
    """`all`, a count, or fields such as device=0,driver=nvidia,"capabilities=utility,video"."""
    found: dict[str, Any] = {"Driver": "", "Count": 0, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}
    if not text:
        raise UsageError('invalid argument "" for "--gpus" flag: a count, all, or device=ID is wanted')
    for field in next(csv.reader([text])):
        key, equals, value = field.partition("=")
        if not equals:
            key, value = "count", key
        if key == "count":
            if value != "all" and not value.isdecimal():
                raise UsageError(
                    f'invalid argument "{text}" for "--gpus" flag: invalid count ({value}): value must be either "all" or an integer'
                )
            found["Count"] = -1 if value == "all" else int(value)
        elif key == "device":
            found["DeviceIDs"] = value.split(",")
        elif key == "driver":
            found["Driver"] = value
        elif key == "capabilities":
            found["Capabilities"] = [[*value.split(","), "gpu"]]
        elif key == "options":
            found["Options"] = dict(item.partition("=")[::2] for item in value.split(","))
        else:
            raise UsageError(f"invalid argument \"{text}\" for \"--gpus\" flag: unexpected key '{key}' in '{field}'")
    if not found["Count"] and not found["DeviceIDs"]:
        found["Count"] = 1
    return found
