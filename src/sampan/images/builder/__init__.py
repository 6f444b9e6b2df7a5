"""Building images: the Dockerfile language, build contexts, the cache and the steps."""
