"""What can go wrong with a virtual machine."""

from __future__ import annotations


class VmError(Exception):
    """It can't be made, does not start, or has ended; the message says why and what to do."""


class BadDisk(VmError):
    """A disk or package that somebody gave can't be taken; the message says why and what to do."""
