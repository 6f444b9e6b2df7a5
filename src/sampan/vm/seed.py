"""What a guest is to be, as cloud-init reads it from a CD (NoCloud, network configuration version 2)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sampan.network.model import Endpoint, Network


@dataclass(frozen=True, slots=True)
class Guest:
    """Who can enter it and how. `user_data`: a document that replaces what is made of the others."""

    user: str = ""
    password: str = ""
    ssh_keys: tuple[str, ...] = ()
    user_data: str = ""


def place(network: Network, endpoint: Endpoint, default: bool) -> dict[str, object]:
    """One interface of the network configuration."""
    found: dict[str, Any] = {"match": {"macaddress": endpoint.mac}, "set-name": endpoint.interface, "dhcp4": False,
                             "addresses": [text for text in (endpoint.ipv4, endpoint.ipv6) if text]}  # fmt: skip
    if network.mtu:
        found["mtu"] = network.mtu
    if default and not network.internal:
        found["routes"] = [
            {"to": "::/0" if pool.version == 6 else "0.0.0.0/0", "via": pool.gateway} for pool in network.ipam
        ]
    return found


def files(
    identifier: str, hostname: str, guest: Guest, places: list[dict[str, object]], servers: list[str]
) -> dict[str, str]:
    """meta-data, user-data and network-config. JSON is YAML, so nothing needs to be escaped for it."""
    for row in places:
        if servers:
            row["nameservers"] = {"addresses": servers}
    ethernets = {row["set-name"]: row for row in places}
    return {
        "meta-data": json.dumps({"instance-id": identifier[:12], "local-hostname": hostname}, indent=1) + "\n",
        "user-data": guest.user_data or f"#cloud-config\n{json.dumps(_user_data(guest), indent=1)}\n",
        "network-config": json.dumps({"version": 2, "ethernets": ethernets}, indent=1) + "\n",
    }


def _user_data(guest: Guest) -> dict[str, object]:
    found: dict[str, Any] = {"ssh_pwauth": False, "disable_root": False}
    keys = list(guest.ssh_keys)
    name = guest.user
    if name and name != "root":
        user: dict[str, Any] = {"name": name, "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL", "ssh_authorized_keys": keys,
                                "lock_passwd": not guest.password}  # fmt: skip
        if guest.password:
            user["plain_text_passwd"] = guest.password
        found["users"] = [user]
    elif keys:
        found["ssh_authorized_keys"] = keys
    if guest.password:
        found["ssh_pwauth"] = True
        if not name or name == "root":
            found["chpasswd"] = {
                "expire": False,
                "users": [{"name": "root", "password": guest.password, "type": "text"}],
            }
    return found
