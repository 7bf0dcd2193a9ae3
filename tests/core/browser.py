"""Chromium, by its driver: https://www.w3.org/TR/webdriver2/ over plain HTTP."""

import base64
import io
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request

import numpy as np
from PIL import Image

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
IS_INSTALLED = CHROMIUM is not None and DRIVER is not None
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1400",
]


class Browser:
    """A window of a browser that knows nothing of any earlier one.

    Args:
        profile: the path of an empty directory for its files.
    """

    def __init__(self, profile):
        # To port 0: the driver takes one that is free, and says which.
        self._driver = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={profile}"]}
            self._address = f"http://127.0.0.1:{self._port()}/session"
            session = self._call("POST", "", capabilities={"alwaysMatch": {"goog:chromeOptions": options}})
            self._address += f"/{session['sessionId']}"
        except BaseException:
            self._end_driver()
            raise

    def open(self, address):
        """Go to a page, and wait until it is loaded; what its scripts do goes on."""
        self._call("POST", "/url", url=address)

    def run(self, script, *arguments):
        """What a function body in JavaScript returns."""
        return self._call("POST", "/execute/sync", script=script, args=arguments)

    def picture(self, element):
        """How an element that `run` returned looks: uint8 of shape (height, width, 3)."""
        (identity,) = element.values()
        png = base64.b64decode(self._call("GET", f"/element/{identity}/screenshot"))
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def close(self):
        try:
            self._call("DELETE", "")
        finally:
            self._end_driver()

    def _port(self):
        for line in self._driver.stdout:
            if "started successfully on port" in line:
                return int(line.rstrip(".\n").rpartition(" ")[2])
        raise AssertionError(f"{DRIVER} ended with status {self._driver.wait()} before it was there")

    def _call(self, method, path, **values):
        request = urllib.request.Request(
            self._address + path,
            method=method,
            data=json.dumps(values).encode() if method == "POST" else None,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise DriverError(json.load(error)["value"]) from error

    def _end_driver(self):
        self._driver.terminate()
        self._driver.wait(20)
        self._driver.stdout.close()


class DriverError(Exception):
    """What the driver says went wrong, such as an element that is no longer on the page."""


def wait_for(expected, look, seconds=45):
    """Look until that is there; what is there instead is in the message when time is up."""
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            found = look()
        except DriverError as error:  # of an element that the page has just made anew
            found = error
        if found == expected:
            return
        if time.monotonic() > give_up_at:
            raise AssertionError(f"after {seconds} s there is {found!r} instead of {expected!r}")
        time.sleep(0.2)
