"""Virtual machines: kernel and initramfs, the hypervisor, templates, and the agent inside."""
