"""pull, push, login, logout and search."""

from __future__ import annotations

import sys

from sampan.cli import credentials, transfers
from sampan.cli.arguments import filters, platform
from sampan.cli.flags import UsageError, Values
from sampan.cli.output import Row, rows_out
from sampan.cli.session import warn
from sampan.client.connection import engine
from sampan.client.http import Http, at, query
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


def pull(v: Values, names: list[str]) -> int:
    """pull"""
    if v.on("all-tags") and split(names[0])[1]:
        raise UsageError("tag can't be used with --all-tags/-a")
    pull_image(engine(), names[0], v.text("platform"), v.on("quiet"), v.on("all-tags"))
    if v.on("quiet"):
        print(names[0])
    return 0


def push(v: Values, names: list[str]) -> int:
    """push"""
    push_image(names[0], v.on("all-tags"), v.on("quiet"), v.text("platform"))
    return 0


def push_image(name: str, everything: bool = False, quiet: bool = False, only: str = "") -> None:
    """Pushes an image, or all tags of a repository, and shows how it goes. Raises APIError, UsageError."""
    repository, tag = split(name)
    if everything and tag:
        raise UsageError("tag can't be used with --all-tags/-a")
    if not tag and not everything:
        tag = "latest"
    answer = engine().send("POST", at("/images/{}/push", repository) + query(tag=tag or None, platform=platform(only)),
                           headers=credentials.header(name) or "X-Registry-Auth: e30=\r\n")  # fmt: skip
    transfers.show(answer.lines(), quiet)
    if quiet:
        print(name)


def login(v: Values, names: list[str]) -> int:
    """login"""
    key = credentials.key_of(names[0] if names else "")
    username, password = v.text("username"), v.text("password")
    if v.on("password-stdin"):
        if password:
            raise UsageError("--password and --password-stdin are mutually exclusive")
        if not username:
            raise UsageError("Must provide --username with --password-stdin")
        password = sys.stdin.read().rstrip("\r\n")
    elif password:
        warn("Using --password via the CLI is insecure. Use --password-stdin.")
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


def logout(v: Values, names: list[str]) -> int:
    """logout"""
    key = credentials.key_of(names[0] if names else "")
    if credentials.erase(key):
        print(f"Removing login credentials for {key}")
    else:
        print(f"Not logged in to {key}")
    return 0


def search(v: Values, names: list[str]) -> int:
    """search: a registry's images, or, with HOST/TERM, that registry's catalogue."""
    wanted = query(
        term=names[0], limit=v.number("limit") or 25, filters=filters(v.items("filter")) if v.items("filter") else None
    )
    answer = engine().send("GET", f"/images/search{wanted}", headers=credentials.header(names[0]))
    from sampan import quickjson

    rows = [
        Row({"Name": row["name"], "Description": _short(row.get("description") or "", v.on("no-trunc")),
             "StarCount": str(row.get("star_count") or 0), "IsOfficial": "[OK]" if row.get("is_official") else ""},
            "*formatter.searchContext")
        for row in quickjson.loads(answer.read())
    ]  # fmt: skip
    columns = [("NAME", "Name"), ("DESCRIPTION", "Description"), ("STARS", "StarCount"), ("OFFICIAL", "IsOfficial")]
    return rows_out(rows, columns, v.text("format"))


def _short(text: str, whole: bool) -> str:
    line = text.replace("\n", " ").replace("\r", " ")
    return line if whole or len(line) <= 45 else f"{line[:44]}…"
