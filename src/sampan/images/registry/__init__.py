"""Images to and from registries: OCI distribution-spec 1.1 and Docker Registry HTTP API v2."""
