"""The Docker Engine API over HTTP: one module per resource, one for streams, one for errors."""
