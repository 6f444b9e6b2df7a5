"""What can be wrong with a build."""

from __future__ import annotations

from sampan.images.errors import ImageError


class BuildError(ImageError):
    """A step failed, or asks for what there is not."""

    code = 0  # exit code of a command that failed


class DockerfileError(BuildError):
    """The Dockerfile is wrong; the message names the line."""
