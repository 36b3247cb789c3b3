"""A page in headless Chromium, for tests of what a person sees; over Chromium's debugging protocol (CDP).

    with browse() as page:
        page.open(report.as_uri())
        page.wait_for("document.images.length > 3")
        page.click("th button")
        assert page.errors == []

Only this machine is reached: every other host name is unknown to the browser.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless=new",
    "--remote-debugging-port=0",
    # The pages are our own, and a container seldom allows the sandbox or has a large /dev/shm.
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# A machine that trains beside the test answers late, not never.
PATIENCE_S = 180.0
_POLL_INTERVAL_S = 0.2


class ScriptError(AssertionError):
    """JavaScript given to the page raised."""


class Page:
    """One page of a browser.

    Attributes:
        errors: What went wrong in the page: errors on its console, exceptions nobody caught, files that did not load.
        addresses: Every address the page asked for, in order.
    """

    def __init__(self, connection: websocket.WebSocket) -> None:
        self.errors: list[str] = []
        self.addresses: list[str] = []
        self._connection = connection
        self._num_commands = 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def open(self, address: str) -> None:
        """Go to the address and wait until it has loaded; what scripts add later takes a `wait_for`."""
        answer = self.send("Page.navigate", url=address)
        assert "errorText" not in answer, f"{address}: {answer['errorText']}"
        self.wait_for("document.readyState == 'complete'")

    def evaluate(self, script: str) -> Any:
        """Give the value of a JavaScript expression, or what its promise comes to; it must be JSON-like.

        Raises:
            ScriptError: the expression raised.
        """
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise ScriptError(f"{script}: {_exception_text(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait_for(self, script: str, timeout_s: float = PATIENCE_S) -> Any:
        """Give the first truthy value of a JavaScript expression; it may raise until then.

        Raises:
            TimeoutError: it stayed falsy; the message ends with the text of the page.
        """
        end, last = time.monotonic() + timeout_s, ""
        while time.monotonic() < end:
            try:
                if value := self.evaluate(script):
                    return value
            except ScriptError as error:
                last = f" ({error})"
            time.sleep(_POLL_INTERVAL_S)
        text = self.evaluate("document.body ? document.body.innerText : ''")
        raise TimeoutError(f"after {timeout_s:g} s still not {script}{last}; the page says:\n{text[:3000]}")

    def wait_for_text(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the page shows the text."""
        self.wait_for(f"document.body.innerText.includes({json.dumps(text)})", timeout_s)

    def click(self, element: str, timeout_s: float = PATIENCE_S) -> None:
        """Click with the mouse into the middle of an element, once it is there, shown and not moving.

        Args:
            element: CSS selector, or a JavaScript expression of an element in parentheses.
            timeout_s: How long to wait for it.
        """
        found = element if element.startswith("(") else f"document.querySelector({json.dumps(element)})"
        scroll = "scrollIntoView({block: 'center', inline: 'center', behavior: 'instant'})"
        self.wait_for(f"{found}.{scroll} || true", timeout_s)
        middle = f"(r => r.width && [r.x + r.width / 2, r.y + r.height / 2])({found}.getBoundingClientRect())"
        place = self.wait_for(middle, timeout_s)
        while (now := self.wait_for(middle, timeout_s)) != place:
            place = now
        button = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **button)

    def resize(self, width: int, height: int, *, scale: float = 1.0, is_phone: bool = False) -> None:
        """Make the window as wide and high as this, in CSS pixels; `scale` device pixels each."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )

    def emulate(self, *, media: str = "screen", is_dark: bool = False) -> None:
        """Show the page as on `screen` or in `print`, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, *, is_whole: bool = False) -> Path:
        """Write what the window shows as PNG, or the `is_whole` page with what one must scroll to."""
        options = {"captureBeyondViewport": is_whole, **self._clip(is_whole)}
        answer = self.send("Page.captureScreenshot", format="png", **options)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def print_pdf(self, path: Path) -> Path:
        """Write the page as it would be printed on A4."""
        answer = self.send("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, printBackground=True)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the protocol and give its result; events that come in meanwhile are noted."""
        self._num_commands += 1
        self._connection.send(json.dumps({"id": self._num_commands, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv())
            if message.get("id") == self._num_commands:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            if "method" in message:
                self._note(message["method"], message["params"])

    def _clip(self, is_whole: bool) -> dict[str, Any]:
        if not is_whole:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.addresses.append(params["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(_exception_text(params["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(part.get("value", part.get("description"))) for part in params["args"]))
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}".rstrip())


@contextmanager
def browse(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """Start Chromium with an empty profile and give its one page; the test is skipped where there is no Chromium."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"needs Chromium on PATH, as one of {', '.join(_NAMES)}; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        profile = Path(folder)
        with (profile / "log").open("wb") as log:
            process = subprocess.Popen(
                [program, *_ARGUMENTS, f"--user-data-dir={profile}", f"--window-size={width},{height}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "HOME": folder},
            )
        try:
            connection = websocket.create_connection(
                _page_address(process, profile), timeout=PATIENCE_S, suppress_origin=True
            )
            try:
                page = Page(connection)
                page.resize(width, height)
                yield page
            finally:
                connection.close()
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _page_address(process: subprocess.Popen[bytes], profile: Path) -> str:
    """Wait for the browser and give the WebSocket address of its page."""
    import urllib.request

    end = time.monotonic() + PATIENCE_S
    port_file = profile / "DevToolsActivePort"
    # Chromium writes port and path in two lines.
    while not port_file.exists() or port_file.read_text().count("\n") < 1:
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"Chromium does not start: {(profile / 'log').read_text(errors='replace')[-2000:]}")
        time.sleep(_POLL_INTERVAL_S)
    port = port_file.read_text().split()[0]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < end:
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE_S) as answer:
            for target in json.load(answer):
                if target["type"] == "page":
                    return str(target["webSocketDebuggerUrl"])
        time.sleep(_POLL_INTERVAL_S)
    raise RuntimeError("Chromium started without a page")


def _exception_text(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
