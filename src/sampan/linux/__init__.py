"""System calls and kernel interfaces in plain ctypes. No policy: one file per kernel facility."""
