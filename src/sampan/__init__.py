"""Sampan: one engine for containers and virtual machines."""

__version__ = "0.1.0"
