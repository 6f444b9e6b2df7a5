"""The OCI specifications as types. No I/O."""
