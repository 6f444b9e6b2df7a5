"""Names that somebody gives to what they make: free, and told whose they are as far as they may know."""

from __future__ import annotations

import contextlib

from sampan.engine.container import Container
from sampan.engine.containers import Containers
from sampan.engine.finding import Finding
from sampan.engine.policy.caller import Caller
from sampan.engine.policy.gate import Gate


class NameClaims:
    """Claims names of containers for callers."""

    def __init__(self, containers: Containers, finding: Finding, gate: Gate) -> None:
        self._containers, self._finding, self._gate = containers, finding, gate

    def claim(self, who: Caller, name: str, identifier: str) -> contextlib.AbstractContextManager[str]:
        """As Containers.claim_name(), for somebody. Raises BadRequest, Conflict."""
        sees = self._finding.sees(who)

        def shown(holder: Container | None) -> bool:
            return sees(holder) if holder is not None else not self._gate.active

        return self._containers.claim_name(name, identifier, shown)
