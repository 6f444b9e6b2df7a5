"""The policy at work: asked before anything is created or started, with what the host's kernel runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sampan.engine.container import Container
from sampan.engine.errors import Forbidden
from sampan.engine.policy import facts as of
from sampan.engine.policy.caller import caller
from sampan.engine.policy.decide import Decision, decide, foreign
from sampan.engine.policy.model import CONTAINER, DENY, Facts, Policy, PolicyError
from sampan.engine.policy.source import Source
from sampan.images.store import Image

if TYPE_CHECKING:
    from sampan.engine.engine import Engine


class Guard:
    """Asks the policy for an engine. Without a policy's file everything is as it was asked for."""

    def __init__(self, engine: Engine, path: str) -> None:
        self._engine = engine
        self.source = Source(path)
        self._entering: dict[str, tuple[str, str]] = {}  # what is about to be on the host's kernel: user, claim

    def _policy(self) -> Policy | None:
        """The policy, None when there is none. Raises Forbidden when there is one that can't be used."""
        if not self.source.active:
            return None
        try:
            return self.source.policy()
        except PolicyError as error:
            raise Forbidden(f"the isolation policy can't be used, so nothing is started: {error}") from None

    def notes(self) -> list[str]:
        """What an operator should see: a file that is wrong, tenants that share a kernel against the policy."""
        found = [f"{self.source.path}: {self.source.error}"] if self.source.active and self.source.error else []
        with contextlib.suppress(Forbidden):
            if policy := self._policy():
                found += self.meetings(policy)
        return found

    def meetings(self, policy: Policy) -> list[str]:
        """Tenants who share the host's kernel now though they should not: the policy has changed since."""
        tenants = sorted(self._tenants(policy, running=True))
        return [f"{one} and {other} share the host's kernel, though the policy does not let them: stop the containers of one"
                for index, one in enumerate(tenants) for other in tenants[index + 1 :] if not policy.trusts(one, other)]  # fmt: skip

    def _tenants(self, policy: Policy, running: bool, but: str = "") -> set[str]:
        """The tenants who have containers on the host's kernel, or only those of whom some run."""
        found = {policy.tenant(*who) for key, who in self._entering.items() if key != but}
        for container in self._engine.containers.values():
            if not container.own_kernel and container.id != but and (container.running or not running):
                found.add(policy.tenant(container.owner, container.claim))
        return found

    @property
    def wants_signatures(self) -> bool:
        """Whether the policy has keys to check signatures with."""
        with contextlib.suppress(Forbidden):
            policy = self._policy()
            return policy is not None and bool(policy.keys)
        return True

    def signers(self, image: Image) -> list[str]:
        """The names of the policy's keys that have signed an image."""
        from sampan.images import signatures

        policy = self._policy()
        if policy is None or not policy.keys:
            return []
        return signatures.signers(self._engine.images, image, {key.name: key.file for key in policy.keys})

    def facts(self, body: dict[str, Any], image: Image, user: str = "") -> Facts:
        """What the policy is asked about a request to create. Raises BadRequest, Forbidden when it can't be used."""
        return of.of_container(user or caller(), body, image, self.signers(image), self._engine.isolation)

    def explain(self, facts: Facts) -> Decision:
        """What would become of a request to create now."""
        policy = self._policy()
        if policy is None:
            isolation = facts.asked or CONTAINER
            return Decision(isolation, f"~{facts.user}", [f"there is no policy ({self.source.path}): {isolation}"])
        return decide(policy, facts, self._tenants(policy, running=False))

    @contextlib.contextmanager
    def admitted(self, identifier: str, facts: Facts) -> Iterator[Decision]:
        """Decides on a container that is created meanwhile; one for the host's kernel counts from now on. Raises Forbidden."""
        decision = self.explain(facts)
        self._tell(identifier, facts, decision)
        if decision.isolation == DENY:
            raise Forbidden(f"denied by the isolation policy: {'; '.join(decision.reasons)}")
        if decision.isolation == CONTAINER:
            self._entering[identifier] = (facts.user, facts.claim)
        try:
            yield decision
        finally:
            self._entering.pop(identifier, None)

    def _tell(self, identifier: str, facts: Facts, decision: Decision) -> None:
        """An event of each decision that somebody may ask for later: under a policy, or of dangerous options."""
        if self.source.active or facts.dangers:
            attributes = {"user": facts.user, "tenant": decision.tenant, "isolation": decision.isolation,
                          "reason": "; ".join(decision.reasons), "options": ", ".join(facts.dangers),
                          "image": next(iter(facts.names[1:]), "")}  # fmt: skip
            self._engine.events.publish("policy", decision.isolation, identifier, attributes)

    @contextlib.contextmanager
    def starting(self, container: Container) -> Iterator[None]:
        """While a container is started: nobody who does not trust its tenant runs beside it. Raises Forbidden."""
        policy = self._policy()
        if policy is None or container.own_kernel:
            yield
            return
        tenant = policy.tenant(container.owner, container.claim)
        strangers = sorted(
            t for t in self._tenants(policy, running=True, but=container.id) if not policy.trusts(tenant, t)
        )
        if strangers:
            raise Forbidden(
                f"denied by the isolation policy: the host's kernel runs containers of {', '.join(strangers)}, whom {tenant} "
                "does not share a kernel with: make the container anew with --isolation auto"
            )
        self._entering[container.id] = (container.owner, container.claim)
        try:
            yield
        finally:
            self._entering.pop(container.id, None)

    @contextlib.contextmanager
    def building(self, identifier: str, insecure: bool, host: dict[str, Any]) -> Iterator[None]:
        """While a build runs, whose commands are containers on the host's kernel. Raises Forbidden."""
        policy = self._policy()
        if policy is None:
            yield
            return
        dangers = (*of.dangers(host), *(["--allow security.insecure"] if insecure else []))
        facts = Facts(caller(), networks=(host.get("NetworkMode") or "default",), dangers=dangers)
        decision = decide(policy, facts, self._tenants(policy, running=False))
        self._tell(identifier, facts, decision)
        if decision.isolation != CONTAINER:
            raise Forbidden(
                f"denied by the isolation policy: builds run on the host's kernel: {'; '.join(decision.reasons)}"
            )
        self._entering[identifier] = (facts.user, "")
        try:
            yield
        finally:
            self._entering.pop(identifier, None)

    def check_exec(self, container: Container, privileged: bool) -> None:
        """Refuses an exec that would be more than its container may be. Raises Forbidden."""
        if privileged and not container.own_kernel:
            self.check_trusted("exec --privileged")

    def check_trusted(self, what: str) -> None:
        """Refuses what has the host's kernel and root's rights to callers who are not trusted with them. Raises Forbidden."""
        policy = self._policy()
        if policy is None:
            return
        tenant = policy.tenant(caller())
        if not policy.settings(tenant).trusted:
            raise Forbidden(
                f"denied by the isolation policy: {what} by {tenant}, who is not trusted with the host's kernel"
            )

    def check_path(self, path: str) -> None:
        """Refuses a file of the host that the caller may not reach by the engine. Raises Forbidden."""
        policy = self._policy()
        if policy is None or not path:
            return
        reasons = foreign(policy, policy.tenant(caller()), of.host_paths({"Binds": [path]}))
        if reasons:
            raise Forbidden(f"denied by the isolation policy: {'; '.join(reasons)}")
