"""What becomes of a container while it lives. The engine changes it, and records each change."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Status(StrEnum):
    """Where a container is between its making and its end."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"  # it has ended, and its restart policy starts it again
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"  # what is left of it can only be removed


class State(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A container's latest run. Moments are nanoseconds since the epoch, 0 for never."""

    status: Status = Status.CREATED
    pid: int = 0  # of its first process, on the host; 0 when it does not run
    exit_code: int = 0
    error: str = ""  # why it could not be started, or what else there is to say of its end
    oom_killed: bool = False
    started_at: int = 0
    finished_at: int = 0

    @property
    def running(self) -> bool:
        """Whether its process exists (paused included)."""
        return self.status is Status.RUNNING or self.status is Status.PAUSED

    @property
    def paused(self) -> bool:
        """Whether its processes are frozen."""
        return self.status is Status.PAUSED

    @property
    def restarting(self) -> bool:
        """Whether its restart policy is about to start it."""
        return self.status is Status.RESTARTING


class HealthStatus(StrEnum):
    """What the health check says."""

    NONE = "none"
    STARTING = "starting"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Probe(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One run of a health check. Moments are nanoseconds since the epoch."""

    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    output: str = ""


class Health(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """The health of a container: `log` has the latest probes, the oldest first."""

    status: HealthStatus = HealthStatus.STARTING
    failing_streak: int = 0
    log: list[Probe] = []
