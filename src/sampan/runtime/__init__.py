"""Bundle to process: the OCI runtime, used by the keeper and by ``sampan-runtime``."""
