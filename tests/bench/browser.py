"""Chromium without a window, over the pipe of its DevTools protocol: what a page says, asks for and looks like.

Messages are JSON objects that end with a zero byte; Chromium reads them from file 3 and writes them to file 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_OPTIONS = (
    "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--no-first-run", "--disable-gpu",
    "--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking", "--mute-audio",
    "--force-color-profile=srgb", "--hide-scrollbars",
)  # fmt: skip
_TIMEOUT_S = 120.0


class Browser:
    """One tab of it.

    Attributes:
        errors: What the console and exceptions said since the page was opened.
        requests: What the page asked for; neither itself nor what it holds as `data:`.
    """

    def __init__(self, to_it: int, from_it: int) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._to_it, self._from_it = to_it, from_it
        self._read, self._number, self._session = b"", 0, ""
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, *, width: int = 1200, height: int = 900, is_dark: bool = False) -> None:
        """Opens a file and waits until it is loaded, and what it does at once is done."""
        self.show(width=width, height=height, is_dark=is_dark)
        self.errors.clear()
        self.requests.clear()
        self._loaded = False
        found = self._call("Page.navigate", url=page.as_uri())
        assert "errorText" not in found, found
        until_s = time.monotonic() + _TIMEOUT_S
        while not self._loaded:
            self._note(self._message(until_s))
        self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")
        self.requests = [url for url in self.requests if url != page.as_uri() and not url.startswith("data:")]

    def show(self, *, width: int, height: int, is_dark: bool = False) -> None:
        """Gives the page another size, or the other colours."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def value(self, expression: str) -> Any:
        """What an expression gives in the page; of a promise what it ends with."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """All of the page, as a PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to_it, json.dumps(message).encode() + b"\0")
        until_s = time.monotonic() + _TIMEOUT_S
        while True:
            answer = self._message(until_s)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _message(self, until_s: float) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._from_it], [], [], max(0.0, until_s - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium does not answer")
            read = os.read(self._from_it, 1 << 20)
            if not read:
                raise EOFError("Chromium has ended")
            self._read += read
        line, self._read = self._read.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        """What the page did meanwhile."""
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.errors.append(json.dumps(params["entry"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Page.loadEventFired":
                self._loaded = True


@contextlib.contextmanager
def started(profile: Path) -> Iterator[Browser]:
    """A browser; skips where there is none, fails where `TRT_YOLO_REQUIRE_BROWSER=1` asks for one."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        if os.environ.get("TRT_YOLO_REQUIRE_BROWSER") == "1":
            pytest.fail("no Chromium here, and TRT_YOLO_REQUIRE_BROWSER=1 asks for one")
        pytest.skip("no Chromium here: apt-get install chromium")
    its_in, to_it = _pipe()
    from_it, its_out = _pipe()
    # bash gives it the pipes as files 3 and 4; their own numbers are above those
    command = ["bash", "-c", f'exec "$0" "$@" 3<&{its_in} 4>&{its_out}', program, *_OPTIONS]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(its_in, its_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_in)
    os.close(its_out)
    try:
        yield Browser(to_it, from_it)
    finally:
        os.close(to_it)  # without its pipe it ends
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        os.close(from_it)


def _pipe() -> tuple[int, int]:
    """Both ends, with numbers above 9."""
    ends = os.pipe()
    both = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return both[0], both[1]
