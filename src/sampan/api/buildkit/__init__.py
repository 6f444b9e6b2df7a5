"""BuildKit's protocols, as far as `docker build` and `docker buildx build` speak them to a Docker engine."""
