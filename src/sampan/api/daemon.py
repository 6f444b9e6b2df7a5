"""sampand: options, socket, life and death of the daemon."""

from __future__ import annotations

import argparse
import asyncio
import gc
import grp
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from typing import NoReturn

from aiohttp import web

from sampan import paths
from sampan.api import daemonlog, door, metrics, ui
from sampan.api.server import application
from sampan.engine import cdi, pools, rootless
from sampan.engine.engine import Engine
from sampan.engine.errors import EngineError
from sampan.engine.premises import listens
from sampan.images.registry.hosts import Hosts
from sampan.linux.namespaces import initial_user_namespace
from sampan.network import ports
from sampan.network.hostports import HostPorts

_log = logging.getLogger(__name__)


def listen(path: str) -> socket.socket:
    """A listening unix socket, 0660 and of group sampan where there is one, in place in one step (S033)."""
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    temporary = f"{path}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX)
    old = os.umask(0o117)
    try:
        sock.bind(temporary)
    finally:
        os.umask(old)
    try:
        os.chown(temporary, 0, grp.getgrnam("sampan").gr_gid)
    except (KeyError, OSError):
        pass
    sock.listen(512)
    os.rename(temporary, path)
    return sock


def _loopback(text: str) -> tuple[str, int]:
    """An address and port of this machine only: what is served there knows no users."""
    host, _, port = text.rpartition(":")
    try:
        if not ipaddress.ip_address(host.strip("[]")).is_loopback:
            raise argparse.ArgumentTypeError(
                f"{host} is no loopback address: let a proxy with TLS and passwords listen there"
            )
        return host.strip("[]"), int(port)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not ADDRESS:PORT") from None


def _die(error: object) -> NoReturn:
    _log.critical(str(error))
    sys.exit(1)


async def serve(options: argparse.Namespace, host_ports: HostPorts | None) -> None:
    """Runs the daemon until SIGTERM or SIGINT. Containers go on without it."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(pools.short())
    cdi.directories[:] = options.cdi_spec_dir or cdi.directories
    engine = Engine(
        options.data_root,
        options.exec_root,
        options.obey_host_firewall,
        host_ports,
        Hosts(options.registry_mirror, options.insecure_registry),
        "" if options.isolation == "container" else options.isolation,
        options.policy,
    )
    await engine.open()
    bind = ports.bind if host_ports is None else host_ports.bind
    app = application(engine, options.host)
    page = ui.add(app, bind)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0, **door.SETTINGS)
    await runner.setup()
    sock = listen(options.host.removeprefix("unix://"))
    await door.Site(runner, sock).start()
    for name, port in [options.metrics_addr] if options.metrics_addr else []:
        counters = web.AppRunner(metrics.application(engine), **door.SETTINGS)
        await counters.setup()
        await door.Site(counters, bind("tcp", name, port)).start()
    gc.freeze()  # nothing loaded so far will ever be garbage: the collector need not look at it
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    try:
        os.unlink(options.host.removeprefix("unix://"))
    except FileNotFoundError:
        pass
    await page.close()
    await runner.cleanup()
    await engine.close()
    if not initial_user_namespace() and not any(c.running for c in engine.containers.values()):
        rootless.leave(options.exec_root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sampand", description="The Sampan engine's daemon.")
    parser.add_argument("-H", "--host", default=os.environ.get("SAMPAN_HOST", f"unix://{paths.socket()}"))
    parser.add_argument("--data-root", default=paths.data_directory())
    parser.add_argument("--exec-root", default=paths.runtime_directory())
    parser.add_argument("--obey-host-firewall", action="store_true", help="listen on published ports instead of redirecting "
                        "them, so that the host's input rules apply; containers then see the host's address")  # fmt: skip
    parser.add_argument("--registry-mirror", action="append", default=[], metavar="URL", help="ask it before docker.io")
    parser.add_argument("--cdi-spec-dir", action="append", default=[], metavar="DIR",
                        help=f"descriptions of devices (CDI), instead of those in {' and '.join(cdi.directories)}")  # fmt: skip
    parser.add_argument("--insecure-registry", action="append", default=[], metavar="HOST[:PORT]|NETWORK",
                        help="do without TLS, or without a good certificate")  # fmt: skip
    parser.add_argument(
        "--isolation", choices=["container", "vm", "auto"], default="container", help="of containers that don't say"
    )
    parser.add_argument(
        "--policy", default=paths.policy(), metavar="FILE", help="the isolation policy, read anew when it changes"
    )
    parser.add_argument(
        "--metrics-addr", type=_loopback, metavar="ADDRESS:PORT", help="serve /metrics there as well, on loopback only"
    )
    parser.add_argument("-D", "--debug", action="store_true", help="the same as --log-level debug")
    parser.add_argument(
        "-l", "--log-level", choices=daemonlog.LEVELS, default="info", help="of the messages on standard error"
    )
    return parser


def main() -> None:
    """The entry of the command `sampand`."""
    parser = _parser()
    options = parser.parse_args()
    daemonlog.set_up("debug" if options.debug else options.log_level)
    if not options.host.startswith("unix://"):
        parser.error(f"can't listen on {options.host}: only unix:// sockets")
    if listens(options.host.removeprefix("unix://")):
        _die(f"another daemon already listens on {options.host}")
    host_ports = None
    if os.geteuid() != 0:
        host_ports = HostPorts.fork()
        try:
            rootless.enter(options.exec_root)
        except EngineError as error:
            _die(error)
    # A socket for each published port, descriptors of each container: the soft limit of a login is too low.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(serve(options, host_ports))
    except EngineError as error:
        _die(error)
