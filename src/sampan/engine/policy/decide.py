"""The decision itself: pure, and the same in whatever order the rules are written."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sampan.engine.policy.model import CONTAINER, DENY, STRICTNESS, VM, Facts, Policy


@dataclass(slots=True)
class Decision:
    """What becomes of a request, and why; `passed` are rules that do not apply."""

    isolation: str
    tenant: str
    reasons: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)

    def refuses(self, isolation: str) -> bool:
        """Whether a container that there is, with this isolation, may not be so any more."""
        return self.isolation == DENY or (self.isolation == VM and isolation == CONTAINER)


def decide(policy: Policy, facts: Facts, others: Collection[str]) -> Decision:
    """Where a container goes. `others`: the tenants of whom the host's kernel runs containers.

    The strictest of all rules that apply wins, so their order means nothing. Whatever they say, tenants
    who don't trust each other do not meet on one kernel.
    """
    tenant = policy.tenant(facts.user, facts.claim)
    found = Decision(CONTAINER, tenant)
    verdicts: list[tuple[str, str]] = []
    for rule in policy.rules:
        if rule.applies(facts, tenant):
            verdicts.append((rule.isolation, f"rule {rule.name!r}: {rule.isolation}"))
        else:
            found.passed.append(f"rule {rule.name!r} does not apply")
    if not verdicts:
        verdicts.append((policy.default, f"no rule applies: {policy.default} is the default"))
    verdicts += _untrusted(policy, facts, tenant)
    found.isolation = max((isolation for isolation, _ in verdicts), key=STRICTNESS.__getitem__)
    found.reasons = [reason for _, reason in verdicts]
    if found.isolation == CONTAINER:
        strangers = sorted(other for other in others if not policy.trusts(tenant, other))
        if strangers:
            found.isolation = VM
            found.reasons.append(
                f"the host's kernel runs containers of {', '.join(strangers)}, whom {tenant} does not share a kernel with: vm"
            )
    _respect(found, facts)
    return found


def _untrusted(policy: Policy, facts: Facts, tenant: str) -> list[tuple[str, str]]:
    """What holds for tenants whom the operator does not trust with the host."""
    settings = policy.settings(tenant)
    if settings.trusted:
        return []
    found = []
    if facts.privileged_options:
        found.append(
            (VM, f"{', '.join(facts.privileged_options)} by {tenant}, who is not trusted with the host's kernel: vm")
        )
    found += [(DENY, text) for text in foreign(policy, tenant, facts.mounts, facts.sources)]
    return found


def foreign(policy: Policy, tenant: str, paths: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Why a tenant may not have some of these paths of the host, which are called as in `sources`; nothing for one who may have all."""
    settings = policy.settings(tenant)
    return [
        f"{source} is the host's, and {tenant} may not mount it: deny"
        for path, source in zip(paths, sources or paths, strict=True)
        if not settings.trusted and not any(_within(path, allowed) for allowed in settings.mounts)
    ]


def _within(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == os.path.normpath(directory)


def _respect(found: Decision, facts: Facts) -> None:
    """What the user asked for may be stricter than the decision, not weaker."""
    if facts.asked == VM and found.isolation == CONTAINER:
        found.isolation = VM
        found.reasons.append("a virtual machine was asked for: vm")
    elif facts.asked == CONTAINER and found.isolation == VM:
        found.isolation = DENY
        found.reasons.append(
            "a container was asked for, and only a virtual machine is allowed (--isolation auto): deny"
        )
