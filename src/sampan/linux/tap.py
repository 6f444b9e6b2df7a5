"""Tap interfaces: a network interface whose other end is a descriptor (Documentation/networking/tuntap.rst)."""

from __future__ import annotations

import fcntl
import os
import struct

_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def persist(fd: int, value: bool) -> None:
    """Whether the tap stays without its descriptors, until its network namespace ends.

    That end is nobody's wait, while closing the last descriptor of another waits for some 15 ms (synchronize_net).
    """
    fcntl.ioctl(fd, _TUNSETPERSIST, int(value))


def new(name: str) -> int:
    """Makes a tap in this thread's network namespace. It goes when the last copy of the descriptor is closed.

    Packets carry a virtio header, so a guest may leave checksums and segmentation to the host. Raises OSError.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except BaseException:
        os.close(fd)
        raise
    return fd
