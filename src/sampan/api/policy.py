"""The isolation policy over the API: what it says, and what it would decide."""

from __future__ import annotations

from aiohttp import web

from sampan.api import access, decode
from sampan.api.requests import body, engine_of
from sampan.engine.errors import BadRequest, Forbidden, NotFound
from sampan.engine.policy.caller import at_page
from sampan.engine.policy.model import Policy, PolicyError, parse
from sampan.engine.policy.operation import Verb
from sampan.images import signatures
from sampan.images.errors import ImageNotFound


async def check(request: web.Request) -> web.Response:
    """POST /sampan/policy/check: the policy in use, or the one in the body's "Text"; errors name their place."""
    engine = engine_of(request)
    wanted = await body(request, optional=True)
    source = engine.gate.source
    if "Text" in wanted:
        return web.json_response(_answer("", _parsed(str(wanted["Text"])), []))
    if not source.active:
        return web.json_response({"Path": source.path, "Active": False, "Error": "", "Notes": []})
    try:
        found = _answer(source.path, source.policy(), engine.gate.conflicts(source.policy()))
    except PolicyError as error:
        raise BadRequest(str(error)) from None
    return web.json_response(found | {"Error": source.error})


def _parsed(text: str) -> Policy:
    try:
        return parse(text)
    except PolicyError as error:
        raise BadRequest(str(error)) from None


def _answer(path: str, policy: Policy, conflicts: list[str]) -> dict[str, object]:
    unreadable = [
        f"key {key.name!r}: {key.file} holds no public key" for key in policy.keys if not signatures.readable(key.file)
    ]
    return {
        "Path": path,
        "Active": True,
        "Error": "",
        "Default": policy.default,
        "Tenants": [
            {"Name": tenant.name, "Users": list(tenant.users), "Trusted": tenant.trusted} for tenant in policy.tenants
        ],
        "Rules": [{"Name": rule.name, "Isolation": rule.isolation} for rule in policy.rules],
        "Notes": [*policy.notes(), *unreadable, *conflicts],
    }


async def explain(request: web.Request) -> web.Response:
    """POST /sampan/policy/explain?as=USER: what would become of the request to create that is the body, and why."""
    engine = engine_of(request)
    wanted = decode.create_request(await body(request))
    caller, user = access.who(request), request.query.get("as", "")
    other = caller
    if user and user != caller.user:
        if caller.uid != 0:
            raise Forbidden("only root may ask about other users")
        engine.gate.ask_engine(caller, Verb.ADMINISTER)
        other = at_page(user)
    try:
        image = engine.finding.image(other, wanted.config.image, Verb.USE)
        facts = engine.requests.explained(other, wanted, image)
    except ImageNotFound:
        raise NotFound(f"No such image: {wanted.config.image or None}") from None
    decision = engine.gate.decide(facts)
    return web.json_response(
        {
            "Isolation": decision.isolation,
            "User": facts.user,
            "Tenant": decision.tenant,
            "Reasons": decision.reasons,
            "Passed": decision.passed,
            "Signers": list(facts.signers),
            "Options": list(facts.privileged_options),
        }
    )
