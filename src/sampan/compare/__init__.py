"""The same image on the host's kernel, in a container and in virtual machines: measured, drawn, explained."""
