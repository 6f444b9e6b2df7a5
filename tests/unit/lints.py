"""The project's own lints, which are scripts and no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

_DIRECTORY = Path(__file__).parents[2] / "scripts/lint"


def load(name: str) -> ModuleType:
    """The module of scripts/lint/NAME.py."""
    found = importlib.util.spec_from_file_location(name, _DIRECTORY / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # its dataclasses look themselves up
    found.loader.exec_module(module)
    return module
