"""Go templates (text/template), as `--format` takes them; loaded only where one is asked for.

Values are those of JSON: dict, list, str, int, float, bool and None. What fails says so in Go's words.
"""

from __future__ import annotations

from sampan.cli.template.nodes import TemplateError
from sampan.cli.template.run import Template

__all__ = ["Template", "TemplateError"]
