"""The gate: every operation is asked here, as one value, by whoever it is for (ADR 24). Without a policy's file everybody may everything that is known."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping

from sampan.engine.container import Container
from sampan.engine.errors import Forbidden, NotFound
from sampan.engine.events import Event, Events
from sampan.engine.model import MountType
from sampan.engine.owners import Owners
from sampan.engine.policy import facts as of
from sampan.engine.policy import rules
from sampan.engine.policy.caller import Caller, Owner, at_page
from sampan.engine.policy.decide import Decision, decide, foreign
from sampan.engine.policy.model import CONTAINER, DENY, VM, Facts, Policy, PolicyError
from sampan.engine.policy.operation import ENGINE, Kind, Operation, Subject, Verb
from sampan.engine.policy.source import Source
from sampan.images.errors import ImageError
from sampan.images.image import Image
from sampan.images.index import Index
from sampan.network.networks import Networks

Seen = Callable[[Subject], bool]
_BESIDE = "make the container anew with --isolation auto"
_WITHOUT = "make the container anew without it"


class Gate:
    """Asks the policy for an engine. `containers` are by id."""

    def __init__(
        self,
        source: Source,
        containers: Mapping[str, Container],
        images: Index,
        networks: Networks,
        owners: Owners,
        events: Events,
    ) -> None:
        self.source = source
        self._containers, self._images, self._networks = containers, images, networks
        self._owners, self._events = owners, events
        self._entering: dict[str, Owner] = {}  # whose is what is about to be on the host's kernel

    # questions

    def ask(self, who: Caller, operation: Operation) -> None:
        """Whether somebody may do something. Raises Forbidden, or NotFound for what they may not even see."""
        rule = rules.RULES.get((operation.subject.kind, operation.verb))
        if rule is None:
            raise Forbidden(f"no rule knows of {operation.verb.value} of a {operation.subject.kind.value}: refused")
        policy = self._visible()
        if policy is None:
            return
        why = rule(rules.Question(policy, who, operation))
        if why == rules.HIDDEN:
            raise NotFound(f"No such {operation.subject.kind.value}: {operation.subject.id}")
        if why:
            raise Forbidden(f"denied by the isolation policy: {why}")

    def may(self, who: Caller, verb: Verb, subject: Subject) -> bool:
        """As ask, as an answer."""
        try:
            self.ask(who, Operation(verb, subject))
        except (Forbidden, NotFound):
            return False
        return True

    def sight(self, who: Caller) -> Seen:
        """What somebody sees, for lists: the policy is looked at once for all of one."""
        policy = self._visible()
        if policy is None:
            return lambda subject: True
        rule_of = {kind: rules.RULES[kind, Verb.SEE] for kind, verb in rules.RULES if verb == Verb.SEE}

        def sees(subject: Subject) -> bool:
            return not rule_of[subject.kind](rules.Question(policy, who, Operation(Verb.SEE, subject)))

        return sees

    def sees_event(self, who: Caller) -> Callable[[Event, tuple[Owner, ...]], bool]:
        """Which events somebody sees: those of what is theirs when it happens; of what is everybody's only who administers it."""
        policy = self._visible()
        if policy is None:
            return lambda event, owners: True

        def sees(event: Event, owners: tuple[Owner, ...]) -> bool:
            rule = rules.shared if event["Type"] == "image" and owners else rules.own
            subject = Subject(Kind.CONTAINER, str(event["Actor"]["ID"]), owners)
            return not rule(rules.Question(policy, who, Operation(Verb.SEE, subject)))

        return sees

    def space(self, who: Caller) -> str:
        """Where the caches of somebody's builds are: those who are trusted share one, "", and every other tenant has one."""
        policy = self._visible()
        if policy is None:
            return ""
        tenant = policy.tenant(who.user)
        return "" if policy.administers(who.user, tenant) else tenant

    def ask_engine(self, who: Caller, verb: Verb) -> None:
        """About the engine as a whole. Raises Forbidden."""
        self.ask(who, Operation(verb, ENGINE))

    def ask_container(self, who: Caller, verb: Verb, container: Container, extra: tuple[str, ...] = ()) -> None:
        """About a container or machine. To act inside it, it must be one that its tenant may have today. Raises Forbidden, NotFound."""
        subject = subject_of(container)
        self.ask(who, Operation(verb, subject, extra=extra))
        policy = self._visible()
        if policy is None or verb == Verb.START:  # a start asks all of it again
            return
        acts = rules.RULES[subject.kind, verb] is rules.inside
        if acts or (verb == Verb.READ and not policy.administers(who.user, policy.tenant(who.user))):
            self.check_shared(container)
        if acts and of.isolation_of(container) == CONTAINER:
            decision = decide(policy, self.facts_of(container), ())
            if decision.isolation != CONTAINER:
                raise Forbidden(
                    f"denied by the isolation policy: {verb.value}: the container would not be allowed today: "
                    f"{'; '.join(decision.reasons)}"
                )

    def check_connect(self, container: Container, network: str) -> None:
        """Whether a container would be allowed on one more network, since rules may be about that. Raises Forbidden."""
        policy = self._visible()
        if policy is None:
            return
        networks = of.networks(container.host_config, [*container.networks, network])
        decision = decide(policy, dataclasses.replace(self.facts_of(container), networks=networks), ())
        if decision.refuses(of.isolation_of(container)):
            raise Forbidden(f"denied by the isolation policy: {'; '.join(decision.reasons)}: {_BESIDE}")

    def check_shared(self, container: Container) -> None:
        """Whether a container's owner may still have what it has of others: its networks, its volumes, the containers whose
        namespaces it shares or that it links to. It has them by name, and who may have what changes: a network of that name may be a stranger's by
        now, a tenant may no longer manage another. Raises Forbidden."""
        if self._visible() is None:
            return
        owner = at_page(container.owner)
        for subject in self._shared(container):
            verb = Verb.SHARE if subject.kind in (Kind.CONTAINER, Kind.MACHINE) else Verb.USE
            if not self.may(owner, verb, subject):
                raise Forbidden(
                    f"denied by the isolation policy: the {subject.kind.value} {subject.id}, which container {container.name} has, "
                    f"is another tenant's: {_WITHOUT}"
                )

    def _shared(self, container: Container) -> Iterator[Subject]:
        """What a container names that is not its own. What is not there any more is not asked about: nobody gets it."""
        for name in container.networks:
            network = self._networks.named(name)
            if network is not None:
                yield dataclasses.replace(self._owners.subject(Kind.NETWORK, network.id), id=name)
        for row in container.mounts:
            if row.kind is MountType.VOLUME:
                yield self._owners.subject(Kind.VOLUME, row.name)
        host = container.host_config
        for mode in (host.network_mode, host.pid_mode, host.ipc_mode):
            kind, _, identifier = mode.partition(":")
            other = self._containers.get(identifier) if kind == "container" else None
            if other is not None:
                yield subject_of(other)
        for text in container.host_config.links:
            other = self._containers.get(text.partition(":")[0])
            if other is not None:
                yield subject_of(other)

    def may_have(self, who: Caller, path: str, source: str = "") -> None:
        """Whether somebody may have a path of the host by way of the engine. It is the real one, of a descriptor that is what is
        used then: a name could be another file's by that time. `source` is what they call it, where they could not look it up
        themselves. Raises Forbidden."""
        policy = self._policy()
        self._may_have(policy, who.owner, path, source or path)
        if policy is not None:
            self._keep_rules_of_paths(policy, Facts(*who.owner, mounts=(path,), sources=(source or path,)), (DENY,))

    def allowed(self, container: Container) -> Callable[[str], None]:
        """As may_have for a container's owner, whoever starts it. What it says is asked of all its mounts, so it looks at the policy once."""
        policy, owner = self._policy(), Owner(container.owner, container.claim)
        sources = [row.source for row in container.mounts if row.kind is MountType.BIND]

        def ask(path: str) -> None:
            source = path if path in sources else "what a mount leads to by now"
            self._may_have(policy, owner, path, source)
            if policy is not None and any(rule.of_paths for rule in policy.rules):
                facts = dataclasses.replace(self.facts_of(container), mounts=(path,), sources=(source,))
                refused = (DENY, VM) if of.isolation_of(container) == CONTAINER else (DENY,)
                self._keep_rules_of_paths(policy, facts, refused)

        return ask

    @staticmethod
    def _keep_rules_of_paths(policy: Policy, facts: Facts, refused: tuple[str, ...]) -> None:
        """What rules say of a path that is in use now; when they were asked of its name, that may have led elsewhere. Raises Forbidden."""
        tenant = policy.tenant(facts.user, facts.claim)
        for rule in policy.rules:
            if rule.of_paths and rule.isolation in refused and rule.applies(facts, tenant):
                raise Forbidden(
                    f"denied by the isolation policy: {facts.sources[0]}: rule {rule.name!r}: {rule.isolation}"
                )

    @staticmethod
    def _may_have(policy: Policy | None, owner: Owner, path: str, source: str) -> None:
        reasons = [] if policy is None or not path else foreign(policy, policy.tenant(*owner), [path], [source])
        if reasons:
            raise Forbidden(f"denied by the isolation policy: {'; '.join(reasons)}")

    # the policy

    def _policy(self) -> Policy | None:
        """The policy, None when there is none. Raises Forbidden when there is one that can't be used."""
        if not self.source.active:
            return None
        try:
            return self.source.policy()
        except PolicyError as error:
            raise Forbidden(f"the isolation policy can't be used, so nothing is started: {error}") from None

    def _visible(self) -> Policy | None:
        """As _policy; of one that can't be used, nothing but that everybody has their own things holds."""
        try:
            return self._policy()
        except Forbidden:
            return Policy()

    @property
    def active(self) -> bool:
        """Whether there is a policy."""
        return self.source.active

    def notes(self) -> list[str]:
        """What an operator should see: a file that is wrong, tenants that share a kernel against the policy."""
        found = [f"{self.source.path}: {self.source.error}"] if self.source.active and self.source.error else []
        with contextlib.suppress(Forbidden):
            if policy := self._policy():
                found += self.conflicts(policy)
        return found

    def conflicts(self, policy: Policy) -> list[str]:
        """Tenants who share the host's kernel now though they should not: the policy has changed since."""
        tenants = sorted(self._tenants(policy, running=True))
        return [f"{one} and {other} share the host's kernel, though the policy does not let them: stop the containers of one"
                for index, one in enumerate(tenants) for other in tenants[index + 1 :] if not policy.trusts(one, other)]  # fmt: skip

    def _tenants(self, policy: Policy, running: bool, but: str = "") -> set[str]:
        """The tenants who have containers on the host's kernel, or only those of whom some run."""
        found = {policy.tenant(*owner) for key, owner in self._entering.items() if key != but}
        for container in self._containers.values():
            shares = of.isolation_of(container) == CONTAINER
            if shares and container.id != but and (container.running or not running):
                found.add(policy.tenant(container.owner, container.claim))
        return found

    # what would run

    @property
    def wants_signatures(self) -> bool:
        """Whether the policy has keys to check signatures with."""
        with contextlib.suppress(Forbidden):
            policy = self._policy()
            return policy is not None and bool(policy.keys)
        return True

    def signers(self, image: Image) -> list[str]:
        """The names of the policy's keys that have signed an image."""
        from sampan.images import signatures  # cryptography: 40 ms, for policies that have keys

        policy = self._policy()
        if policy is None or not policy.keys:
            return []
        return signatures.signers(self._images, image, {key.name: key.file for key in policy.keys})

    def facts_of(self, container: Container) -> Facts:
        """What rules look at of a container that there is, today."""
        try:
            image = self._images.get(container.image) if container.image else None
        except ImageError:  # its record is lost: it has the names that it was made by
            image = None
        if image is None:
            return of.of_record(container, [], [])
        return of.of_record(container, self.names(at_page(container.owner), image), self.signers(image))

    def names(self, who: Caller, image: Image) -> list[str]:
        """The names by which rules know an image for somebody: what strangers call it neither forbids nor allows them anything."""
        return [tag for tag in image.tags if self.may(who, Verb.USE, self._owners.subject(Kind.TAG, tag))]

    def decide(self, facts: Facts) -> Decision:
        """What would become of a container if it were created now."""
        policy = self._policy()
        if policy is None:
            isolation = facts.asked or CONTAINER
            return Decision(isolation, f"~{facts.user}", [f"there is no policy ({self.source.path}): {isolation}"])
        return decide(policy, facts, self._tenants(policy, running=False))

    @contextlib.contextmanager
    def _entered(self, identifier: str, owner: Owner, isolation: str) -> Iterator[None]:
        """While something is made or started: what is for the host's kernel counts as being there."""
        if isolation == CONTAINER:
            self._entering[identifier] = owner
        try:
            yield
        finally:
            self._entering.pop(identifier, None)

    @contextlib.contextmanager
    def admitted(self, who: Caller, identifier: str, facts: Facts, kind: Kind = Kind.CONTAINER) -> Iterator[Decision]:
        """Decides on what is created meanwhile; what is for the host's kernel counts from now on. Raises Forbidden."""
        self.ask(who, Operation(Verb.CREATE, Subject(kind, identifier, (who.owner,)), facts))
        decision = self.decide(facts)
        self._tell(identifier, facts, decision)
        if decision.isolation == DENY:
            raise Forbidden(f"denied by the isolation policy: {'; '.join(decision.reasons)}")
        with self._entered(identifier, Owner(facts.user, facts.claim), decision.isolation):
            yield decision

    @contextlib.contextmanager
    def starting(self, container: Container) -> Iterator[None]:
        """While something is started, whoever wants it to: its rules are asked again, as they are now, and nobody who does not
        trust its tenant runs beside it. Raises Forbidden."""
        policy = self._policy()
        if policy is None:
            yield
            return
        facts = self.facts_of(container)
        isolation = of.isolation_of(container)
        others = self._tenants(policy, running=True, but=container.id) if isolation == CONTAINER else ()
        decision = decide(policy, facts, others)
        if decision.refuses(of.isolation_of(container)):
            self._tell(container.id, facts, Decision(DENY, decision.tenant, decision.reasons))
            raise Forbidden(f"denied by the isolation policy: {'; '.join(decision.reasons)}"
                            + (f": {_BESIDE}" if decision.isolation == VM or facts.asked != VM else ""))  # fmt: skip
        self.check_shared(container)
        with self._entered(container.id, Owner(container.owner, container.claim), of.isolation_of(container)):
            yield

    # builds

    @contextlib.contextmanager
    def building(self, who: Caller, identifier: str, facts: Facts) -> Iterator[None]:
        """While a build runs, whose commands are containers on the host's kernel. Raises Forbidden."""
        self.ask(who, Operation(Verb.BUILD, ENGINE, facts))
        self.check_step(who, identifier, facts)
        with self._entered(identifier, who.owner, CONTAINER):
            yield

    def check_step(self, who: Caller, identifier: str, facts: Facts) -> None:
        """Asks about a step of the build `identifier`, as about a container of the same facts. Raises Forbidden."""
        self.ask(who, Operation(Verb.STEP, Subject(Kind.CONTAINER, identifier, (who.owner,)), facts))
        policy = self._policy()
        if policy is None:
            return
        decision = decide(policy, facts, self._tenants(policy, running=False, but=identifier))
        if decision.isolation != CONTAINER:
            self._tell(identifier, facts, Decision(DENY, decision.tenant, decision.reasons))
            raise Forbidden(
                f"denied by the isolation policy: builds run on the host's kernel: {'; '.join(decision.reasons)}"
            )

    def _tell(self, identifier: str, facts: Facts, decision: Decision) -> None:
        """An event of each decision that somebody may ask for later: under a policy, or of dangerous options."""
        if self.source.active or facts.privileged_options:
            attributes = {"user": facts.user, "tenant": decision.tenant, "isolation": decision.isolation,
                          "reason": "; ".join(decision.reasons), "options": ", ".join(facts.privileged_options),
                          "image": next(iter(facts.names[1:]), "")}  # fmt: skip
            self._events.publish(
                "policy", decision.isolation, identifier, attributes, (Owner(facts.user, facts.claim),)
            )


def subject_of(container: Container) -> Subject:
    """A container, or a machine, as a subject."""
    kind = Kind.MACHINE if container.isolation == "machine" else Kind.CONTAINER
    return Subject(kind, container.id, (Owner(container.owner, container.claim),), of.isolation_of(container))
