"""A headless Chromium over its debugging port: open a page, press keys, look, kill it.

Debian's package `chromium`, or any build named in CHROMIUM; the port is spoken with `websocket-client`.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

PATIENCE = 60  # seconds, for a machine that is busy with other things
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
KEYS = {"Enter": 13, "Backspace": 8, "PageDown": 34, "ArrowLeft": 37, "ArrowRight": 39, "ArrowUp": 38}
KEYS |= {"ArrowDown": 40, " ": 32, "Tab": 9, "Escape": 27}


def find() -> str | None:
    """A Chromium to run, if this machine has one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def missing() -> str | None:
    """What a test in a browser lacks on this machine."""
    if find() is None:
        return "no Chromium on this machine (Debian: apt install chromium)"
    if importlib.util.find_spec("websocket") is None:
        return "the package websocket-client is not installed"
    return None


class Chromium:
    """One browser on one profile; what the profile kept is there again when the next one opens it."""

    def __init__(self, profile: Path, downloads: Path) -> None:
        from websocket import create_connection

        found = find()
        assert found
        port_file = profile / "DevToolsActivePort"
        port_file.unlink(missing_ok=True)
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        switches += ["--remote-debugging-port=0", "--remote-allow-origins=*", "--window-size=1500,950"]
        self.process = subprocess.Popen(
            [found, *switches, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.count = 0
        self.requests: list[str] = []
        try:
            port = self.port = wait(lambda: port_file.exists() and port_file.read_text().partition("\n")[0])
            target = wait(lambda: self._target(port))
            self.socket = create_connection(target, timeout=PATIENCE)
            self.call("Network.enable")
            self.call("Page.enable")
            # a page of a browser that nobody looks at may be without the focus: keys and text would go nowhere
            self.call("Emulation.setFocusEmulationEnabled", enabled=True)
            self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        except BaseException:
            self.kill()
            raise

    @staticmethod
    def _target(port: str) -> str | None:
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                pages = [target for target in json.load(answer) if target["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"] if pages else None
        return None

    def tab(self) -> Chromium:
        """A second page of the same browser, which ends with it."""
        from websocket import create_connection

        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        made = object.__new__(Chromium)
        made.process, made.count, made.requests, made.port = self.process, 0, [], self.port
        made.socket = create_connection(f"ws://127.0.0.1:{self.port}/devtools/page/{target}", timeout=PATIENCE)
        made.call("Page.enable")
        made.call("Emulation.setFocusEmulationEnabled", enabled=True)
        return made

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, page: Path | str) -> None:
        """A file, or an address."""
        url = page if isinstance(page, str) else page.resolve().as_uri()
        self.call("Page.navigate", url=url)
        wait(lambda: self.run(f"document.readyState === 'complete' && location.protocol === {url.partition('/')[0]!r}"))
        # `autofocus` is carried out with the first drawing, which comes after `complete`
        self.run("new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => drawn(1))))")
        wait(lambda: self.run("[...document.querySelectorAll('[autofocus]')].every((one) => "
                              "one.offsetParent === null || one === document.activeElement)"))  # fmt: skip

    def reload(self) -> None:
        self.run("window.before = true")
        self.call("Page.reload")
        wait(lambda: self.run("document.readyState === 'complete' && window.before === undefined"))

    def press(self, *keys: str) -> None:
        for key in keys:
            code = KEYS.get(key, ord(key[0].upper()))
            text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
            for kind, more in (("keyDown", text), ("keyUp", {})):
                self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **more)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def kill(self) -> None:
        """SIGKILL for the browser and all its helpers, as when the machine's memory is full."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *raised: object) -> None:
        self.kill()


def wait(condition: Any, what: str = "the browser") -> Any:
    """Until the condition is true; what it returned."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(f"waited {PATIENCE} s for {what}")
