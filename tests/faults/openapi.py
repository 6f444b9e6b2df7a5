"""Docker's own description of its API: taken from a Debian package at test time, made ready for schemathesis."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import OUTSIDE

PACKAGE = "golang-github-docker-docker-dev"
PLACE = "usr/share/gocode/src/github.com/docker/docker/api/swagger.yaml"
OURS_NOT = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/plugins", "/session")


def fetch() -> Path:
    """The description, from the cache or from the package. Raises RuntimeError when neither can be had."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sampan-tests/swagger.yaml"
    installed = Path("/") / PLACE
    if installed.exists():
        return installed
    if cache.exists():
        return cache
    with tempfile.TemporaryDirectory(dir="/var/tmp") as work:
        os.chmod(work, 0o755)
        done = subprocess.run(
            [*OUTSIDE, "apt-get", "download", "-q", PACKAGE], cwd=work, capture_output=True, text=True, timeout=120
        )
        found = list(Path(work).glob("*.deb"))
        if done.returncode or not found:
            raise RuntimeError(f"apt-get download {PACKAGE}: {done.stderr.strip()}")
        subprocess.run(["dpkg-deb", "-x", str(found[0]), f"{work}/out"], check=True, timeout=60)
        cache.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f"{work}/out/{PLACE}", cache)
    return cache


def description() -> dict[str, Any]:
    """The description without Swarm and plugins, which this engine has none of."""
    spec: dict[str, Any] = yaml.safe_load(fetch().read_text())
    spec["paths"] = {path: row for path, row in spec["paths"].items() if not path.startswith(OURS_NOT)}
    _as_docker_answers(spec)
    return spec


def _as_docker_answers(node: Any) -> None:
    """What the description says otherwise than Docker's daemon does: Go's empty maps and lists are null, whatever `x-nullable` says;
    a policy may be "no"; isolation is "" on Linux, and here it has values of our own; a list of lists of containers is one of containers."""
    if isinstance(node, list):
        for item in node:
            _as_docker_answers(item)
        return
    if not isinstance(node, dict):
        return
    properties = node.get("properties")
    if isinstance(properties, dict):
        for name, row in properties.items():
            if isinstance(row, dict) and "type" in row:
                row["x-nullable"] = True
                if name == "Isolation" or (name == "Name" and "always" in row.get("enum", ())):
                    row.pop("enum", None)
        if "LayersSize" in properties and "Containers" in properties:
            properties["Containers"] = {"type": "array", "items": {"type": "object"}}
    for row in node.values():
        _as_docker_answers(row)
    if node.get("schema", {}) and isinstance(node["schema"], dict) and node["schema"].get("type") == "array":
        node["schema"]["x-nullable"] = True
