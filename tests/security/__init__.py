"""Who is not trusted, played: hostile inputs of every kind, and what docs/security.md promises about them."""
