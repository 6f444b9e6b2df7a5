"""Options of log drivers: which there are, how much is kept, and what `logs --details` shows beside each line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote_plus

from sampan import matching, sizes
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest
from sampan.engine.model import HostConfig
from sampan.keeper.protocol import LogOptions

_ATTRIBUTES = {"labels", "labels-regex", "env", "env-regex", "tag"}
_SIZES = {"max-size", "max-file", "compress"}
DRIVERS = {
    "json-file": _SIZES | _ATTRIBUTES,
    "local": _SIZES,
    "none": None,
    "journald": _ATTRIBUTES,
    "syslog": _ATTRIBUTES | {"syslog-address", "syslog-facility", "syslog-format"},
}  # None: whatever is given
_OF_ALL = {"mode", "max-buffer-size"}
_FIELD = re.compile(r"{{\s*\.?(\w*)\s*}}")


def check(host: HostConfig) -> None:
    """Raises BadRequest for a driver or an option that there is not, and for a value that can't be read."""
    driver, options = host.log_config.driver, host.log_config.options
    if driver not in DRIVERS:
        raise BadRequest(f"logger: no log driver named '{driver}' is registered")
    known = DRIVERS[driver]
    if known is None:
        return
    for name in options:
        if name not in known | _OF_ALL:
            raise BadRequest(f"unknown log opt '{name}' for {driver} log driver")
    if options.get("mode", "") not in ("", "blocking", "non-blocking"):
        raise BadRequest(f"logger: logging mode not supported: {options['mode']}")
    if options.get("mode") == "non-blocking" or "max-buffer-size" in options:
        raise BadRequest("log opt 'mode': lines are never dropped here: there is only blocking, and no max-buffer-size")
    if options.get("compress", "false") not in ("false", "0", "f", "F", "False", "FALSE"):
        raise BadRequest(
            "log opt 'compress': rotated logs are not compressed here: give compress=false, or a smaller max-size"
        )
    _kept(options)
    try:
        for name in ("labels-regex", "env-regex"):
            if options.get(name):
                matching.expression(options[name])
    except matching.BadPattern as error:
        raise BadRequest(f"log opt '{name}': {error}") from None
    for field in _FIELD.findall(options.get("tag", "")):
        if field not in _TAG:
            raise BadRequest(f"log opt 'tag': there is no field {field!r}, only {', '.join(_TAG)}")
    if "{{" in _FIELD.sub("", options.get("tag", "")):
        raise BadRequest(f"log opt 'tag': {options['tag']!r}: only fields such as {{{{.Name}}}} are understood")


def _kept(options: Mapping[str, str]) -> LogOptions:
    try:
        size = sizes.parse(options["max-size"]) if "max-size" in options else 0
        count = int(options.get("max-file", "1"))
    except ValueError as error:
        raise BadRequest(f"invalid log option: {error}") from error
    if "max-size" in options and size <= 0:
        raise BadRequest("log opt 'max-size': max-size must be a positive number")
    if count < 1:
        raise BadRequest("log opt 'max-file': max-file cannot be less than 1")
    return LogOptions(size, count)


def kept(container: Container) -> LogOptions:
    """How much the keeper keeps of a container's output. Raises BadRequest."""
    config = container.host_config.log_config
    if config.driver == "none":
        return LogOptions(1 << 20, 2)  # only what attached clients still have to read
    if config.driver in ("journald", "syslog"):
        return LogOptions(20 << 20, 5)  # for `logs`, and for as long as the server takes nothing
    return _kept(config.options)


_TAG: dict[str, Callable[[Container], str]] = {
    "ID": lambda container: container.id[:12],
    "FullID": lambda container: container.id,
    "Name": lambda container: container.name,
    "FullName": lambda container: f"/{container.name}",
    "ImageID": lambda container: container.image[7:19],
    "ImageFullID": lambda container: container.image,
    "ImageName": lambda container: container.image_name,
    "DaemonName": lambda container: "sampan",
}


def tag(container: Container, text: str) -> str:
    """A tag with the container's fields in it."""
    return _FIELD.sub(lambda found: _TAG[found[1]](container), text)


def attributes(container: Container) -> dict[str, str]:
    """What the options `labels`, `env`, their patterns and `tag` add to each line, by name."""
    options = container.host_config.log_config.options
    labels = dict(container.config.labels)
    variables = dict(text.split("=", 1) for text in container.config.env if "=" in text)
    found: dict[str, str] = {}
    for values, names, pattern in (
        (labels, options.get("labels"), options.get("labels-regex")),
        (variables, options.get("env"), options.get("env-regex")),
    ):
        found |= {name: values[name] for name in (names or "").split(",") if name in values}
        if pattern:
            wanted = matching.expression(pattern)
            found |= {name: value for name, value in values.items() if wanted.found_in(name)}
    if options.get("tag"):
        found["tag"] = tag(container, options["tag"])
    return found


def details(container: Container) -> bytes:
    """What stands before each line with `details`, as Docker writes it."""
    pairs = sorted(attributes(container).items())
    return (",".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs) + " ").encode()
