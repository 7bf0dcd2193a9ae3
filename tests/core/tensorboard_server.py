"""A real TensorBoard server, for the tests of what it shows."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request


class Server:
    """A TensorBoard server for a directory, and what it answers."""

    def __init__(self, directory, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", directory, "--port", str(self.port)]
        command += ["--host", "127.0.0.1", "--reload_interval", "1", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def get(self, path, **query):
        url = f"{self.address}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.loads(answer.read().decode().replace("NaN", "null"))

    def tags(self, runs):
        """The names of the curves of each run, when all these runs are there."""
        deadline = time.monotonic() + 60
        found = None
        while time.monotonic() < deadline:
            try:
                found = {run: sorted(tags) for run, tags in self.get("data/plugin/scalars/tags").items()}
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, self.process.stderr.read().decode()
            if found is not None and set(runs) <= {run for run, tags in found.items() if tags}:
                return found
            time.sleep(0.2)
        raise AssertionError(f"after a minute there is {found}")

    def curve(self, run, tag):
        """(step, value) of each point."""
        points = self.get("data/plugin/scalars/scalars", run=run, tag=tag)
        return [(step, value) for _, step, value in points]

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.process.stderr.close()
