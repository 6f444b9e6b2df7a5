"""The page in a real browser: every view, every action, by mouse and by keyboard, in light and dark."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect, sync_playwright

from sampan.compare.advice import advise
from sampan.compare.model import MEASURES, Result
from tests.conftest import Daemon, end_daemon, eventually, new_daemon
from tests.support.docker_registry import Registry
from tests.support.docker_registry import configuration as configuration
from tests.support.docker_registry import plain as plain

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="chromium is not installed")
SHOTS = os.environ.get("SAMPAN_SCREENSHOTS", "")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    daemon = new_daemon()
    yield daemon
    end_daemon(daemon)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    found = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light")
    found.set_default_timeout(15_000)
    yield found
    found.close()


@pytest.fixture
def page(served: Daemon, context: BrowserContext) -> Iterator[Page]:
    """The page, entered; what it complains of in its console fails the test."""
    found = context.new_page()
    complaints: list[str] = []
    found.on("pageerror", lambda error: complaints.append(str(error)))

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(
            "Failed to load resource"
        ):  # an answer that the page shows itself
            complaints.append(message.text)

    found.on("console", said)
    found.goto(served.ok("ui").strip())
    expect(found.get_by_role("heading", name="Containers: one kernel for all")).to_be_visible()
    yield found
    for row in served.http.call("GET", "/containers/json?all=1"):
        served.http.call("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    assert complaints == []


def shot(page: Page, name: str) -> None:
    """A picture for docs/screenshots, when they are wanted."""
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def block(page: Page, name: str) -> Locator:
    return page.locator(".block", has=page.locator("strong", has_text=re.compile(f"^{name}$")))


def stack(page: Page, title: str) -> Locator:
    return page.locator(".stack", has=page.get_by_role("heading", name=title))


# the door


def test_an_address_counts_once(served: Daemon, context: BrowserContext) -> None:
    url = served.ok("ui").strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#token=[\w-]{43}", url)
    page = context.new_page()
    page.goto(url)
    expect(page.get_by_role("heading", name="Virtual machines: a kernel for each")).to_be_visible()
    assert "token" not in page.url
    page.reload()  # the tab has its key
    expect(page.get_by_role("heading", name="Virtual machines: a kernel for each")).to_be_visible()
    other = context.new_page()
    other.goto(url)
    expect(other.locator("#message")).to_contain_text("this address has been used")
    expect(other.locator("#view")).to_contain_text("sampan ui")
    other.goto(url.partition("#")[0])
    expect(other.locator("#message")).to_contain_text("no session")


def raw(port: int, head: str, body: str = "") -> str:
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(head.replace("\n", "\r\n").encode() + b"Connection: close\r\n\r\n" + body.encode())
        data = b""
        while part := sock.recv(65536):
            data += part
    return data.decode()


def test_who_is_kept_out(served: Daemon) -> None:
    found = served.http.call("POST", "/sampan/ui", {})
    port, token = found["Port"], found["Url"].partition("=")[2]
    here = f"127.0.0.1:{port}"
    assert " 401 " in raw(port, f"GET /api/containers/json HTTP/1.1\nHost: {here}\n")
    assert " 401 " in raw(port, f"GET /api/containers/json HTTP/1.1\nHost: {here}\nAuthorization: Bearer {token}\n"), (
        "a token is no key"
    )
    body = json.dumps({"token": token})
    head = f"POST /session HTTP/1.1\nHost: {here}\nContent-Type: application/json\nContent-Length: {len(body)}\n"
    key = json.loads(raw(port, head, body).split("\r\n\r\n")[1])["key"]
    good = f"Host: {here}\nAuthorization: Bearer {key}\n"
    assert " 200 " in raw(port, f"GET /api/containers/json HTTP/1.1\n{good}")
    assert " 403 " in raw(
        port, f"GET /api/containers/json HTTP/1.1\nHost: evil.example:{port}\nAuthorization: Bearer {key}\n"
    ), "DNS rebinding"
    assert " 403 " in raw(
        port, f"POST /api/containers/create HTTP/1.1\n{good}Origin: http://evil.example\nContent-Length: 0\n"
    )
    for path in ("/../../../../etc/passwd", "/%2e%2e/%2e%2e/__init__.py", "/app.js/../../sessions.py", "/vendor"):
        assert " 404 " in raw(port, f"GET {path} HTTP/1.1\nHost: {here}\n"), path
    answer = raw(port, f"GET / HTTP/1.1\nHost: {here}\n")
    assert "default-src 'none'; script-src 'self'" in answer
    assert "nosniff" in answer
    # A terminal without a key, and one for another site's page.
    upgrade = "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\n"
    assert " 401 " in raw(
        port,
        f"GET /api/sampan/containers/x/terminal HTTP/1.1\nHost: {here}\n{upgrade}Sec-WebSocket-Protocol: sampan, nonsense\n",
    )
    assert " 403 " in raw(
        port,
        f"GET /api/sampan/containers/x/terminal HTTP/1.1\nHost: {here}\n{upgrade}Origin: http://evil.example\nSec-WebSocket-Protocol: sampan, {key}\n",
    )


def test_the_port_is_there_only_while_it_is_wanted(own_daemon: Daemon) -> None:
    listening = Path("/proc/net/tcp").read_text()
    port = own_daemon.http.call("POST", "/sampan/ui", {})["Port"]
    assert f"0100007F:{port:04X}" not in listening
    assert f"0100007F:{port:04X}" in Path("/proc/net/tcp").read_text()
    done = own_daemon.sampan("ui", "--port", str(port + 1 if port < 65000 else port - 1))
    assert (done.returncode, b"is on port" in done.stderr) == (1, True)
    own_daemon.ok("ui", "--off")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = own_daemon.sampan("ui", "--port", str(taken.getsockname()[1]))
        assert (done.returncode, b"address already in use" in done.stderr.lower()) == (1, True)


# overview


def test_the_two_stacks_live(served: Daemon, page: Page) -> None:
    served.ok("run", "-d", "--name", "busy", "busybox", "sh", "-c", "while :; do :; done")
    served.ok("run", "-d", "--name", "web", "busybox", "httpd", "-f", "-p", "80")
    served.ok("run", "-d", "--name", "apart", "--isolation", "vm", "busybox", "sleep", "600")
    served.ok("create", "--name", "later", "busybox", "sleep", "600")
    left, right = stack(page, "Containers: one kernel for all"), stack(page, "Virtual machines: a kernel for each")
    expect(left.locator(".block")).to_have_count(3)
    expect(right.locator(".block")).to_have_count(1)
    expect(block(page, "busy").locator("dd").first).to_have_text(
        re.compile(r"^1?\d\d %$")
    )  # of a machine that is busy with other tests
    expect(block(page, "apart")).to_contain_text(re.compile(r"Memory[\d.]+ [KM]iB of \d+(\.\d)? MiB"))
    expect(block(page, "apart")).to_contain_text(re.compile(r"guest OS: \d"))
    expect(block(page, "web")).to_contain_text(re.compile(r"Network↓ .*/s ↑ .*/s"))
    expect(block(page, "web")).to_contain_text(re.compile(r"Disk\d"))
    expect(block(page, "later").locator(".state")).to_have_text("created")
    expect(left.locator(".layer.engine")).to_contain_text(re.compile(r"sampand and keeper, \d+(\.\d)? MiB"))
    expect(right.locator(".layer.hypervisor")).to_contain_text("QEMU")
    expect(right.locator(".layer.host")).to_contain_text(os.uname().release)
    expect(right.locator(".layer.base")).to_contain_text("CPUs")
    shot(page, "overview")
    page.emulate_media(color_scheme="dark")
    shot(page, "overview-dark")
    page.get_by_role("button", name="Start later").click()
    expect(block(page, "later").locator(".state")).to_have_text("running")
    page.get_by_role("button", name="Stop apart").click()
    expect(block(page, "apart").locator(".state")).to_have_text("exited", timeout=30_000)
    expect(block(page, "apart")).to_contain_text("Exit code")
    served.ok("rm", "-f", "later")
    expect(block(page, "later")).to_have_count(0)
    page.get_by_role("button", name="Remove busy").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(block(page, "busy")).to_have_count(1)
    page.get_by_role("button", name="Remove busy").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(block(page, "busy")).to_have_count(0)
    assert served.sampan("inspect", "busy").returncode == 1


def test_what_goes_wrong_is_said(served: Daemon, page: Page) -> None:
    served.ok("create", "--name", "broken", "busybox", "nonesuch")
    page.get_by_role("button", name="Start broken").click()
    expect(page.locator("#message")).to_contain_text("nonesuch")
    expect(page.locator("#message")).to_have_class("bad")


@pytest.mark.parametrize("isolated", ["container", "vm"])
def test_what_never_ran_has_no_exit_code(served: Daemon, page: Page, isolated: str) -> None:
    """T41: it had 0, as if it had run and all had been well."""
    served.ok("create", "--name", "new", "--isolation", isolated, "busybox", "true")
    expect(block(page, "new").locator(".state")).to_have_text("created")
    expect(block(page, "new").locator("dt")).to_have_text(["Disk"])


def test_a_start_that_failed_has_its_exit_code(served: Daemon, page: Page) -> None:
    assert served.sampan("run", "--name", "broken", "busybox", "nonesuch").returncode == 127
    expect(block(page, "broken").locator(".state")).to_have_text("created")
    expect(block(page, "broken").locator("dl")).to_contain_text("Exit code127")


# one container


def test_one_container(served: Daemon, page: Page) -> None:
    script = "trap 'exit 0' TERM; echo to out; echo to err >&2; printf '<img src=x onerror=alert(1)>\\n'; i=0; while sleep 0.2; do i=$((i+1)); echo tick $i; done"
    served.ok("run", "-d", "--name", "talks", "-e", "COLOUR=blue", "busybox", "sh", "-c", script)
    block(page, "talks").locator("a").click()
    expect(page.get_by_role("heading", name="talks")).to_be_visible()
    logs = page.get_by_role("log")
    expect(logs).to_contain_text("to out")
    expect(logs.locator(".err")).to_contain_text("to err")
    expect(logs).to_contain_text("<img src=x onerror=alert(1)>")
    assert logs.locator("img").count() == 0
    expect(logs).to_contain_text("tick 9")
    expect(page.locator(".chart")).to_have_count(4)
    expect(page.locator(".chart path").nth(1)).to_have_attribute("d", re.compile(r"L.* [\d.]+"))
    shot(page, "container")
    page.get_by_role("tab", name="Settings").click()
    expect(page.get_by_role("tabpanel")).to_contain_text("COLOUR=blue")
    page.get_by_role("button", name="Pause talks").click()
    expect(page.locator("h2 .state")).to_have_text("paused")
    page.get_by_role("button", name="Unpause talks").click()
    expect(page.locator("h2 .state")).to_have_text("running")
    before = served.http.call("GET", "/containers/talks/json")["State"]["StartedAt"]
    page.get_by_role("button", name="Restart talks").click()
    expect(page.locator("#message")).to_have_text("Restart: talks, done", timeout=30_000)
    assert served.http.call("GET", "/containers/talks/json")["State"]["StartedAt"] != before
    page.get_by_role("button", name="Stop talks").click()
    expect(page.locator("h2 .state")).to_have_text("exited", timeout=30_000)
    page.get_by_role("button", name="Remove talks").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="Containers: one kernel for all")).to_be_visible()


@pytest.mark.parametrize("isolated", ["container", "vm"])
def test_a_terminal(served: Daemon, page: Page, isolated: str) -> None:
    served.ok("run", "-d", "--name", "shell", "--isolation", isolated, "busybox", "sleep", "600")
    block(page, "shell").locator("a").click()
    page.get_by_role("tab", name="Terminal").click()
    screen = page.locator(".xterm-accessibility")
    expect(screen).to_contain_text("#", timeout=20_000)
    page.keyboard.type("echo answer $((6*7)); stty size\n")
    expect(screen).to_contain_text("answer 42")
    expect(screen).to_contain_text(re.compile(r"[1-9]\d+ [1-9]\d+"))
    kernel = served.ok("exec", "shell", "uname", "-r").strip()
    page.keyboard.type("uname -r\n")
    expect(screen).to_contain_text(kernel)
    if isolated == "vm":
        shot(page, "terminal")
    page.keyboard.press("F6")
    expect(page.get_by_role("button", name="New shell")).to_be_focused()
    page.locator(".terminal textarea").focus()
    page.keyboard.type("exit\n")
    expect(page.get_by_role("tabpanel")).to_contain_text("The shell has ended.")
    page.get_by_role("button", name="New shell").click()
    expect(page.locator(".xterm-accessibility")).to_contain_text("#", timeout=20_000)
    # Who goes away takes the shell along.
    assert "sh" in served.ok("exec", "shell", "ps")
    page.get_by_role("tab", name="Logs").click()

    def ended() -> bool:
        return all(
            "exec sh" not in line and "/bin/sh" not in line and not line.endswith(" sh")
            for line in served.ok("exec", "shell", "ps").splitlines()
        )

    eventually(ended)


# images, networks, comparisons


def test_images_and_their_layers(served: Daemon, page: Page, plain: Registry, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN --network=none echo one > /one\nENV A=b\nRUN --network=none echo two > /two\n"
    )
    served.ok("build", "-q", "--network", "none", "-t", "layered:1", str(tmp_path))
    page.get_by_role("link", name="Images").click()
    expect(page.get_by_role("row", name=re.compile("busybox:latest"))).to_be_visible()
    page.get_by_role("link", name="layered:1").click()
    expect(page.get_by_role("heading", name="layered:1")).to_be_visible()
    layers = page.locator(".image-layers > div")
    expect(layers.first).to_contain_text("shared with busybox:latest")
    expect(layers.last).to_contain_text("echo two")
    expect(page.locator(".image-layers .empty").filter(has_text="ENV A=b")).to_have_count(1)
    shot(page, "image")
    # Removed here, and pulled again from a registry.
    name = f"{plain.name}/page/layered:1"
    served.ok("tag", "layered:1", name)
    served.ok("push", name)
    served.ok("rmi", "layered:1")
    page.get_by_role("link", name="Images").click()
    shot(page, "images")
    page.get_by_role("button", name=f"Remove {name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("link", name=name)).to_have_count(0)
    page.get_by_label("Pull").fill(name)
    page.get_by_role("button", name="Pull", exact=True).click()
    expect(page.get_by_role("link", name=name)).to_be_visible()
    page.get_by_label("Pull").fill(f"{plain.name}/page/nonesuch:1")
    page.get_by_role("button", name="Pull", exact=True).click()
    expect(page.locator("#message")).to_contain_text("nonesuch")
    page.get_by_role("button", name=f"Run {name}").click()
    expect(page.get_by_role("dialog").get_by_label("Image")).to_have_value(name)
    page.keyboard.press("Escape")
    served.ok("rmi", name)


def test_networks_as_a_graph(served: Daemon, page: Page) -> None:
    served.ok("network", "create", "front")
    try:
        served.ok("run", "-d", "--name", "one", "--network", "front", "busybox", "sleep", "600")
        served.ok("run", "-d", "--name", "two", "--network", "front", "--isolation", "vm", "busybox", "sleep", "600")
        served.ok("run", "-d", "--name", "three", "busybox", "sleep", "600")
        page.get_by_role("link", name="Networks").click()
        graph = page.locator(".graph")
        expect(graph.locator(".network")).to_have_count(2)
        expect(graph.locator("path")).to_have_count(3)
        address = served.http.call("GET", "/containers/two/json")["NetworkSettings"]["Networks"]["front"]["IPAddress"]
        expect(graph.locator("a.vm")).to_contain_text(address)
        expect(page.get_by_role("row", name=re.compile(f"two front {address}"))).to_be_visible()
        shot(page, "networks")
        graph.locator("a.container", has_text="three").click()
        expect(page.get_by_role("heading", name="three")).to_be_visible()
    finally:
        served.ok("rm", "-f", "one", "two", "three")
        served.ok("network", "rm", "front")


def example() -> dict[str, Any]:
    machine = {"when": "2026-11-25T10:00:00+00:00", "processor": "a processor", "cpus": 2, "memory": 24 << 30, "free": 1 << 30, "kernel": "6",
               "system": "Debian", "accelerator": "tcg", "engine": "0"}  # fmt: skip
    result = Result("example:1", ["true"], machine, ["native", "container", "vm"])
    for measure in MEASURES:
        for index, kind in enumerate(result.kinds):
            result.add(measure.key, kind, 1.0 + index)
    result.layers = {kind: [("host OS", 1e8), ("application", 1e7)] for kind in result.kinds}
    result.advice = advise(result)
    return result.json()


def test_comparisons(served: Daemon, page: Page) -> None:
    made = served.http.call("POST", "/sampan/comparisons", example())["Id"]
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("link", name="example:1: true").first.click()
    report = page.frame_locator("iframe")
    expect(report.get_by_role("heading", name="example:1: container or virtual machine?")).to_be_visible()
    expect(report.locator("svg.layers")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as a file").click()
    assert download.value.suggested_filename == f"sampan-compare-{made}.html"
    page.get_by_role("link", name="All comparisons").click()
    page.get_by_label("Image").select_option("busybox:latest")
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(report.get_by_role("heading", name="busybox:latest: container or virtual machine?")).to_be_visible(
        timeout=120_000
    )
    expect(report.locator("svg.layers")).to_contain_text("guest OS")
    shot(page, "compare")
    page.emulate_media(color_scheme="dark")
    shot(page, "compare-dark")
    page.get_by_role("link", name="All comparisons").click()
    kept = len(served.http.call("GET", "/sampan/comparisons"))
    assert kept >= 2
    expect(page.locator("main li")).to_have_count(kept)
    page.get_by_label("Command").fill("nonesuch")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#message")).to_contain_text("nonesuch", timeout=60_000)


def test_who_leaves_ends_the_measuring(served: Daemon, page: Page) -> None:
    page.get_by_role("link", name="Compare").click()
    page.get_by_label("Image").select_option("busybox:latest")
    page.get_by_role("button", name="Measure").click()
    expect(page.locator("#message")).to_contain_text("memory", timeout=30_000)
    page.get_by_role("link", name="Images").click()

    def clean() -> bool:
        images = [tag for row in served.http.call("GET", "/images/json") for tag in row["RepoTags"] or []]
        return not served.http.call("GET", "/containers/json?all=1") and not [tag for tag in images if "compare" in tag]

    eventually(clean, 30)


# running, keyboard, colours


def test_run_an_image(served: Daemon, page: Page) -> None:
    page.get_by_role("button", name="Run…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Command").fill("httpd -f -p 80")
    dialog.get_by_label("Name").fill("served")
    dialog.get_by_label("Isolation").select_option("vm")
    dialog.get_by_label("Ports").fill("80")
    shot(page, "run")
    dialog.get_by_role("button", name="Run").click()
    expect(block(page, "served").locator(".state")).to_have_text("running", timeout=30_000)
    found = served.http.call("GET", "/containers/served/json")
    assert found["HostConfig"]["Isolation"] == "vm"
    assert found["NetworkSettings"]["Ports"]["80/tcp"]
    page.get_by_role("button", name="Run…").click()
    dialog.get_by_label("Name").fill("served")
    dialog.get_by_role("button", name="Run").click()
    expect(dialog.get_by_role("alert")).to_contain_text("already in use")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_with_the_keyboard_alone(served: Daemon, page: Page) -> None:
    served.ok("run", "-d", "--name", "keys", "busybox", "sleep", "600")
    expect(block(page, "keys")).to_be_visible()
    page.reload()
    expect(block(page, "keys")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#view")).to_be_focused()
    page.keyboard.press("Tab")
    expect(block(page, "keys").locator("a")).to_be_focused()
    page.wait_for_timeout(3500)  # the picture is drawn anew meanwhile, and whoever is there stays there
    expect(block(page, "keys").locator("a")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Stop keys")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="keys")).to_be_visible()
    page.get_by_role("tab", name="Logs").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Settings")).to_be_focused()
    expect(page.get_by_role("tab", name="Settings")).to_have_attribute("aria-selected", "true")
    page.get_by_role("button", name="Remove keys").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert served.sampan("inspect", "keys").returncode == 0
    # Whatever can be done has a name that is read out.
    for path in ("#/", "#/images", "#/networks", "#/compare"):
        page.evaluate(f"location.hash = '{path}'")
        page.wait_for_timeout(400)
        nameless = page.evaluate(
            """() => [...document.querySelectorAll("button, a, input, select")].filter((e) => e.offsetParent && !(e.getAttribute("aria-label")
            || e.textContent.trim() || e.labels?.length)).map((e) => e.outerHTML)"""
        )
        assert nameless == [], path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_can_be_read_in_light_and_dark(served: Daemon, page: Page, scheme: Any) -> None:
    served.ok("run", "-d", "--name", "seen", "busybox", "sleep", "600")
    served.ok("create", "--name", "stopped", "busybox", "sleep", "600")
    page.emulate_media(color_scheme=scheme)
    expect(block(page, "seen")).to_be_visible()
    for path in ("#/", "#/images", "#/networks", "#/compare"):
        page.evaluate(f"location.hash = '{path}'")
        page.wait_for_timeout(500)
        # The contrast of every text with what is behind it (WCAG 2.2, 1.4.3: 4.5 to 1).
        pale = page.evaluate(
            """() => {
              const parse = (text) => text.match(/[\\d.]+/g).map(Number);
              const light = (c) => { const [r, g, b] = c.slice(0, 3).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
                return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
              const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > 0.9) return c; } return [255, 255, 255]; };
              const found = [];
              for (const e of document.querySelectorAll("body *")) {
                if (!e.offsetParent || e.closest("svg, option, button:disabled") || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
                const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
                const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                if (contrast < 4.5) found.push(`${e.textContent.trim().slice(0, 40)}: ${contrast.toFixed(2)}`);
              }
              return found; }"""
        )
        assert pale == [], path
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(246, 248, 250)") == (scheme == "light")


def test_a_machine_with_an_operating_system(served: Daemon, page: Page) -> None:
    served.ok("vm", "create", "old", "--from", "busybox", timeout=120)
    right = stack(page, "Virtual machines: a kernel for each")
    expect(right.locator(".block.machine")).to_have_count(1)
    page.get_by_role("button", name="Start old").click()
    expect(block(page, "old").locator(".state")).to_have_text("running", timeout=30_000)
    block(page, "old").locator("a").click()
    expect(page.get_by_role("log")).to_contain_text("built-in shell", timeout=60_000)
    page.get_by_role("tab", name="Terminal").click()
    expect(page.locator(".xterm-accessibility")).to_contain_text("#", timeout=90_000)
    page.keyboard.type("echo on the $(echo console)\n")
    expect(page.locator(".xterm-accessibility")).to_contain_text("on the console")
    page.get_by_role("button", name="Pause old").click()
    expect(page.locator("h2 .state")).to_have_text("paused")
    page.get_by_role("button", name="Unpause old").click()
    expect(page.locator("h2 .state")).to_have_text("running")
    page.get_by_role("button", name="Remove old").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove").click()
    expect(page.get_by_role("heading", name="Virtual machines: a kernel for each")).to_be_visible(timeout=30_000)
    assert served.http.call("GET", "/sampan/vm/json") == []
