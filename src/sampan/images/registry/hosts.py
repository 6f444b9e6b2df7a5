"""Where a registry is: its addresses, mirrors, and how far its TLS is to be trusted."""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass, field

from sampan.images.registry.errors import RegistryError
from sampan.oci.reference import DEFAULT_REGISTRY

# docker.io is a name, not a host.
_DEFAULT_HOST = "registry-1.docker.io"
_CERTIFICATES = ("/etc/sampan/certs.d", "/etc/docker/certs.d")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address to try. `credentials`: whether the user's may be shown to it."""

    url: str
    host: str
    verify: bool = True
    credentials: bool = True

    def ssl(self) -> ssl.SSLContext | bool:
        """The context for its connections: certs.d/HOST/*.crt is trusted, *.cert with *.key shown.

        Raises RegistryError for a damaged certificate.
        """
        if not self.verify:
            return False
        for top in _CERTIFICATES:
            directory = f"{top}/{self.host}"
            if os.path.isdir(directory):
                return _context(directory)
        return True


def _context(directory: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        for name in sorted(os.listdir(directory)):
            path = f"{directory}/{name}"
            if name.endswith(".crt"):
                context.load_verify_locations(path)
            elif name.endswith(".cert"):
                context.load_cert_chain(path, f"{path.removesuffix('.cert')}.key")
    except (OSError, ssl.SSLError) as error:
        raise RegistryError(f"certificates in {directory}: {error}") from None
    return context


@dataclass(slots=True)
class Hosts:
    """The daemon's settings: mirrors of docker.io, and registries that may do without good TLS."""

    mirrors: list[str] = field(default_factory=list)
    insecure: list[str] = field(default_factory=list)

    def endpoints(self, registry: str, push: bool = False) -> list[Endpoint]:
        """The addresses of a registry in the order to try them."""
        found = []
        if registry == DEFAULT_REGISTRY and not push:
            for mirror in self.mirrors:
                url = mirror.rstrip("/")
                host = url.partition("://")[2]
                found.append(Endpoint(url, host, verify=not self.is_insecure(host), credentials=False))
        host = _DEFAULT_HOST if registry == DEFAULT_REGISTRY else registry
        if self.is_insecure(host):
            found += [Endpoint(f"https://{host}", host, verify=False), Endpoint(f"http://{host}", host)]
        else:
            found.append(Endpoint(f"https://{host}", host))
        return found

    def is_insecure(self, host: str) -> bool:
        """Whether plain HTTP and unknown certificates will do: loopback, and what the settings name.

        A loopback registry with a certificate of its own in certs.d is taken at its word.
        """
        if any(os.path.isdir(f"{top}/{host}") for top in _CERTIFICATES):
            return False
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        name = name.strip("[]")
        if host in self.insecure or name in self.insecure or name == "localhost":
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        networks = [ipaddress.ip_network(item, strict=False) for item in self.insecure if "/" in item]
        return address.is_loopback or any(address in network for network in networks)
