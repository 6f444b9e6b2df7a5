"""The daemon's log: what the loggers below `sampan` have to say goes to standard error, one message a line."""

from __future__ import annotations

import logging
import sys

from sampan import logline

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_NAMES = {number: name for name, number in LEVELS.items()}


class _Lines(logging.Handler):
    """Writes the lines of logline; a traceback has one for each of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._journal = logline.to_journal()
        self._tracebacks = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        """Part of logging.Handler."""
        try:
            level = _NAMES.get(record.levelno, "info")
            texts = [record.getMessage()]
            if record.exc_info:
                texts += self._tracebacks.formatException(record.exc_info).split("\n")
            lines = [logline.line("sampand", level, text, self._journal) + "\n" for text in texts]
            sys.stderr.write("".join(lines))
            sys.stderr.flush()
        except Exception:  # a log that can't be written to must not stop what is told there
            self.handleError(record)


def set_up(level: str) -> None:
    """From here on the log has messages of this level and above; of libraries only warnings, whose further words (headers of
    requests among them) are nobody's business."""
    root, ours = logging.getLogger(), logging.getLogger("sampan")
    root.handlers[:] = [_Lines()]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    ours.setLevel(LEVELS[level])


def debugging() -> bool:
    """Whether the log has everything: `Debug` of `info`."""
    return logging.getLogger("sampan").isEnabledFor(logging.DEBUG)
