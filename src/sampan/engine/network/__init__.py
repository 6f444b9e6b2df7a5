"""A container's place in networks: addresses, interfaces, port mappings, the resolver."""
