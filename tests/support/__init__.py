"""What tests share and is no test, by subject: servers, builders of what tests begin with, and how much they try."""

from __future__ import annotations

import pkgutil

import pytest

# An assertion that fails here says its values, as one in a test does.
pytest.register_assert_rewrite(*(f"{__name__}.{found.name}" for found in pkgutil.iter_modules(__path__)))
