"""pull, push, login, logout and search."""

from __future__ import annotations

import sys

from sampan.cli import credentials, transfers
from sampan.cli.arguments import filters, need
from sampan.cli.flags import INT, LIST, STR, Flag, UsageError, parse
from sampan.cli.output import rows_out
from sampan.client.connection import engine
from sampan.client.http import Http, query
from sampan.oci.reference import split


def pull_image(http: Http, name: str, platform: str = "", quiet: bool = False, everything: bool = False) -> None:
    """Pulls an image and shows how it goes. Raises APIError."""
    repository, tag = split(name)
    if not everything and not tag:
        tag = "latest"
        if not quiet:
            print("Using default tag: latest", file=sys.stderr if not sys.stdout.isatty() else sys.stdout)
    wanted = query(fromImage=repository, tag=None if everything else tag, platform=platform or None)
    answer = http.send("POST", f"/images/create{wanted}", headers=credentials.header(name))
    transfers.show(answer.lines(), quiet)


def pull(args: list[str]) -> int:
    """pull [OPTIONS] NAME[:TAG|@DIGEST]"""
    v, names = parse([Flag("all-tags", "a"), Flag("quiet", "q"), Flag("platform", "", STR),
                      Flag("disable-content-trust", "")], args)  # fmt: skip
    need(names, 1, "pull NAME[:TAG|@DIGEST]")
    if v["all-tags"] and split(names[0])[1]:
        raise UsageError("tag can't be used with --all-tags/-a")
    pull_image(engine(), names[0], v["platform"], v["quiet"], v["all-tags"])
    if v["quiet"]:
        print(names[0])
    return 0


def push(args: list[str]) -> int:
    """push [OPTIONS] NAME[:TAG]"""
    v, names = parse([Flag("all-tags", "a"), Flag("quiet", "q"), Flag("platform", "", STR),
                      Flag("disable-content-trust", "")], args)  # fmt: skip
    need(names, 1, "push NAME[:TAG]")
    repository, tag = split(names[0])
    if v["all-tags"] and tag:
        raise UsageError("tag can't be used with --all-tags/-a")
    if not tag and not v["all-tags"]:
        tag = "latest"
    answer = engine().send("POST", f"/images/{repository}/push{query(tag=tag or None)}",
                           headers=credentials.header(names[0]) or "X-Registry-Auth: e30=\r\n")  # fmt: skip
    transfers.show(answer.lines(), v["quiet"])
    if v["quiet"]:
        print(names[0])
    return 0


def login(args: list[str]) -> int:
    """login [OPTIONS] [SERVER]"""
    v, names = parse([Flag("username", "u", STR), Flag("password", "p", STR), Flag("password-stdin")], args)
    key = credentials.key_of(names[0] if names else "")
    username, password = v["username"], v["password"]
    if v["password-stdin"]:
        if password:
            raise UsageError("--password and --password-stdin are mutually exclusive")
        if not username:
            raise UsageError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        print("WARNING! Using --password via the CLI is insecure. Use --password-stdin.", file=sys.stderr)
    if not username or not password:
        username, password = _prompt(username)
    body = {"username": username, "password": password, "serveraddress": key}
    answer = engine().call("POST", "/auth", body)
    where = credentials.store(key, username, password, answer.get("IdentityToken") or "")
    if not where.startswith("docker-credential-"):
        print(f"\nWARNING! Your credentials are stored unencrypted in '{where}'.", file=sys.stderr)
    print(f"\n{answer['Status']}")
    return 0


def _prompt(username: str) -> tuple[str, str]:
    import getpass

    if not sys.stdin.isatty():
        raise UsageError(
            "Cannot perform an interactive login from a non TTY device: use --username and --password-stdin"
        )
    username = username or input("Username: ")
    return username, getpass.getpass("Password: ")


def logout(args: list[str]) -> int:
    """logout [SERVER]"""
    key = credentials.key_of(args[0] if args else "")
    if credentials.erase(key):
        print(f"Removing login credentials for {key}")
    else:
        print(f"Not logged in to {key}")
    return 0


def search(args: list[str]) -> int:
    """search [OPTIONS] TERM (HOST/TERM searches a registry's catalogue)"""
    v, names = parse(
        [Flag("filter", "f", LIST), Flag("format", "", STR), Flag("limit", "", INT), Flag("no-trunc")], args
    )
    need(names, 1, "search TERM")
    wanted = query(term=names[0], limit=v["limit"] or 25, filters=filters(v["filter"]) if v["filter"] else None)
    answer = engine().send("GET", f"/images/search{wanted}", headers=credentials.header(names[0]))
    from sampan import quickjson

    rows = [
        {"Name": row["name"], "Description": (row.get("description") or "")[: None if v["no-trunc"] else 45],
         "StarCount": str(row.get("star_count") or 0), "IsOfficial": "[OK]" if row.get("is_official") else ""}
        for row in quickjson.loads(answer.read())
    ]  # fmt: skip
    columns = [("NAME", "Name"), ("DESCRIPTION", "Description"), ("STARS", "StarCount"), ("OFFICIAL", "IsOfficial")]
    return rows_out(rows, columns, v["format"])
