"""Many visitors of the page that upscales at once: all are served, and memory and disk stay bounded.

By hand, 30 visitors in 120 seconds, with the shipped SRGAN: `PYTHONPATH=.:tests python tests/test_visitors.py 30 120`.
"""

import contextlib
import io
import json
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import PROJECT, content_of, photo
from PIL import Image
from test_demo import Server, needs_packages, wait_until

SIZES = ((24, 200), (40, 56), (96, 128), (150, 200), (240, 320))  # (height, width) of uploads
LARGE = (1600, 1400)  # more than the page takes
# What a visitor does, and how often.
VISITS = {"picture": 3, "too_many_pixels": 1, "too_many_bytes": 1, "no_picture": 1, "from_another_page": 1}


class From(requests.adapters.HTTPAdapter):
    """Connects from an address of its own, as each visitor in a network does: 127.0.0.2 and so on are this machine."""

    def __init__(self, address):
        self.address = address
        super().__init__()

    def init_poolmanager(self, *arguments, **settings):
        super().init_poolmanager(*arguments, source_address=(self.address, 0), **settings)


METHODS = ["bicubic", "srgan_x4"]
ASKED = METHODS, 1, "4", "as it was", "auto"  # the share, factor, format and engine


class Visitor(threading.Thread):
    """Opens the page again and again until `end`, and each time does one of VISITS.

    done: how often each; waits: seconds from a picture's upload until its result has been downloaded; error: what went
    otherwise than it should, which ends the visits.
    """

    def __init__(self, number, server, end):
        super().__init__()
        self.server, self.end, self.chance, self.rng = server, end, random.Random(number), np.random.default_rng(number)
        self.done, self.waits, self.error = Counter(), [], None
        self.api = f"{server.address}/gradio_api"
        self.web = requests.Session()
        self.web.mount("http://", From(f"127.0.0.{number + 2}"))
        config = self.web.get(f"{server.address}/config", timeout=60).json()
        names = [part["api_name"] for part in config["dependencies"]]
        self.actions = {name: i for i, name in enumerate(names)}

    def run(self):
        try:
            while time.monotonic() < self.end:
                kind = "picture" if not self.done else self.chance.choices([*VISITS], [*VISITS.values()])[0]
                self.page = f"{self.chance.getrandbits(60):x}"
                with self.web.get(f"{self.api}/heartbeat/{self.page}", stream=True, timeout=60):  # the page is open
                    getattr(self, kind)()
                self.done[kind] += 1
        except Exception as error:
            self.error = error

    def act(self, name, *data):
        """What an action of the page says at its end."""
        asked = {"data": data, "fn_index": self.actions[name], "session_hash": self.page}
        self.web.post(f"{self.api}/queue/join", json=asked, timeout=60).raise_for_status()
        address = f"{self.api}/queue/data?session_hash={self.page}"
        with self.web.get(address, stream=True, timeout=600) as told:
            for line in told.iter_lines():
                if line.startswith(b"data:") and (message := json.loads(line[5:]))["msg"] == "process_completed":
                    assert message["success"], message
                    return message["output"]["data"]
        raise AssertionError(f"{name} did not end")

    def upload(self, content, **headers):
        return self.web.post(f"{self.api}/upload", files={"files": ("a.png", content)}, headers=headers, timeout=60)

    def receive(self, content):
        """What the page says of an upload."""
        answer = self.upload(content)
        answer.raise_for_status()
        return self.act("receive", [{"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}])[1]

    # What is done, and what the page must say

    def picture(self):
        height, width = self.chance.choice(SIZES)
        start = time.monotonic()
        about = self.receive(content_of(photo(self.rng, height, width)))
        assert f"{width}×{height}" in about, about
        status, files, *_ = self.act("make", *ASKED)
        assert status.startswith("Done."), status
        result = self.web.get(files["value"][0]["url"], timeout=60)
        assert Image.open(io.BytesIO(result.content)).size == (4 * width, 4 * height)
        self.waits.append(time.monotonic() - start)
        assert len(self.act("look_closer", *ASKED, 20, 80, 4)[0]) == 2

    def too_many_pixels(self):
        about = self.receive(content_of(np.zeros((*LARGE, 3), np.uint8)))
        assert "more than --max-megapixels" in about, about

    def no_picture(self):
        about = self.receive(self.rng.bytes(10**6))
        assert "is not a picture" in about, about

    def too_many_bytes(self):
        """It is refused before its bytes are read."""
        host, port = self.server.address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            line = f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {2**30}\r\n\r\n"
            connection.sendall(line.encode())
            assert b" 413 " in connection.recv(100)

    def from_another_page(self):
        assert self.upload(self.rng.bytes(10**6), Origin="https://evil.example").status_code == 403


class Watch(threading.Thread):
    """Looks at a Server every half second until `stop`: seen has (seconds, bytes of memory, bytes of its files)."""

    def __init__(self, server):
        super().__init__()
        self.server, self.seen, self.stop, self.start_time = server, [], threading.Event(), time.monotonic()

    def run(self):
        while not self.stop.wait(0.5):
            now = time.monotonic() - self.start_time
            self.seen.append((now, self.memory("VmRSS"), bytes_of(self.server)))

    def memory(self, name):
        """VmRSS, bytes in memory now, or VmHWM, the most there were."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return 1024 * int(status.split(f"{name}:")[1].split()[0])


def bytes_of(server):
    """Of all temporary files; others delete and make some meanwhile."""
    total = 0
    for path in server.files():
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total


def visit(server, count, seconds):
    """(Visitors, Watch) of `count` visitors at once, each of whom comes again for `seconds`."""
    watch = Watch(server)
    visitors = [Visitor(i, server, time.monotonic() + seconds) for i in range(count)]
    for thread in (watch, *visitors):
        thread.start()
    for visitor in visitors:
        visitor.join()
    watch.stop.set()
    watch.join()
    for visitor in visitors:
        if visitor.error:
            raise visitor.error
    return visitors, watch


@pytest.mark.slow
@needs_packages
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
def test_all_visitors_are_served(place, tmp_path):
    server = Server(place, tmp_path)
    try:
        before = bytes_of(server)
        visitors, watch = visit(server, 6, 10)
        assert all(visitor.waits for visitor in visitors)
        _, _, files = zip(*watch.seen, strict=True)
        assert watch.memory("VmHWM") < 3 * 2**30 and max(files) < 2**28
        wait_until(lambda: bytes_of(server) == before)
    finally:
        printed = server.stop()
    assert printed.endswith("stopped; what was uploaded and made is deleted\n") and "Traceback" not in printed


if __name__ == "__main__":  # python tests/test_visitors.py VISITORS SECONDS
    import sys
    import tempfile

    count, seconds = map(int, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        server = Server(PROJECT / "checkpoint", Path(folder))
        try:
            visitors, watch = visit(server, count, seconds)
            done = sum((visitor.done for visitor in visitors), Counter())
            waits = sorted(wait for visitor in visitors for wait in visitor.waits)
            print(f"{count} visitors, {seconds} seconds: {dict(done)}")
            print(f"fewest pictures of a visitor: {min(len(visitor.waits) for visitor in visitors)}")
            print(f"seconds for a picture: median {np.median(waits):.1f}, at most {waits[-1]:.1f}")
            for now, memory, files in watch.seen[:: max(len(watch.seen) // 15, 1)]:
                print(f"{now:6.0f} s: {memory / 2**20:6.0f} MiB of memory, {files / 2**20:6.1f} MiB of files")
            peak = max(files for *_, files in watch.seen)
            print(f"at most {watch.memory('VmHWM') / 2**20:.0f} MiB of memory, {peak / 2**20:.1f} MiB of files")
        finally:
            print(server.stop(), end="")
