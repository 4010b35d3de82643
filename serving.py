"""What the pages of demo.py have in common: where they listen, their headers, and how they end."""

import contextlib
import importlib.util
import os
import socket
import tempfile
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
                way_out.connect(("192.0.2.1", 9))  # of UDP: it chooses a way and sends nothing
                host = way_out.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def listening(host, port):
    """(socket, address) that a page is served at; port: 0 takes any that is free. Raises UserError."""
    with contextlib.ExitStack() as stack:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = stack.enter_context(socket.create_server((host, port), family=family))
        except OSError as error:
            raise UserError(f"port {port} of {host} cannot be had ({error.strerror}): choose another --port") from None
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


def run(app, listener, goodbye):
    """Serve an ASGI application at an open socket until Ctrl-C, then print `goodbye`."""
    import uvicorn

    config = uvicorn.Config(
        app, timeout_graceful_shutdown=3, log_level="warning", access_log=False, server_header=False
    )
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])
    print(goodbye)


# ---------------------------------------------------------------------------------------------------------------------
# Pages made with Gradio

GRADIO = ("gradio", "fastapi", "starlette", "uvicorn")  # packages
# Gradio's page has its scripts and styles inside it. No other server may be asked for anything.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


@contextlib.contextmanager
def gradio_folder():
    """A folder of its own for all that Gradio writes, deleted at the end. To be entered before Gradio is imported."""
    with tempfile.TemporaryDirectory(prefix="srgan-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        yield Path(folder)


def run_gradio(page, listener, host, goodbye, **settings):
    """Serve a gradio.Blocks at an open socket until Ctrl-C, then print `goodbye`; settings: of mount_gradio_app."""
    import fastapi
    import gradio
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = fastapi.FastAPI(openapi_url=None)
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
    if host in ("127.0.0.1", "localhost"):  # a foreign page whose name was turned to this address is not let in
        app = TrustedHostMiddleware(app, ["127.0.0.1", "localhost"])
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
    run(with_headers(app, headers), listener, goodbye)
