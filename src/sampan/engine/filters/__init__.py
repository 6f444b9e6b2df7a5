"""Filters of lists, prunes and events: one way to read, check and apply them; a module with a table for each kind of object."""
