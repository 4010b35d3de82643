"""The rating study of study.py in a browser: one link a rater, one picture at a time, 1 to 5 by key or click.

What the browser is told of a picture is its position in the rater's own plan: no name, no method, no size in advance.
mos.html is the page; it asks for nothing but what is served here.
"""

import contextlib
import importlib.util
import json
import socket
from pathlib import Path
from string import Template

from filelock import FileLock, Timeout

import report
from study import Refused
from utils import UserError

PAGE = Path(__file__).resolve().parent / "mos.html"
PACKAGES = ("starlette", "uvicorn")
LARGEST = 1000  # bytes of an answer
ANY = ("0.0.0.0", "::")  # hosts that stand for all addresses of this machine


def check_packages():
    """Raise UserError unless the packages of requirements-demo.txt are there."""
    if missing := [name for name in PACKAGES if not importlib.util.find_spec(name)]:
        raise UserError(f"--mos needs {' and '.join(missing)}: pip install -r requirements-demo.txt")


def make_app(study):
    """The web application: a page, pictures and answers for each rater of a study.Study."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    template = PAGE.read_text(encoding="utf-8")
    # no-store: a repeated picture must not show itself by coming from the cache. no-referrer: the link is the key.
    allowed = ("img-src 'self'", "connect-src 'self'", "frame-ancestors 'none'")
    headers = {
        "Content-Security-Policy": report.policy_of(template, *allowed),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    def with_headers(app):
        """The application, with the headers on every answer of it."""

        async def answer_with(scope, receive, send):
            async def send_more(message):
                if message["type"] == "http.response.start":
                    extra = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
                    message["headers"] = [*message["headers"], *extra]
                await send(message)

            await app(scope, receive, send_more)

        return answer_with

    def not_found():
        return PlainTextResponse("There is nothing here. Please check the link.", 404)

    def page(request):
        rater = study.find_rater(request.path_params["token"])
        if rater is None:
            return not_found()
        content = {"address": request.url.path} | study.progress(rater)
        return HTMLResponse(Template(template).substitute(data=report.json_inside(content)))

    def picture(request):
        rater = study.find_rater(request.path_params["token"])
        content = None if rater is None else study.read_picture(rater, position_of(request))
        return not_found() if content is None else Response(content, media_type="image/png")

    async def answer(request):
        if int(request.headers.get("content-length", LARGEST + 1)) > LARGEST:
            return JSONResponse({"error": "this is too long for an answer"}, 400)
        body = await request.body()
        return await run_in_threadpool(take, request, body)

    def take(request, body):
        rater = study.find_rater(request.path_params["token"])
        if rater is None:
            return not_found()
        try:
            given = json.loads(body)
            study.rate(rater, position_of(request), *(given[key] for key in ("rating", "milliseconds", "answer")))
        except Refused as error:
            return JSONResponse({"error": str(error)}, 400)
        except (ValueError, TypeError, KeyError, RecursionError):
            return JSONResponse({"error": "this is not an answer"}, 400)
        return JSONResponse({"saved": True})

    application = Starlette(
        routes=[
            Route("/r/{token}", page),
            Route("/r/{token}/{position:int}", picture),
            Route("/r/{token}/{position:int}", answer, methods=["POST"]),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
        ],
        middleware=[Middleware(with_headers)],
        exception_handlers={404: lambda request, error: not_found()},
    )
    application.router.redirect_slashes = False
    return application


def position_of(request):
    """The position in a request's address; -1, where nothing is shown, if it is more than SQLite can count to."""
    position = request.path_params["position"]
    return position if position < 2**63 else -1


def address_of(host, port):
    """The beginning of the links; the machine's own address where the host stands for all of them."""
    if host in ANY:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
            try:
                way_out.connect(("192.0.2.1", 9))  # of UDP: it chooses a way and sends nothing
                host = way_out.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(study, host, port, raters):
    """Serve a study.Study to at least `raters` raters until Ctrl-C. Raises UserError.

    port: 0 takes any that is free.
    """
    import uvicorn

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(study.folder / "lock").acquire(timeout=0))
        except Timeout:
            raise UserError(f"another server has {study.folder} open") from None
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listener = stack.enter_context(socket.create_server((host, port), family=family))
        except OSError as error:
            raise UserError(f"port {port} of {host} cannot be had ({error.strerror}): choose another --port") from None
        study.add_raters(raters)
        address = address_of(host, listener.getsockname()[1])
        print(f"{len(study.pictures)} pictures in {study.folder}. One link a rater, always the same; Ctrl-C stops.")
        for rater, token, done, count in study.raters():
            print(f"rater {rater}: {address}/r/{token}  {done} of {count} done", flush=True)
        quiet = {"log_level": "warning", "access_log": False, "server_header": False}
        config = uvicorn.Config(make_app(study), timeout_graceful_shutdown=3, **quiet)
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            print("stopped; every rating is saved, and the links go on where they were")
