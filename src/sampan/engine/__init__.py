"""Containers, execs, events, health, restarts: what the API offers, without HTTP."""
