"""The page that sampand serves: its files, and who may have it."""
