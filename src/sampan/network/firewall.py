"""Our two nftables tables in the kernel, and keeping them in place: for what is routed, and for each port of a bridge.

Nobody else's rules are read or changed. Other tables' base chains still see our packets: what a host
firewall drops stays dropped, as nftables wants it. Ours are owned where the kernel has that (Linux 6.9): then a flush or
reload of the host's firewall passes them by, and nothing is open for a moment. Elsewhere they are put back when somebody
has changed them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from sampan.linux import nftables
from sampan.linux.nftables import BRIDGE, INET, OWNED, PERSISTENT, Batch, Nftables, NftablesError, Table
from sampan.network import portfilter, routed
from sampan.network.model import Endpoint, Network
from sampan.network.portfilter import Gateway, Keys
from sampan.network.routed import Published

OLD_TABLE = "sampan"  # of engines without an id
_PATIENCE = 5.0  # seconds that a daemon before us may still hold the tables


class Firewall:
    """Our tables. `table`: their name, which nobody else has; `prefix`: how the names of our ports begin."""

    def __init__(self, table: str, prefix: str) -> None:
        self.table, self._prefix = table, prefix
        self._nftables = Nftables()
        self._lock = threading.RLock()
        self._flags: int | None = None
        self._networks: list[Network] = []
        self._published: list[Published] = []
        self._shape: object = None  # what the tables were made for
        self._gateways: list[Gateway] = []
        self._ports: dict[str, Keys] = {}  # those that may speak
        self._ended: dict[str, Keys] = {}  # those whose elements are still there
        self._listing: object = None

    @property
    def applied(self) -> bool:
        """Whether there is a table."""
        return self._shape is not None

    @property
    def owned(self) -> bool:
        """Whether the kernel keeps everybody else from our tables."""
        with self._lock:
            if self._flags is None:
                self._flags = OWNED | PERSISTENT if nftables.supports(OWNED | PERSISTENT, f"{self.table}-probe") else 0
            return bool(self._flags)

    def apply(self, networks: Iterable[Network], published: Iterable[Published]) -> None:
        """Brings the tables in line. Raises NftablesError; then the old ones stay."""
        networks, published = [n for n in networks if n.driver == "bridge"], list(published)
        shape = ([_shape(network) for network in networks], set(published))
        with self._lock:
            if shape == self._shape:
                return
            before = self._networks, self._published, self._gateways
            self._networks, self._published = networks, published
            self._gateways = [portfilter.gateway_of(network) for network in networks]
            try:
                self._replace(self._predecessor(networks) if not self.applied else None)
            except BaseException:
                self._networks, self._published, self._gateways = before
                raise
            self._shape = shape

    def _replace(self, predecessor: str | None = None) -> None:
        """Both tables anew, in one transaction."""
        batch = Batch()
        if predecessor:
            batch.delete_table(INET, predecessor)
        flags = OWNED | PERSISTENT if self.owned else 0
        others = tuple(sorted(name for name in self._ports if not name.startswith(self._prefix)))
        ports = routed.Ports(self._prefix, others)
        routed.build(batch, self.table, flags, self._networks, self._published, ports)
        portfilter.build(batch, self.table, flags, self._prefix, self._gateways, self._ports)
        self._commit(batch)
        self._ended.clear()
        if not self.owned:
            self._listing = self._list()

    def _commit(self, batch: Batch) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._nftables.commit(batch, "firewall")
                return
            except NftablesError as error:
                # A child of the daemon before us has not let go of its socket yet.
                if self.applied or not isinstance(error.__cause__, PermissionError) or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _predecessor(self, networks: list[Network]) -> str | None:
        """The table of an engine without an id, if it is the one that we were: it speaks of our bridges."""
        rules = b"".join(nftables.listing(INET, OLD_TABLE))
        ours = any(network.bridge.encode() + b"\0" in rules for network in networks)
        return OLD_TABLE if ours else None

    # ports

    def admit(self, network: Network, endpoint: Endpoint) -> None:
        """Lets an endpoint's port on its bridge speak, as itself. Raises NftablesError."""
        if network.driver != "bridge":
            return
        name, keys = endpoint.host_interface, portfilter.keys_of(network, endpoint)
        with self._lock:
            self._ports[name] = keys
            if not self.applied:
                return  # apply() will
            if not name.startswith(self._prefix):
                self._replace()
                return
            batch = Batch()
            table = Table(batch, BRIDGE, self.table)
            for ended in self._ended.values():
                for group, some in ended.items():
                    table.delete_elements(group, some)
            for group, some in keys.items():
                table.add_elements(group, some)
            try:
                self._nftables.commit(batch, "firewall")
                self._ended.clear()
            except NftablesError:  # somebody has changed it: see owned
                self._replace()

    def dismiss(self, endpoint: Endpoint) -> None:
        """The port is gone; its elements go with the next that comes, as nobody else has its name."""
        with self._lock:
            keys = self._ports.pop(endpoint.host_interface, None)
            if keys is not None and self.applied:
                self._ended[endpoint.host_interface] = keys

    # keeping it

    def _list(self) -> object:
        """All of both tables but for what comes and goes with ports."""
        sets = [(INET, name) for name in routed.SETS] + [(BRIDGE, name) for name in portfilter.SETS]
        keys = [nftables.elements(family, self.table, name) for family, name in sets]
        return [nftables.listing(family, self.table) for family in (INET, BRIDGE)], keys

    def intact(self) -> bool:
        """Whether the kernel has what we put there."""
        if self._list() != self._listing:
            return False
        there = [*self._ports.values(), *self._ended.values()]
        for group in portfilter.SENDERS:
            wanted = {key for keys in there for key in keys.get(group, [])}
            if nftables.elements(BRIDGE, self.table, group) != wanted:
                return False
        return True

    def restore(self) -> bool:
        """Puts the tables back if somebody has changed or flushed them. Whether it was needed."""
        with self._lock:
            if not self.applied or self.intact():
                return False
            self._replace()
            return True

    def remove(self) -> None:
        """Takes the tables away, whoever of us has made them. Raises NftablesError."""
        with self._lock:
            self._shape = None
            batch = Batch()
            for family in (INET, BRIDGE):
                batch.delete_table(family, self.table)
            self._commit(batch)


def _shape(network: Network) -> tuple[object, ...]:
    """All of a network that the tables depend on."""
    pools = tuple((pool.subnet, pool.gateway) for pool in network.ipam)
    return network.bridge, network.internal, network.icc, network.masquerades, network.antispoof, pools
