"""Commands on networks."""

from __future__ import annotations

from sampan.cli.flags import BOOL, INT, LIST, STR, STRINGS, Command, Flag

COMMANDS = (
    Command(
        "network connect",
        "networks:connect",
        "Connect a container to a network",
        "NETWORK CONTAINER",
        flags=[
            Flag("alias", "", STRINGS, "Add network-scoped alias for the container"),
            Flag("driver-opt", "", STRINGS, "driver options for the network"),
            Flag(
                "gw-priority",
                "",
                INT,
                "Highest gw-priority provides the default gateway. Accepts positive and negative values",
            ),
            Flag("ip", "", STR, 'IPv4 address (e.g., "172.30.100.104")'),
            Flag("ip6", "", STR, 'IPv6 address (e.g., "2001:db8::33")'),
            Flag("link", "", LIST, "Add link to another container"),
            Flag("link-local-ip", "", STRINGS, "Add a link-local address for the container"),
            Flag("mac-address", "", STR, "MAC address of the container in the network"),
        ],
        least=2,
        most=2,
    ),
    Command(
        "network create",
        "networks:create",
        "Create a network",
        "NETWORK",
        flags=[
            Flag("ipv4", "", BOOL, "Enable IPv4 address assignment, which every network has", True),
            Flag("scope", "", STR, "Control the network's scope: local"),
            Flag("attachable", "", BOOL, "Enable manual container attachment"),
            Flag("aux-address", "", LIST, "Auxiliary IPv4 or IPv6 addresses used by Network driver", word="map"),
            Flag("config-from", "", STR, "The network from which to copy the configuration (refused: a swarm's)"),
            Flag("config-only", "", BOOL, "Create a configuration only network (refused: a swarm's)"),
            Flag("driver", "d", STR, "Driver to manage the Network", "bridge"),
            Flag("gateway", "", STRINGS, "IPv4 or IPv6 Gateway for the master subnet"),
            Flag("ingress", "", BOOL, "Create swarm routing-mesh network (refused: a swarm's)"),
            Flag("internal", "", BOOL, "Restrict external access to the network"),
            Flag("ip-range", "", STRINGS, "Allocate container ip from a sub-range"),
            Flag("ipam-driver", "", STR, "IP Address Management Driver", "default"),
            Flag("ipam-opt", "", LIST, "Set IPAM driver specific options", word="map"),
            Flag("ipv6", "", BOOL, "Enable or disable IPv6 address assignment"),
            Flag("label", "", LIST, "Set metadata on a network"),
            Flag("opt", "o", LIST, "Set driver specific options", word="map"),
            Flag("subnet", "", STRINGS, "Subnet in CIDR format that represents a network segment"),
        ],
        least=1,
        most=1,
    ),
    Command(
        "network disconnect",
        "networks:disconnect",
        "Disconnect a container from a network",
        "NETWORK CONTAINER",
        flags=[
            Flag("force", "f", BOOL, "Force the container to disconnect from a network"),
        ],
        least=2,
        most=2,
    ),
    Command(
        "network inspect",
        "inspect:networks",
        "Display detailed information on one or more networks",
        "NETWORK [NETWORK...]",
        flags=[
            Flag("format", "f", STR, "Format output: 'json' or a Go template"),
            Flag("verbose", "v", BOOL, "Verbose output for diagnostics"),
        ],
        least=1,
        most=None,
    ),
    Command(
        "network ls",
        "networks:ls",
        "List networks",
        flags=[
            Flag("filter", "f", LIST, 'Provide filter values (e.g. "driver=bridge")', word="filter"),
            Flag("format", "", STR, "Format output: 'json', 'table', 'table TEMPLATE' or a Go template"),
            Flag("no-trunc", "", BOOL, "Do not truncate the output"),
            Flag("quiet", "q", BOOL, "Only display network IDs"),
        ],
        aliases=("network list",),
    ),
    Command(
        "network prune",
        "pruning:networks",
        "Remove all unused networks",
        flags=[
            Flag("filter", "", LIST, 'Provide filter values (e.g. "until=<timestamp>")', word="filter"),
            Flag("force", "f", BOOL, "Do not prompt for confirmation"),
        ],
    ),
    Command(
        "network rm",
        "networks:rm",
        "Remove one or more networks",
        "NETWORK [NETWORK...]",
        flags=[
            Flag("force", "f", BOOL, "Do not error if the network does not exist"),
        ],
        aliases=("network remove",),
        least=1,
        most=None,
    ),
)
