"""Which kernel a container runs on: the operator's rules (ADR 15)."""
