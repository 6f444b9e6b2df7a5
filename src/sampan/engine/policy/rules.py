"""Who may do what with what: one table. What is not in it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sampan.engine.policy.caller import Caller, Owner
from sampan.engine.policy.model import CONTAINER, Policy
from sampan.engine.policy.operation import Kind, Operation, Verb

HIDDEN = "hidden"  # it is answered as what does not exist: a refusal would tell that it does


@dataclass(frozen=True, slots=True)
class Question:
    """An operation, and whom it is for."""

    policy: Policy
    who: Caller
    operation: Operation

    @property
    def tenant(self) -> str:
        """Who asks."""
        return self.policy.tenant(self.who.user)

    @property
    def trusted(self) -> bool:
        """Whether they may have the host's kernel and root's rights."""
        return self.policy.settings(self.tenant).trusted

    def rules_over(self, owner: Owner) -> bool:
        """Whether they may do with that owner's things what the owner may."""
        return self.policy.rules_over(self.who.user, self.tenant, self.policy.tenant(owner.user, owner.claim))

    @property
    def administers(self) -> bool:
        """Whether they may change what is the engine's own, or everybody's."""
        return self.policy.administers(self.who.user, self.tenant)


Rule = Callable[[Question], str]  # why not, HIDDEN, or "" for yes


def anybody(question: Question) -> str:
    """Everybody may; lists show each what they may see, and what runs is decided by its facts."""
    return ""


def own(question: Question) -> str:
    """Things of one's own, and of tenants whom one manages. Without an owner they are the engine's."""
    owners = question.operation.subject.owners
    if owners:
        return "" if any(map(question.rules_over, owners)) else HIDDEN
    return "" if question.administers else HIDDEN


def shared(question: Question) -> str:
    """Things of one's own, the engine's, and of tenants who are trusted with more than that: to see and to use."""
    policy, owners = question.policy, question.operation.subject.owners
    if not owners or any(policy.administers(owner.user, policy.tenant(*owner)) for owner in owners):
        return ""
    return own(question)


def relied(question: Question) -> str:
    """A name to run something by: whoever could see any must still not get what a stranger has put under it."""
    policy, tenant = question.policy, question.tenant
    manages = policy.settings(tenant).manages
    for owner in question.operation.subject.owners:
        other = policy.tenant(*owner)
        if other == tenant or other in manages or policy.administers(owner.user, other):
            return ""
    return HIDDEN if question.operation.subject.owners else ""


def kept(question: Question) -> str:
    """To change what is `shared` one must own it: alone, since what several have is several people's."""
    hidden = shared(question)
    if hidden:
        return hidden
    owners = question.operation.subject.owners
    if owners and all(map(question.rules_over, owners)):
        return ""
    if question.administers:
        return ""
    what = question.operation.subject.kind.value
    return f"this {what} is not {question.tenant}'s alone, who may use it and not change it"


def offered(question: Question) -> str:
    """The engine's own things, and one's own: networks that everybody has, volumes from before there were owners."""
    return "" if not question.operation.subject.owners else own(question)


def taken(question: Question) -> str:
    """To change what is `offered`."""
    if hidden := offered(question):
        return hidden
    if question.operation.subject.owners or question.administers:
        return ""
    return f"this {question.operation.subject.kind.value} is everybody's, and {question.tenant} may not change it"


def inside(question: Question) -> str:
    """To act within a container of one's own, which may be no more than its tenant may have today."""
    if hidden := own(question):
        return hidden
    operation = question.operation
    if operation.extra and operation.subject.isolation == CONTAINER and not question.trusted:
        return f"{', '.join(operation.extra)} by {question.tenant}, who is not trusted with the host's kernel"
    return ""


def trusted(question: Question) -> str:
    """What has the host's kernel and root's rights."""
    if question.trusted:
        return ""
    verb = question.operation.verb.value
    return f"{verb} by {question.tenant}, who is not trusted with the host's kernel"


def administrators(question: Question) -> str:
    """What is of all tenants at once."""
    if question.administers:
        return ""
    return f"{question.operation.verb.value} by {question.tenant}, who is neither trusted nor an admin"


_OWN = (Verb.SEE, Verb.CONTROL, Verb.REMOVE, Verb.LOGS, Verb.READ, Verb.COMMIT, Verb.UPDATE, Verb.RENAME, Verb.CONNECT)
_INSIDE = (Verb.START, Verb.EXEC, Verb.ATTACH, Verb.WRITE, Verb.SHARE)

RULES: dict[tuple[Kind, Verb], Rule] = {
    **{(Kind.CONTAINER, verb): own for verb in _OWN},
    **{(Kind.CONTAINER, verb): inside for verb in _INSIDE},
    (Kind.CONTAINER, Verb.CREATE): anybody,
    (Kind.CONTAINER, Verb.STEP): anybody,
    **{(Kind.EXEC, verb): own for verb in (Verb.SEE, Verb.CONTROL)},
    (Kind.EXEC, Verb.START): inside,
    **{(Kind.MACHINE, verb): own for verb in (*_OWN, Verb.EXPORT, Verb.SNAPSHOT)},
    **{(Kind.MACHINE, verb): inside for verb in _INSIDE},
    (Kind.MACHINE, Verb.CREATE): anybody,
    **{(Kind.IMAGE, verb): shared for verb in (Verb.SEE, Verb.USE, Verb.SAVE, Verb.PUSH, Verb.TAG, Verb.EXPORT)},
    (Kind.IMAGE, Verb.REMOVE): kept,
    (Kind.TAG, Verb.SEE): shared,
    (Kind.TAG, Verb.USE): relied,
    (Kind.TAG, Verb.WRITE): kept,
    **{(Kind.VOLUME, verb): offered for verb in (Verb.SEE, Verb.USE, Verb.CREATE)},
    (Kind.VOLUME, Verb.REMOVE): taken,
    **{(Kind.NETWORK, verb): offered for verb in (Verb.SEE, Verb.USE, Verb.CONNECT)},
    (Kind.NETWORK, Verb.REMOVE): taken,
    (Kind.NETWORK, Verb.CREATE): inside,
    (Kind.SESSION, Verb.USE): own,
    **{(Kind.ENGINE, verb): anybody for verb in (Verb.LIST, Verb.INFORM, Verb.PULL, Verb.LOAD, Verb.BUILD, Verb.PRUNE)},
    **{(Kind.ENGINE, verb): trusted for verb in (Verb.COMPARE, Verb.BOOTSTRAP)},
    (Kind.ENGINE, Verb.ADMINISTER): administrators,
}  # fmt: skip
