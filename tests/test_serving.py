"""What the pages have in common: addresses, packages, and who may ask."""

import asyncio
import importlib.util
import json
import os
import re
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import PROJECT

from utils import UserError
from web import serving
from web.study import server


def test_addresses():
    assert serving.address_of("127.0.0.1", 7) == "http://127.0.0.1:7"
    assert serving.address_of("::1", 7) == "http://[::1]:7"
    everywhere = serving.address_of("0.0.0.0", 7)
    assert re.fullmatch(r"http://[^:]+:7", everywhere) and "0.0.0.0" not in everywhere


def test_a_port_that_is_taken_is_one_sentence():
    with serving.listening("127.0.0.1", 0) as (listener, address):
        port = listener.getsockname()[1]
        assert address == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError):  # a server on all addresses would answer on 127.0.0.2 too, where Linux has it
            socket.create_connection(("127.0.0.2", port), timeout=5)
        with (
            pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had .*: choose another --port"),
            serving.listening("127.0.0.1", port),
        ):
            pass
    for host in ("no such host", "a..b", "x" * 300):
        with pytest.raises(UserError, match="cannot be had"), serving.listening(host, 0):
            pass


def test_all_addresses_are_both_kinds():
    with serving.listening("::", 0) as (listener, address):
        port = listener.getsockname()[1]
        for family, own in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(5)
                client.connect((own, port))


needs_starlette = pytest.mark.skipif(not importlib.util.find_spec("starlette"), reason="needs starlette")


def status_of(app, method="POST", path=serving.UPLOAD, client="192.0.2.1", body=b"", **headers):
    """The status that an ASGI application answers a request with; its length is of the body if it is not given."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items() if value is not None]
    named += [(b"content-length", b"%d" % len(body))] if "content_length" not in headers else []
    scope = {"type": "http", "method": method, "path": path, "headers": named, "query_string": b""}
    asyncio.run(app(scope | {"client": (client, 1)}, receive, send))
    return sent[0]["status"]


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@needs_starlette
@pytest.mark.parametrize(
    ("listens", "asked", "status"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("127.0.0.1", "localhost", 200),
        ("127.0.0.1", "evil.example", 400),
        ("::1", "[::1]:7860", 200),
        ("::1", "evil.example", 400),
        ("127.0.0.2", "127.0.0.2", 200),
        ("192.0.2.7", "my-computer", 200),  # a network's names cannot be known
    ],
)
def test_who_is_answered(listens, asked, status):
    """A page elsewhere whose name was turned to a loopback address must not speak for the user."""
    assert status_of(serving.only_here(answer, listens), "GET", "/", host=asked) == status


@needs_starlette
def test_pages_of_other_servers_change_nothing():
    """A browser sends their forms along, and names where they are from."""
    app = serving.own_pages_only(answer)
    host = "localhost:7860"
    assert status_of(app, host=host) == 200  # no browser
    assert status_of(app, host=host, origin=f"http://{host}", sec_fetch_site="same-origin") == 200
    for origin in ("https://evil.example", "null", "http://localhost:8000", f"http://{host}.evil.example"):
        assert status_of(app, host=host, origin=origin) == 403
    assert status_of(app, host=host, sec_fetch_site="cross-site") == 403
    assert status_of(app, "GET", host=host, sec_fetch_site="cross-site") == 200  # a link to the page


@needs_starlette
def test_what_is_sent_says_how_long_it_is():
    """Of a length and chunks, the server reads the chunks, without an end."""
    app = serving.own_pages_only(answer)
    assert status_of(app, content_length="3") == 200 and status_of(app, "GET", content_length=None) == 200
    for headers in ({"content_length": None}, {"content_length": "x"}, {"transfer_encoding": "chunked"}):
        assert status_of(app, **headers) == 411
    assert status_of(app, content_length="3", transfer_encoding="chunked") == 411


@needs_starlette
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/gradio_api/file=/tmp/a.png", 200),
        ("GET", "/gradio_api/file=https://example.com/a.png", 403),
        ("GET", "/gradio_api/file=HTTP://example.com/a.png", 403),
        ("HEAD", "/gradio_api/proxy=https://example.com", 403),
        ("GET", "/gradio_api/deep_link", 403),
        ("POST", "/gradio_api/upload", 200),
        ("POST", "/login", 200),
        ("POST", "/gradio_api/process_recording", 404),
        ("POST", "/gradio_api/component_server", 404),
        ("PUT", "/gradio_api/reset/", 404),
    ],
)
def test_gradio_is_asked_for_what_its_page_needs(tmp_path, method, path, status):
    assert status_of(serving.needed_only(answer, tmp_path), method, path) == status


@needs_starlette
def test_what_is_sent_to_gradio_is_bounded(tmp_path):
    app = serving.needed_only(answer, tmp_path)
    for path, most in serving.SENT.items():
        length = "1" + "0" * len(str(most))
        assert status_of(app, path=path, content_length=length) == 413, path
    assert status_of(app, path=serving.JSON[0], body=b"[]" + b" " * 2**16) == 413


@needs_starlette
@pytest.mark.parametrize("path", serving.JSON)
def test_a_request_names_no_file_but_uploads(tmp_path, path):
    """Whatever is named as a file would be copied to where the visitor can read it, or fetched."""
    folder, secret = (tmp_path / "page").resolve(), tmp_path / "secret.png"
    folder.mkdir()
    secret.touch()
    (folder / "link").symlink_to(secret)
    app = serving.needed_only(answer, folder)

    def status(name):
        kinds = ({"path": name}, [{"path": name, "meta": {"_type": "gradio.FileData"}}], {"data": [[{"path": name}]]})
        found = {status_of(app, path=path, body=json.dumps(kind).encode()) for kind in kinds}
        assert len(found) == 1
        return found.pop()

    assert status(str(folder / "a.png")) == 200
    for name in (secret, folder / ".." / "secret.png", folder / "link", "secret.png", "https://example.com/a.png", ""):
        assert status(str(name)) == 403, name
    for name in (None, 3, [str(folder / "a.png")], "\0", "a" * 10000):
        assert status(name) == 403, name
    for body in (b"", b"[", b"[" * 50000, b"\xff\xfe"):
        assert status_of(app, path=path, body=body) == 400, body[:9]


@needs_starlette
def test_gradio_reads_what_was_looked_at(tmp_path):
    """Of two values of one key, which one counts depends on the reader."""
    read = []

    async def app(scope, receive, send):
        read.append((await receive())["body"])
        await answer(scope, receive, send)

    inside = json.dumps(str(tmp_path.resolve() / "a.png"))
    body = f'{{"path": "/etc/passwd", "path": {inside}, "é": NaN}}'
    for encoding in ("utf-8", "utf-16"):
        assert (
            status_of(serving.needed_only(app, tmp_path.resolve()), path=serving.JSON[0], body=body.encode(encoding))
            == 200
        )
        assert read.pop() == f'{{"path": {inside}, "\\u00e9": NaN}}'.encode()


@needs_starlette
def test_uploads_are_bounded(monkeypatch):
    now = 0
    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(serving, "KEEP", 50)
    app = serving.BoundedUploads(answer)
    app.VISITOR, app.TOTAL, app.FILES = 100, 150, 3
    assert [status_of(app, content_length="50") for _ in range(3)] == [200, 200, 429]
    assert status_of(app, client="192.0.2.2", content_length="50") == 200
    assert status_of(app, client="192.0.2.3", content_length="1") == 503
    assert status_of(app, "GET") == status_of(app, path="/gradio_api/reset", content_length="1000") == 200
    now = 50
    assert [status_of(app, content_length="1") for _ in range(4)] == [200, 200, 200, 429]


def test_what_pages_leave_on_disk_is_bounded(tmp_path, monkeypatch):
    """By age and bytes, whoever wrote it; what was there when the page began stays."""
    folder = serving.Folder(tmp_path)
    monkeypatch.setattr(folder, "ENTRY", 0)
    (tmp_path / "example.png").write_bytes(bytes(100))
    folder.begin()

    def add(names):
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / "a.png").write_bytes(bytes(10))
            time.sleep(0.01)  # a file system's clock has ticks

    def names():
        return {path.name for path in tmp_path.iterdir()}

    add("abc")
    folder.tidy(total=25)
    assert names() == {"example.png", "b", "c"}
    folder.tidy()
    assert names() == {"example.png", "b", "c"}
    folder.tidy(keep=-1)
    assert names() == {"example.png"}
    add("abc")
    monkeypatch.setattr(folder, "TOTAL", 10)
    folder.tidy()
    assert names() == {"example.png", "c"}


def test_tidying_does_not_mind_others_who_delete(tmp_path, monkeypatch):
    """A folder that goes while it is looked at, which Path.rglob would raise for."""
    folder, scan = serving.Folder(tmp_path), os.scandir
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()

    def scandir(path):
        if os.path.basename(path) == "b":
            os.unlink(os.path.join(path, "a.png"))
            os.rmdir(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    folder.tidy(total=0)
    assert not list(tmp_path.iterdir())


def test_tidying_goes_on_until_the_page_ends():
    done, seen = threading.Event(), []

    def act():
        seen.append(1)
        if len(seen) == 3:
            done.set()

    with serving.every(0.01, act):
        assert done.wait(10)
    count = len(seen)
    time.sleep(0.05)
    assert len(seen) == count


def test_a_password_is_an_account():
    assert serving.account("word") == ("srgan", "word") and serving.account(None) is serving.account("") is None


def test_missing_packages_are_a_hint(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else True)
    with pytest.raises(UserError, match="this page needs uvicorn: pip install -r requirements-demo.txt"):
        serving.check_packages(server.PACKAGES)


def test_the_extra_packages_are_listed():
    """FastAPI comes with Gradio."""
    listed = (PROJECT / "requirements-demo.txt").read_text()
    for package in {*server.PACKAGES, *serving.GRADIO} - {"fastapi"}:
        assert re.search(rf"^{package}>=", listed, re.MULTILINE), package
    assert "-r requirements-demo.txt" in (PROJECT / "requirements-dev.txt").read_text()
