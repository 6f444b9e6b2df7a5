"""Local volumes."""
