"""What the pages have in common: addresses, packages, and who may ask."""

import asyncio
import importlib.util
import re
import socket
import sys
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


@pytest.mark.skipif(not importlib.util.find_spec("starlette"), reason="needs starlette")
@pytest.mark.parametrize(
    ("listens", "asked", "path", "status"),
    [
        ("127.0.0.1", "127.0.0.1:7860", "/", 200),
        ("127.0.0.1", "localhost", "/", 200),
        ("127.0.0.1", "evil.example", "/", 400),
        ("::1", "[::1]:7860", "/", 200),
        ("::1", "evil.example", "/", 400),
        ("127.0.0.2", "127.0.0.2", "/", 200),
        ("192.0.2.7", "my-computer", "/", 200),  # a network's names cannot be known
        ("127.0.0.1", "127.0.0.1", "/gradio_api/file=https://example.com/a.png", 403),
        ("127.0.0.1", "127.0.0.1", "/gradio_api/file=HTTP://example.com/a.png", 403),
        ("192.0.2.7", "my-computer", "/gradio_api/proxy=https://example.com", 403),
    ],
)
def test_who_is_answered_and_what_is_never_fetched(listens, asked, path, status):
    """A page elsewhere whose name was turned to a loopback address must not speak for the user."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [(b"host", asked.encode())], "query_string": b""}
    asyncio.run(serving.only_here(app, listens)(scope, None, send))
    assert sent[0]["status"] == status


def status_of(app, method="POST", path="/gradio_api/upload", client="192.0.2.1", **headers):
    """The status that an ASGI application answers a request with."""
    sent = []

    async def send(message):
        sent.append(message)

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": named, "query_string": b""}
    asyncio.run(app(scope | {"client": (client, 1)}, None, send))
    return sent[0]["status"]


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.skipif(not importlib.util.find_spec("starlette"), reason="needs starlette")
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


@pytest.mark.skipif(not importlib.util.find_spec("starlette"), reason="needs starlette")
def test_uploads_are_bounded(monkeypatch):
    now = 0
    monkeypatch.setattr(serving, "time", SimpleNamespace(monotonic=lambda: now))
    app = serving.BoundedUploads(answer)
    app.EACH, app.VISITOR, app.TOTAL, app.FILES, app.KEEP = 50, 100, 150, 3, 50
    assert status_of(app) == 411 and status_of(app, content_length="51") == 413
    assert [status_of(app, content_length="50") for _ in range(3)] == [200, 200, 429]
    assert status_of(app, client="192.0.2.2", content_length="50") == 200
    assert status_of(app, client="192.0.2.3", content_length="1") == 503
    assert status_of(app, "GET") == 200
    now = 50
    assert [status_of(app, content_length="1") for _ in range(4)] == [200, 200, 200, 429]


@pytest.mark.parametrize("missing", ["has_launched", "async_ssrf_protected_download"])
def test_a_gradio_that_guards_files_in_another_way_is_refused(monkeypatch, missing):
    """Each real start of a page asks the real Gradio."""
    page, downloads = SimpleNamespace(has_launched=False), SimpleNamespace(async_ssrf_protected_download=None)
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(processing_utils=downloads, __version__="99"))
    serving.check_gradio(page)
    monkeypatch.delattr(page if missing == "has_launched" else downloads, missing)
    with pytest.raises(UserError, match="Gradio 99 guards this machine's files in a way"):
        serving.check_gradio(page)


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
