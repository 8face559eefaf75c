"""Chromium without a window, driven through chromedriver's own HTTP interface."""

import base64
import json
import os
import re
import shutil
import subprocess
import urllib.request

MISSING = next((x for x in ("chromium", "chromedriver") if not shutil.which(x)), None)
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key that the WebDriver standard names


class Browser:
    """A window of a size in CSS pixels, light or dark."""

    def __init__(self, width=1000, height=760, dark=False):
        self._driver = subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for line in self._driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                break
        self._base = f"http://127.0.0.1:{found[1]}/session"
        scheme = 0 if dark else 1
        arguments = [
            "--headless=new", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage",
            f"--blink-settings=preferredColorScheme={scheme}",
        ]  # fmt: skip
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")
        options = {"args": arguments, "binary": shutil.which("chromium")}
        if width < 500:  # a window is never so narrow; a phone is
            options["mobileEmulation"] = {
                "deviceMetrics": {
                    "width": width,
                    "height": height,
                    "pixelRatio": 2.0,
                    "touch": True,
                }
            }
        else:
            arguments.append(f"--window-size={width},{height}")
        wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}}
        self._base += "/" + self._ask("POST", "", wanted)["sessionId"]

    def _ask(self, method, path, document=None):
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self._base + path, body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url):
        self._ask("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """Returns what a script, the body of a function, returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script, *arguments, tries=100):
        """Returns what a script returns as soon as that is true."""
        for _ in range(tries):
            if found := self.run(script, *arguments):
                return found
            self._ask(
                "POST", "/execute/async", {"script": "setTimeout(arguments[0], 100)", "args": []}
            )
        raise AssertionError(f"never true: {script}; {self.run('return document.body.innerText')}")

    def draw(self, points, of="pad"):
        """Draws a line with the mouse, through points in 0..1 of an element."""
        place = self.run(
            "const b = document.getElementById(arguments[0]).getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]", of,
        )  # fmt: skip
        moves = [
            {"type": "pointerMove", "duration": 0, "origin": "viewport",
             "x": round(place[0] + x * place[2]), "y": round(place[1] + y * place[3])}
            for x, y in points
        ]  # fmt: skip
        moves = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:],
                 {"type": "pointerUp", "button": 0}]  # fmt: skip
        action = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        self._ask("POST", "/actions", {"actions": [action | {"actions": moves}]})

    def keys(self, text):
        """Presses keys, one after another, on what has the focus."""
        moves = [{"type": kind, "value": key} for key in text for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": moves}]})

    def picture(self):
        """Returns a PNG file of the window."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self._ask("DELETE", "")
        finally:
            self._driver.kill()
            self._driver.communicate()
