"""What the pages of demo.py have in common: where they listen, their headers, and how they end."""

import contextlib
import importlib.util
import ipaddress
import os
import signal
import socket
import tempfile
import time
from pathlib import Path

from utils import UserError

ANY = ("0.0.0.0", "::")  # hosts that stand for all addresses of this machine


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


def own_pages_only(app):
    """An ASGI application that changes nothing for pages of other servers.

    A browser sends a form to any address for any page, and says where that page is from: in Sec-Fetch-Site and Origin.
    """
    from starlette.datastructures import Headers
    from starlette.responses import PlainTextResponse

    async def guarded(scope, receive, send):
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
            if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                await PlainTextResponse("Pages of other servers may not do this.", 403)(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


class BoundedUploads:
    """An ASGI application whose uploads are bounded: each, those of one visitor, and all.

    A visitor is an address. Gradio deletes an upload after KEEP seconds at the latest, and so long one counts.
    """

    KEEP = 1800  # seconds
    EACH, VISITOR, TOTAL = 101 * 2**20, 500 * 2**20, 2 * 2**30  # bytes
    FILES = 200  # of one visitor

    def __init__(self, app):
        self.app, self.taken = app, []  # [(time, visitor, bytes)]

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            from starlette.responses import PlainTextResponse

            length = dict(scope["headers"]).get(b"content-length", b"")
            visitor = (scope.get("client") or ("",))[0]
            if refused := self.take(visitor, int(length) if length.isdigit() else None):
                await PlainTextResponse(refused[1], refused[0])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def take(self, visitor, length):
        """Count an upload of `length` bytes; (status, reason) if it is refused."""
        now = time.monotonic()
        self.taken = [entry for entry in self.taken if now - entry[0] < self.KEEP]
        own = [size for _, theirs, size in self.taken if theirs == visitor]
        if length is None:
            return 411, "An upload must say how long it is."
        if length > self.EACH:
            return 413, "This is too large."
        if len(own) >= self.FILES or sum(own) + length > self.VISITOR:
            return 429, "You have uploaded much: please wait half an hour."
        if sum(size for *_, size in self.taken) + length > self.TOTAL:
            return 503, "All visitors together have uploaded much: please come back in half an hour."
        self.taken.append((now, visitor, length))
        return None


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
# Addresses that begin like this make Gradio fetch something from another server, for anybody who asks.
FETCHING = ("/gradio_api/file=http", "/gradio_api/proxy=")


@contextlib.contextmanager
def gradio_folder():
    """A folder for all that Gradio writes, deleted at the end. Must be entered before Gradio is imported."""
    with tempfile.TemporaryDirectory(prefix="srgan-page-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        yield Path(folder)


def account(password):
    """What mount_gradio_app takes as `auth`: the one account there is, or None without a password."""
    return ("srgan", password) if password else None


def check_gradio(page):
    """Raise UserError unless Gradio has the two undocumented names that keep files from visitors."""
    import gradio

    if not hasattr(page, "has_launched") or not hasattr(gradio.processing_utils, "async_ssrf_protected_download"):
        raise UserError(
            f"Gradio {gradio.__version__} guards this machine's files in a way that this program does not know: "
            "pip install -r requirements-demo.txt"
        )


def run_gradio(page, listener, goodbye, leave=lambda: None, **settings):
    """Serve a gradio.Blocks as `run` does; settings: of gradio.mount_gradio_app."""
    import fastapi
    import gradio
    from fastapi.middleware.cors import CORSMiddleware

    check_gradio(page)
    app = fastapi.FastAPI(openapi_url=None)
    app.add_middleware(CORSMiddleware, allow_origins=[])  # Gradio's own lets pages of other servers ask
    gradio.mount_gradio_app(
        app,
        page,
        "/",
        footer_links=[],
        run_history=False,  # it would keep uploads in the browser
        ssr_mode=False,
        mcp_server=False,
        **settings,
    )
    # A value whose "path" is an address of another server would be fetched.
    gradio.processing_utils.async_ssrf_protected_download = refuse_to_fetch
    # launch() sets this. Without it anybody who asks can name any file of this machine as an upload.
    page.has_launched = True
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
    app = with_headers(only_here(BoundedUploads(app), listener.getsockname()[0]), headers)
    run(app, listener, goodbye, leave, timeout_graceful_shutdown=1, log_level="critical")


async def refuse_to_fetch(*arguments, **settings):
    import gradio

    raise gradio.Error("This server asks no other.")


def only_here(app, host):
    """An ASGI application that asks no other server, and on a loopback address answers to this machine's names only.

    Otherwise a foreign page whose name is redirected to this address (DNS rebinding) could act for the user.
    """
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import PlainTextResponse

    async def guarded(scope, receive, send):
        if scope["type"] == "http" and scope["path"].lower().startswith(FETCHING):
            await PlainTextResponse("This server asks no other.", 403)(scope, receive, send)
        else:
            await app(scope, receive, send)

    address = ipaddress.ip_address(host)
    if not address.is_loopback:
        return guarded
    own = f"[{host}]" if address.version == 6 else host
    return TrustedHostMiddleware(guarded, list({"localhost", "127.0.0.1", "[::1]", own}))
