"""Networks: addresses, bridges, published ports, names."""
