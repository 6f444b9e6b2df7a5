"""The isolation policy: its file, its decisions, and what no order of its rules can bring about."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sampan.engine.errors import Forbidden
from sampan.engine.events import Events
from sampan.engine.model import Device, HostConfig, Mount, MountType
from sampan.engine.policy import facts as of
from sampan.engine.policy.caller import Caller, Owner, at_page
from sampan.engine.policy.decide import decide
from sampan.engine.policy.gate import Gate
from sampan.engine.policy.model import Conditions, Facts, Policy, PolicyError, Rule, Tenant, parse
from tests.support.effort import tries


def container(request: Facts, own_kernel: bool) -> Any:
    """As much of a container as the gate looks at; its facts are those that it was made by."""
    return SimpleNamespace(id=request.user, isolation="vm" if own_kernel else "container", running=False, owner=request.user, claim=request.claim,
                           facts=request, networks={}, mounts=[], host_config=HostConfig())  # fmt: skip


def gate_of(containers: dict[str, Any], policy: Callable[[], Policy]) -> Gate:
    source: Any = SimpleNamespace(active=True, error="", path="", policy=policy)
    nothing: Any = None  # images, networks and owners, which are not asked about here
    gate = Gate(source, containers, nothing, nothing, nothing, Events())
    gate.facts_of = lambda made: made.facts  # type: ignore[method-assign, attr-defined]
    return gate


def somebody(user: str) -> Caller:
    return at_page(user)


POLICY = """
default = "container"

[[tenant]]
name = "ops"
users = ["root", "alice"]
trusted = true

[[tenant]]
name = "shop"
users = ["bob"]
mounts = ["/srv/shop"]

[[trust]]
tenants = ["ops", "shop"]

[[rule]]
name = "from outside"
registry = "*"
except = { registry = ["registry.example"] }
isolation = "vm"

[[rule]]
name = "no raw sockets"
capability = ["NET_RAW"]
isolation = "deny"
"""


def facts(user: str = "alice", **fields: Any) -> Facts:
    return Facts(user, **{"names": ("registry.example/app:1",), "registries": ("registry.example",), **fields})


@pytest.mark.parametrize(
    ("given_facts", "wanted", "reason"),
    [
        (facts(), "container", "no rule applies"),
        (facts(registries=("docker.io",)), "vm", "rule 'from outside': vm"),
        # A second name in a good registry is no way round the rule.
        (facts(registries=("registry.example", "docker.io")), "vm", "rule 'from outside'"),
        (facts(capabilities=("NET_RAW",)), "deny", "no raw sockets"),
        (facts(privileged_options=("--privileged",)), "container", "no rule applies"),
        (facts("bob", privileged_options=("--privileged",)), "vm", "--privileged by shop"),
        (facts("bob", mounts=("/etc",)), "deny", "/etc is the host's"),
        (facts("bob", mounts=("/srv/shop/data",)), "container", "no rule applies"),
        (facts("bob", mounts=("/srv/shopping",)), "deny", "/srv/shopping"),
        (facts(asked="vm"), "vm", "was asked for"),
        (facts(asked="container", registries=("docker.io",)), "deny", "only a virtual machine is allowed"),
        (facts("bob", claim="ops", privileged_options=("--privileged",)), "vm", "by shop"),
        (facts("root", claim="shop", privileged_options=("--privileged",)), "vm", "by shop"),
    ],
)  # fmt: skip
def test_decisions(given_facts: Facts, wanted: str, reason: str) -> None:
    found = decide(parse(POLICY), given_facts, {"ops"})
    assert found.isolation == wanted
    assert reason in "; ".join(found.reasons)


def test_tenants_who_do_not_trust_each_other_get_a_kernel_each() -> None:
    policy = parse(POLICY)
    assert decide(policy, facts(), {"shop"}).isolation == "container"
    assert decide(policy, facts("carol"), {"shop"}).isolation == "vm"
    assert decide(policy, facts("carol"), {"~carol"}).isolation == "container"
    assert decide(policy, facts("carol", asked="container"), {"ops"}).isolation == "deny"
    everybody = parse('[[trust]]\ntenants = ["*"]')
    assert decide(everybody, facts("carol"), {"ops", "shop"}).isolation == "container"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("default = 'docker'", "default: the isolation 'docker' is unknown"),
        ("defalt = 'vm'", "'defalt' is unknown"),
        ("[[rule]]\nimage = 'a'", "rule 1: says no isolation"),
        ("[[rule]]\nname = 'x'\nisolation = 'vm'\nimages = 'a'", "rule x: 'images' is unknown"),
        ("[[rule]]\nisolation = 'vm'\nimage = []", "image is empty"),
        ("[[rule]]\nisolation = 'vm'\nimage = [1]", "image must be a text"),
        ("[[rule]]\nisolation = 'vm'\nsigned = 'yes'", "signed must be true or false"),
        ("[[rule]]\nisolation = 'vm'\nexcept = {}", "except is empty"),
        ("[[tenant]]\nusers = ['a']", "name is missing"),
        ("[[tenant]]\nname = '~a'", "can't be '*'"),
        ("[[tenant]]\nname = 'a'\nmounts = ['x']", "no absolute path"),
        ("[[tenant]]\nname = 'a'\nusers = ['u']\n[[tenant]]\nname = 'b'\nusers = ['u']", "is of two tenants"),
        ("[[tenant]]\nname = 'a'\n[[tenant]]\nname = 'a'", "defined twice"),
        ("[tenant]\nname = 'a'", "written as [[tenant]]"),
        ("rule = 1", "written as [[rule]]"),
        ("= broken", "no valid TOML"),
    ],
)
def test_a_wrong_policy_is_told_where(text: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint.replace("[", r"\[").replace("*", r"\*")):
        parse(text)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        assert isinstance(parse(text), Policy)
    except PolicyError:
        pass


def test_what_is_dangerous_is_named_as_it_was_written() -> None:
    host = HostConfig(
        privileged=True, pid_mode="host", capabilities_added=("cap_sys_admin", "CHOWN"), devices=(Device("/dev/sda"),),
        security_options=("seccomp=unconfined", "no-new-privileges"), network_mode="host",
    )  # fmt: skip
    assert of.privileged_options(host) == ["--privileged", "--network host", "--pid host", "--cap-add SYS_ADMIN", "--device /dev/sda",
                                "--security-opt seccomp=unconfined"]  # fmt: skip
    assert of.privileged_options(HostConfig(network_mode="default")) == []


def test_notes_on_what_is_probably_not_meant() -> None:
    found = parse(
        "[[trust]]\ntenants = ['a']\n[[rule]]\nisolation = 'vm'\nsigned_by = 'k'\n[[rule]]\nisolation = 'vm'"
    ).notes()
    assert any("'a', which is not defined" in text for text in found)
    assert any("'k', which is no key" in text for text in found)
    assert any("no condition" in text for text in found)


# properties

NAMES = ["ops", "shop", "lab"]
isolations = st.sampled_from(["container", "container", "container", "vm", "deny"])  # where they may meet
conditions = st.builds(
    Conditions,
    tenant=st.sampled_from([(), ("ops",), ("shop",), ("*",)]),
    image=st.sampled_from([(), ("a*",), ("*",)]),
    label=st.sampled_from([(), ("x=*",)]),
    privileged=st.sampled_from([None, True, False]),
    signed=st.sampled_from([None, True]),
)
rules = st.builds(Rule, st.just("r"), isolations, conditions, st.one_of(st.none(), conditions))
policies = st.builds(
    lambda default, trust, rows, trusted: Policy(
        default,
        tenants=tuple(Tenant(name, (name,), name in trusted) for name in NAMES),
        trust=tuple(frozenset(group) for group in trust),
        rules=tuple(rows),
        _by_user={name: name for name in NAMES},
    ),
    st.sampled_from(["container", "container", "vm"]),
    st.lists(st.sets(st.sampled_from(NAMES), min_size=1, max_size=2), max_size=2),
    st.lists(rules, max_size=4),
    st.sets(st.sampled_from(NAMES)),
)
requests = st.builds(
    Facts,
    st.sampled_from([*NAMES, "stranger"]),
    names=st.sampled_from([("app:1",), ("base:1",)]),
    labels=st.sampled_from([(), (("x", "1"),)]),
    privileged_options=st.sampled_from([(), (), (), ("--privileged",)]),
    asked=st.sampled_from(["", "", "", "container", "vm"]),
)


@given(policies, requests, st.sets(st.sampled_from(NAMES)), st.randoms())
def test_the_order_of_rules_means_nothing(policy: Policy, request: Facts, others: set[str], rng: random.Random) -> None:
    first = decide(policy, request, others)
    shuffled = list(policy.rules)
    rng.shuffle(shuffled)
    other = decide(
        Policy(policy.default, policy.admins, policy.tenants, policy.trust, (), tuple(shuffled), policy._by_user),
        request,
        others,
    )
    assert other.isolation == first.isolation
    assert sorted(other.reasons) == sorted(first.reasons)


def test_a_start_after_a_change_of_the_policy() -> None:
    policy = parse(POLICY)
    containers: dict[str, Any] = {}
    gate = gate_of(containers, lambda: policy)
    for user in ("alice", "bob"):
        containers[user] = container(facts(user), False)
    with gate.starting(containers["alice"]):
        containers["alice"].running = True
    policy = parse(POLICY.replace('tenants = ["ops", "shop"]', 'tenants = ["ops"]'))
    with (
        pytest.raises(Forbidden, match="containers of ops, whom shop does not share"),
        gate.starting(containers["bob"]),
    ):
        raise AssertionError("it must not come to this")
    containers["bob"].running = True  # it ran before the change
    assert gate.conflicts(policy) == [
        "ops and shop share the host's kernel, though the policy does not let them: stop the containers of one"
    ]


def test_paths_are_a_matter_of_trust_and_not_of_rules() -> None:
    policy = parse(POLICY.replace('default = "container"', 'default = "deny"'))
    gate = gate_of({}, lambda: policy)
    gate.may_have(somebody("alice"), "/etc/hostname")
    gate.may_have(somebody("bob"), "/srv/shop/x")
    with pytest.raises(Forbidden, match="/etc/hostname is the host's, and shop may not"):
        gate.may_have(somebody("bob"), "/etc/hostname")


class Tenants(RuleBasedStateMachine):
    """Anything that users ask for, under any policy whose rules are shuffled at will: the gate that the engine asks decides."""

    @initialize(policy=policies)
    def begin(self, policy: Policy) -> None:
        self.policy = policy
        self.containers: dict[str, Any] = {}
        self.gate = gate_of(self.containers, lambda: self.policy)

    @rule(rng=st.randoms())
    def shuffle(self, rng: random.Random) -> None:
        rows = list(self.policy.rules)
        rng.shuffle(rows)
        self.policy = Policy(self.policy.default, self.policy.admins, self.policy.tenants, self.policy.trust, (), tuple(rows),
                             self.policy._by_user)  # fmt: skip

    @rule(request=requests, at_once=st.lists(requests, max_size=1))
    def create(self, request: Facts, at_once: list[Facts]) -> None:
        identifier = f"c{len(self.containers)}-{random.random()}"
        try:
            with self.gate.admitted(somebody(request.user), identifier, request) as decision:
                for other in at_once:  # asked for while the first is being made
                    self.create(other, [])
                made = self.containers[identifier] = container(request, decision.isolation == "vm")
                made.id = identifier
        except Forbidden:
            pass

    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        stopped = sorted(key for key, container in self.containers.items() if not container.running)
        if stopped:
            container = self.containers[data.draw(st.sampled_from(stopped))]
            with self.gate.starting(container):  # what could be made can be started
                container.running = True

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.containers:
            del self.containers[data.draw(st.sampled_from(sorted(self.containers)))]

    @invariant()
    def nobody_shares_a_kernel_with_a_stranger(self) -> None:
        if not hasattr(self, "policy"):
            return
        here = {
            self.policy.tenant(c.owner, c.claim)
            for c in self.containers.values()
            if c.running and c.isolation == "container"
        }
        for one in here:
            for other in here:
                assert self.policy.trusts(one, other), (one, other)
        assert self.gate.conflicts(self.policy) == []


Tenants.TestCase.settings = settings(
    max_examples=tries(80, 400), stateful_step_count=30, suppress_health_check=list(HealthCheck), deadline=None
)
TestTenants = Tenants.TestCase


def test_where_links_lead_is_not_told(tmp_path: Path) -> None:
    """The engine reads links that the tenant can't, /proc/1/cwd for one: a refusal would be a way to read them."""
    secret, link = tmp_path / "secret", tmp_path / "link"
    link.symlink_to(secret)
    rows = [Mount(kind=MountType.BIND, destination="/x", source=str(link))]
    made = of.make(Owner("bob"), "", [], [], {}, HostConfig(), [], rows, "")
    assert made.mounts == (str(secret),)
    policy = parse(POLICY)
    found = decide(policy, made, ())
    assert (found.isolation, str(link) in str(found.reasons), "secret" in str(found)) == ("deny", True, False)
    engine: Any = SimpleNamespace(containers={}, events=Events(), isolation="")
    gate = gate_of(engine, lambda: policy)
    bob = container(facts("bob"), False)
    bob.mounts = rows
    for ask in (gate.allowed(bob), lambda path: gate.may_have(somebody("bob"), path, str(link))):
        with pytest.raises(Forbidden) as refused:
            ask(str(secret))
        assert "secret" not in str(refused.value)


def test_rules_of_paths_hold_for_what_is_opened() -> None:
    """A name may lead elsewhere by the time that it is opened: rules are asked of that, too."""
    policy = parse(
        POLICY
        + """
[[rule]]
name = "secrets"
mount = "/srv/shop/secret*"
isolation = "deny"
[[rule]]
name = "known places"
label = "careful"
isolation = "deny"
except = { mount = "/srv/shop/known*" }
"""
    )
    gate = gate_of({}, lambda: policy)
    bob = container(facts("bob", mounts=("/srv/shop/harmless",)), False)
    gate.allowed(bob)("/srv/shop/harmless")
    with pytest.raises(Forbidden, match="leads to by now: rule 'secrets': deny"):
        gate.allowed(bob)("/srv/shop/secret/key")
    with pytest.raises(Forbidden, match="/srv/shop/secret/key: rule 'secrets': deny"):
        gate.may_have(somebody("bob"), "/srv/shop/secret/key")
    careful = container(facts("bob", labels=(("careful", "1"),), mounts=("/srv/shop/known",)), True)
    gate.allowed(careful)("/srv/shop/known/x")
    with pytest.raises(Forbidden, match="rule 'known places'"):
        gate.allowed(careful)("/srv/shop/other")


@pytest.mark.parametrize(
    ("exception", "given", "excepted"),
    [
        ('network = "inner"', {"networks": ("inner",)}, True),
        ('network = "inner"', {"networks": ("inner", "outer")}, False),
        ('network = "bridge"', {"networks": ("bridge", "default")}, True),
        ('network = "default"', {"networks": ("bridge", "default")}, True),
        ('network = "default"', {"networks": ("bridge", "inner", "default")}, False),
        ('capability = "NET_ADMIN"', {"capabilities": ("NET_ADMIN",)}, True),
        ('capability = "NET_ADMIN"', {"capabilities": ("NET_ADMIN", "CHOWN")}, False),
        ('capability = "NET_ADMIN"', {"capabilities": ("ALL", "NET_ADMIN")}, False),
        ('capability = "ALL"', {"capabilities": ("ALL", "NET_ADMIN")}, True),
    ],
)
def test_an_exception_is_of_all_that_is_asked_for(exception: str, given: dict[str, Any], excepted: bool) -> None:
    policy = parse(f'[[rule]]\nname = "r"\nisolation = "deny"\nexcept = {{ {exception} }}\n')
    assert (decide(policy, facts("alice", **given), ()).isolation != "deny") == excepted
