"""The parent of every container: spawns, holds stdio, writes logs, records exit codes."""
