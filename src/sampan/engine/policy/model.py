"""policy.toml as types: tenants, who trusts whom, rules. Parsing, and errors that name the place."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase

CONTAINER, VM, DENY, AUTO = "container", "vm", "deny", "auto"
STRICTNESS = {CONTAINER: 0, VM: 1, DENY: 2}
TENANT_LABEL = "sampan.tenant"


Row = dict[str, object]  # a table of the document


class PolicyError(ValueError):
    """The policy says something that can't be meant. The message names the place."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request, for rules to look at."""

    user: str
    claim: str = ""  # the tenant it is said to be for
    names: tuple[str, ...] = ()  # every name of the image, complete and short
    registries: tuple[str, ...] = ()
    signers: tuple[str, ...] = ()  # the keys that have signed it
    labels: tuple[tuple[str, str], ...] = ()  # of the request; an image's own could say anything
    networks: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()  # those asked for, without CAP_; ALL
    privileged_options: tuple[
        str, ...
    ] = ()  # the options that weaken the isolation of a container, as they are written
    mounts: tuple[str, ...] = ()  # the host's paths that it gets, resolved
    sources: tuple[
        str, ...
    ] = ()  # the same as they are called in answers: where links lead is not told who may not have it
    asked: str = ""  # "container", "vm" or "" for whatever the policy decides


@dataclass(frozen=True, slots=True)
class Conditions:
    """All that are given must hold; of several values of one, one."""

    user: tuple[str, ...] = ()
    tenant: tuple[str, ...] = ()
    image: tuple[str, ...] = ()
    registry: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    capability: tuple[str, ...] = ()
    mount: tuple[str, ...] = ()
    signed: bool | None = None
    privileged: bool | None = None

    def hold(self, facts: Facts, tenant: str, every: bool = False) -> bool:
        """Whether they hold. With `every`, all that there is of what can be several must match: for exceptions, which a second name,
        network, capability or path must not open."""
        values: dict[str, tuple[str, ...]] = {
            "user": (facts.user,), "tenant": (tenant,), "image": facts.names, "registry": facts.registries,
            "signed_by": facts.signers, "network": facts.networks, "capability": facts.capabilities, "mount": facts.mounts,
            "label": tuple(key for key, _ in facts.labels) + tuple(f"{key}={value}" for key, value in facts.labels),
        }  # fmt: skip
        for name, found in values.items():
            patterns = getattr(self, name)
            if not patterns:
                continue
            whole = every and name in _SEVERAL
            if whole:
                found = _without_doubles(name, found, patterns)
            matches = [any(fnmatchcase(value, pattern) for pattern in patterns) for value in found]
            if not (matches and all(matches) if whole else any(matches)):
                return False
        if self.signed is not None and self.signed != bool(facts.signers):
            return False
        return self.privileged is None or self.privileged == bool(facts.privileged_options)


_SEVERAL = ("registry", "mount", "network", "capability")


def _without_doubles(name: str, found: tuple[str, ...], patterns: tuple[str, ...]) -> tuple[str, ...]:
    """Without what is there only as another word for the same: ALL is each capability, the default network is the bridge."""
    if name == "capability" and "ALL" in found:
        return ("ALL",)
    if name == "network" and {"bridge", "default"} <= set(found):
        named = any(fnmatchcase("default", pattern) for pattern in patterns)
        return tuple(value for value in found if value != ("bridge" if named else "default"))
    return found


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it decides, when, and when not."""

    name: str
    isolation: str
    when: Conditions = Conditions()
    unless: Conditions | None = None

    @property
    def of_paths(self) -> bool:
        """Whether it looks at paths of the host."""
        return bool(self.when.mount or (self.unless is not None and self.unless.mount))

    def applies(self, facts: Facts, tenant: str) -> bool:
        """Whether it says something about this request."""
        if not self.when.hold(facts, tenant):
            return False
        return self.unless is None or not self.unless.hold(facts, tenant, every=True)


@dataclass(frozen=True, slots=True)
class Tenant:
    """Some users together. A trusted one may have privileges on the host's kernel, and mount any path of the host's."""

    name: str
    users: tuple[str, ...] = ()
    trusted: bool = False
    mounts: tuple[str, ...] = ()
    manages: tuple[str, ...] = ()  # tenants whose things are as their own; "*" is everybody


@dataclass(frozen=True, slots=True)
class Key:
    """A public key in a PEM file."""

    name: str
    file: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole policy."""

    default: str = CONTAINER
    admins: tuple[str, ...] = ("root",)
    tenants: tuple[Tenant, ...] = ()
    trust: tuple[frozenset[str], ...] = ()
    keys: tuple[Key, ...] = ()
    rules: tuple[Rule, ...] = ()
    _by_user: dict[str, str] = field(default_factory=dict, compare=False)

    def tenant(self, user: str, claim: str = "") -> str:
        """Who a user is. Somebody that no tenant names is one of their own; only an admin may speak for another."""
        if claim and user in self.admins:
            return claim
        return self._by_user.get(user, f"~{user}")

    def settings(self, tenant: str) -> Tenant:
        """What is said of a tenant."""
        return next((each for each in self.tenants if each.name == tenant), Tenant(tenant))

    def trusts(self, one: str, other: str) -> bool:
        """Whether two tenants may share a kernel. Trust is mutual, and not handed on."""
        return one == other or any(all(name in group or "*" in group for name in (one, other)) for group in self.trust)

    def administers(self, user: str, tenant: str) -> bool:
        """Whether somebody may do with everybody's things as with their own: who is trusted could anyway, by the host."""
        return user in self.admins or self.settings(tenant).trusted

    def rules_over(self, user: str, tenant: str, other: str) -> bool:
        """Whether a user, of `tenant`, may do with another tenant's things what that one may."""
        return (
            tenant == other or self.administers(user, tenant) or bool({other, "*"} & {*self.settings(tenant).manages})
        )

    def notes(self) -> list[str]:
        """What is allowed but probably not meant."""
        known = {tenant.name for tenant in self.tenants}
        found = [f"trust names the tenant {name!r}, which is not defined"
                 for group in self.trust for name in sorted(group) if name not in known | {"*"} and not name.startswith("~")]  # fmt: skip
        found += [f"tenant {tenant.name!r} manages {name!r}, which is not defined"
                  for tenant in self.tenants for name in tenant.manages if name not in known | {"*"} and not name.startswith("~")]  # fmt: skip
        keys = {key.name for key in self.keys}
        for rule in self.rules:
            for each in (rule.when, rule.unless or Conditions()):
                found += [f"rule {rule.name!r} wants a signature by {name!r}, which is no key"
                          for name in each.signed_by if name not in keys and "*" not in name]  # fmt: skip
            if rule.when == Conditions() and rule.unless is None:
                found.append(f"rule {rule.name!r} has no condition: it holds for everything")
        return found


def parse(text: str) -> Policy:
    """The policy in a TOML document. Raises PolicyError."""
    try:
        found = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise PolicyError(f"no valid TOML: {error}") from None
    _only(found, ("default", "admins", "tenant", "trust", "key", "rule"), "the policy")
    tenants = tuple(_tenant(row, index) for index, row in enumerate(_tables(found, "tenant"), 1))
    by_user: dict[str, str] = {}
    for tenant in tenants:
        for user in tenant.users:
            if user in by_user:
                raise PolicyError(f"the user {user!r} is of two tenants, {by_user[user]!r} and {tenant.name!r}")
            by_user[user] = tenant.name
    _unique([tenant.name for tenant in tenants], "tenant")
    keys = tuple(_key(row, index) for index, row in enumerate(_tables(found, "key"), 1))
    _unique([key.name for key in keys], "key")
    rules = tuple(_rule(row, index) for index, row in enumerate(_tables(found, "rule"), 1))
    trust = []
    for index, row in enumerate(_tables(found, "trust"), 1):
        _only(row, ("tenants",), f"trust {index}")
        trust.append(frozenset(_texts(row, "tenants", f"trust {index}")))
    return Policy(_isolation(found.get("default", CONTAINER), "default"), _texts(found, "admins", "the policy") if "admins" in found else ("root",),
                  tenants, tuple(trust), keys, rules, by_user)  # fmt: skip


def _tenant(row: Row, index: int) -> Tenant:
    where = f"tenant {row.get('name') or index}"
    _only(row, ("name", "users", "trusted", "mounts", "manages"), where)
    mounts = _texts(row, "mounts", where)
    for path in mounts:
        if not path.startswith("/"):
            raise PolicyError(f"{where}: the mount {path!r} is no absolute path")
    name = _text(row, "name", where)
    if name.startswith("~") or name == "*":
        raise PolicyError(f"{where}: a name can't be '*' nor begin with '~', which is for users that no tenant names")
    return Tenant(name, _texts(row, "users", where), _flag(row, "trusted", where) or False, mounts,
                  _texts(row, "manages", where))  # fmt: skip


def _key(row: Row, index: int) -> Key:
    where = f"key {row.get('name') or index}"
    _only(row, ("name", "file"), where)
    return Key(_text(row, "name", where), _text(row, "file", where))


_LISTS = tuple(each.name for each in fields(Conditions) if each.name not in ("signed", "privileged"))


def _rule(row: Row, index: int) -> Rule:
    where = f"rule {row.get('name') or index}"
    _only(row, ("name", "isolation", "except", "signed", "privileged", *_LISTS), where)
    if "isolation" not in row:
        raise PolicyError(f"{where}: says no isolation: container, vm or deny")
    unless = row.get("except")
    if unless is not None:
        if not isinstance(unless, dict):
            raise PolicyError(f"{where}: except must be a table")
        _only(unless, ("signed", "privileged", *_LISTS), f"{where}: except")
        if not unless:
            raise PolicyError(f"{where}: except is empty, so the rule would never hold")
    return Rule(str(row.get("name") or f"rule {index}"), _isolation(row["isolation"], where), _conditions(row, where),
                None if unless is None else _conditions(unless, f"{where}: except"))  # fmt: skip


def _conditions(row: Row, where: str) -> Conditions:
    found = {name: _texts(row, name, where) for name in _LISTS}
    for name in _LISTS:
        if name in row and not found[name]:
            raise PolicyError(f"{where}: {name} is empty")
    found["capability"] = tuple(text.upper().removeprefix("CAP_") for text in found["capability"])
    return Conditions(**found, signed=_flag(row, "signed", where), privileged=_flag(row, "privileged", where))


def _isolation(value: object, where: str) -> str:
    if value not in STRICTNESS:
        raise PolicyError(f"{where}: the isolation {value!r} is unknown: container, vm or deny")
    return str(value)


def _tables(found: Row, key: str) -> list[Row]:
    rows = found.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PolicyError(f"{key} must be tables, written as [[{key}]]")
    return rows


def _texts(row: Row, key: str, where: str) -> tuple[str, ...]:
    value = row.get(key, [])
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) and item for item in values):
        raise PolicyError(f"{where}: {key} must be a text or a list of texts")
    return tuple(values)


def _text(row: Row, key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise PolicyError(f"{where}: {key} is missing")
    return value


def _flag(row: Row, key: str, where: str) -> bool | None:
    value = row.get(key)
    if value is not None and not isinstance(value, bool):
        raise PolicyError(f"{where}: {key} must be true or false")
    return value


def _only(row: Row, known: tuple[str, ...], where: str) -> None:
    for key in row:
        if key not in known:
            raise PolicyError(f"{where}: {key!r} is unknown; known are {', '.join(known)}")


def _unique(names: list[str], kind: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise PolicyError(f"the {kind} {name!r} is defined twice")
