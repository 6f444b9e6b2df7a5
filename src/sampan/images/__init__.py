"""Images: content store, layers, archives, base images made from Debian packages."""
