"""What the pages of demo.py have in common: where they listen, their headers, and how they end."""

import contextlib
import importlib.util
import ipaddress
import json
import os
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path

from utils import UserError

ANY = ("0.0.0.0", "::")  # hosts that stand for all addresses of this machine
CONNECTIONS = 800  # at a time; more are told to come back: many systems give a process 1024 open files
READING = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
KEEP = 1800  # seconds that uploads and results are kept for


def check_packages(packages):
    """Raise UserError unless these packages of requirements-demo.txt are there."""
    if missing := [name for name in packages if not importlib.util.find_spec(name)]:
        raise UserError(f"this page needs {' and '.join(missing)}: pip install -r requirements-demo.txt")


def address_of(host, port):
    """The beginning of a page's address; the machine's own where the host stands for all of them."""
    if host in ANY:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
            try:
                way_out.connect(("192.0.2.1", 9))  # UDP: this only chooses a network, and sends nothing
                host = way_out.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def listening(host, port):
    """(socket, address) that a page is served at; port: 0 takes any that is free. Raises UserError."""
    settings = {"family": socket.AF_INET6, "dualstack_ipv6": host == "::"} if ":" in host else {}
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.create_server((host, port), **settings))
        except (OSError, ValueError) as error:  # ValueError: not a possible name of a machine
            reason = getattr(error, "strerror", None) or "no such host"
            raise UserError(
                f"port {port} of {host} cannot be had ({reason}): choose another --port or --host"
            ) from None
        yield listener, address_of(host, listener.getsockname()[1])


def with_headers(app, headers):
    """An ASGI application, with {name: value} as headers of every answer."""
    extra = [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def answer_with(scope, receive, send):
        async def send_more(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await app(scope, receive, send_more)

    return answer_with


def body_length(scope):
    """How many bytes a request says that its body has, or None: it does not say, or sends chunks."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    return None if b"transfer-encoding" in headers else int(length) if length.isdigit() else None


def own_pages_only(app):
    """An ASGI application that changes nothing for pages of other servers, nor for what does not say how long it is.

    A browser sends a form to any address for any page, and says where that page is from: in Sec-Fetch-Site and Origin.
    """
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse

    async def guarded(scope, receive, send):
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
            if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                await PlainTextResponse("Pages of other servers may not do this.", 403)(scope, receive, send)
                return
            if body_length(scope) is None:
                await PlainTextResponse("This must say how long it is.", 411)(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


def run(app, listener, goodbye, leave=lambda: None, **settings):
    """Serve an ASGI application at an open socket until Ctrl-C, kill or hang-up, then print `goodbye`.

    leave: called at that signal, before connections are closed; settings: of uvicorn.Config.
    """
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, number, frame):
            leave()
            super().handle_exit(number, frame)

    defaults = {"timeout_graceful_shutdown": 3, "log_level": "warning", "access_log": False, "server_header": False}
    defaults |= {"limit_concurrency": CONNECTIONS, "ws": "none"}
    server = Server(uvicorn.Config(own_pages_only(app), **(defaults | settings)))
    # uvicorn sends itself the signal again when all is closed. The default handlers would end Python at once and leave
    # temporary files behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):  # not on Windows
        signal.signal(signal.SIGHUP, server.handle_exit)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    print(goodbye)


# ---------------------------------------------------------------------------------------------------------------------
# Pages made with Gradio

GRADIO = ("gradio", "fastapi", "starlette", "uvicorn")  # packages
# Gradio's page has inline scripts and styles. The browser may ask no other server for anything.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
# Addresses that begin like this make Gradio fetch something from another server, or write a file, for anybody who asks.
FETCHING = ("/gradio_api/file=http", "/gradio_api/proxy=", "/gradio_api/deep_link")
UPLOAD = "/gradio_api/upload"
JSON = ("/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset")
# {what a page sends to: bytes at most}. Gradio takes more than its pages need, films to convert for example.
SENT = {UPLOAD: 101 * 2**20, "/login": 2**12} | dict.fromkeys(JSON, 2**16)
WAITING = 200  # actions that wait for their turn; more are refused


class Folder:
    """The folder of all that Gradio writes. What comes after `begin` is kept for KEEP seconds, and TOTAL bytes at most.

    Gradio's own delete_cache does not know of uploads that broke off. path: resolved, as Path; lasting: what was there
    at the beginning.
    """

    TOTAL = 4 * 2**30  # bytes
    ENTRY = 2**12  # bytes of a file's entry and last block

    def __init__(self, path):
        self.path, self.lasting = Path(path).resolve(), set()

    def begin(self):
        self.lasting = self.files()

    def files(self):
        """The files in it now; other threads may delete and make some meanwhile."""
        return {Path(parent, name) for parent, _, names in os.walk(self.path) for name in names}

    def tidy(self, keep=KEEP, total=None):
        """Delete what came more than `keep` seconds ago, and the oldest beyond `total` bytes (default: TOTAL)."""
        left, files = self.TOTAL if total is None else total, []
        for path in self.files() - self.lasting:
            with contextlib.suppress(OSError):  # another thread has deleted it
                about = path.stat()
                files.append((about.st_ctime, about.st_size + self.ENTRY, path))
        for came, size, path in sorted(files, reverse=True):
            left -= size
            if left < 0 or time.time() - came > keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    path.parent.rmdir()  # if it was the last one there


@contextlib.contextmanager
def gradio_folder():
    """A Folder, deleted at the end. Must be entered before Gradio is imported."""
    with tempfile.TemporaryDirectory(prefix="srgan-page-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        yield Folder(folder)


@contextlib.contextmanager
def every(seconds, *actions):
    """Call the actions every so many seconds, in a thread of their own."""
    ended = threading.Event()

    def repeat():
        while not ended.wait(seconds):
            for action in actions:
                action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def account(password):
    """What mount_gradio_app takes as `auth`: the one account there is, or None without a password."""
    return ("srgan", password) if password else None


def run_gradio(page, folder, listener, goodbye, leave=lambda: None, tidy=lambda: None, **settings):
    """Serve a gradio.Blocks as `run` does.

    folder: of gradio_folder; tidy: called every ten seconds; settings: of gradio.mount_gradio_app.
    """
    import fastapi
    import gradio
    from fastapi.middleware.cors import CORSMiddleware

    folder.begin()
    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # Gradio's own lets pages of other servers ask
    gradio.mount_gradio_app(
        app,
        page.queue(max_size=WAITING),
        "/",
        footer_links=[],
        run_history=False,  # it would keep uploads in the browser
        ssr_mode=False,
        mcp_server=False,
        **settings,
    )
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
    app = needed_only(BoundedUploads(app), folder.path)
    app = with_headers(only_here(app, listener.getsockname()[0]), headers)
    with every(10, tidy, folder.tidy):
        run(app, listener, goodbye, leave, timeout_graceful_shutdown=1, log_level="critical")


def only_here(app, host):
    """An ASGI application that on a loopback address answers to this machine's names only.

    Otherwise a foreign page whose name is redirected to this address (DNS rebinding) could act for the user.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    address = ipaddress.ip_address(host)
    if not address.is_loopback:
        return app
    own = f"[{host}]" if address.version == 6 else host
    return TrustedHostMiddleware(app, list({"localhost", "127.0.0.1", "[::1]", own}))


def needed_only(app, folder):
    """An ASGI application of Gradio that takes what its page sends (SENT) and nothing else.

    What is sent names no file but those in `folder`, a resolved Path. Without that, Gradio would copy any file of this
    machine that is named as an upload, and fetch it from any server.
    """
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse

    async def guarded(scope, receive, send):
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        path, refused = scope["path"], None
        if scope["method"] in READING:
            if path.lower().startswith(FETCHING):
                refused = 403, "This server asks no other."
        elif path not in SENT:
            refused = 404, "There is nothing here."
        elif body_length(scope) > SENT[path]:
            refused = 413, "This is too large."
        elif path in JSON:
            try:
                value = json.loads(await Request(scope, receive).body())
                if not all(is_in(folder, name) for name in named_paths(value)):
                    refused = 403, "This was not uploaded."
            except (ValueError, RecursionError):
                refused = 400, "This is no JSON."
            else:
                receive = replayed(json.dumps(value).encode(), receive)  # as it was understood here
        if refused:
            await PlainTextResponse(refused[1], refused[0])(scope, receive, send)
        else:
            await app(scope, receive, send)

    return guarded


def named_paths(value):
    """All that stands under the key "path", at any depth of what JSON can hold: Gradio's name of a file."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "path" in value:
                yield value["path"]
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def is_in(folder, name):
    """Whether `name` is a path within a folder; links are followed."""
    try:
        return Path(name).resolve().is_relative_to(folder)
    except (TypeError, ValueError, OSError, RuntimeError):  # no text, a zero byte, too long, links in a circle
        return False


def replayed(body, receive):
    """An ASGI receive() that gives this body, and then what `receive` has."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def again():
        return messages.pop() if messages else await receive()

    return again


class BoundedUploads:
    """An ASGI application of Gradio in which the uploads of one visitor are bounded, and those of all.

    A visitor is an address. An upload counts for KEEP seconds, as long as it is kept at most.
    """

    VISITOR, TOTAL = 500 * 2**20, 2 * 2**30  # bytes
    FILES = 200  # of one visitor

    def __init__(self, app):
        self.app, self.taken = app, []  # [(time, visitor, bytes)]

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] == UPLOAD and scope["method"] == "POST":
            from starlette.responses import PlainTextResponse

            if refused := self.take((scope.get("client") or ("",))[0], body_length(scope)):
                await PlainTextResponse(refused[1], refused[0])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def take(self, visitor, length):
        """Count an upload of `length` bytes; (status, reason) if it is refused."""
        now = time.monotonic()
        self.taken = [entry for entry in self.taken if now - entry[0] < KEEP]
        own = [size for _, theirs, size in self.taken if theirs == visitor]
        if len(own) >= self.FILES or sum(own) + length > self.VISITOR:
            return 429, "You have uploaded much: please wait half an hour."
        if sum(size for *_, size in self.taken) + length > self.TOTAL:
            return 503, "All visitors together have uploaded much: please come back in half an hour."
        self.taken.append((now, visitor, length))
        return None
