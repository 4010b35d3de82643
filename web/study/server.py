"""The rating study of plans.py in a browser: one link a rater, one picture at a time, 1 to 5 by key or click.

What the browser is told of a picture is its position in the rater's own plan: no name, no method, no size in advance.
page.html is the page; it asks for nothing but what is served here.
"""

import json
from pathlib import Path

from filelock import FileLock, Timeout

from scoring import pages
from utils import UserError
from web import serving
from web.study.plans import Refused

PAGE = Path(__file__).resolve().parent / "page.html"
PACKAGES = ("starlette", "uvicorn")
LARGEST = 1000  # bytes of an answer


def make_app(study):
    """The web application: a page, pictures and answers for each rater of a plans.Study."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route

    template = pages.load(PAGE)
    # no-store: a repeated picture must not show itself by coming from the cache. no-referrer: the link is the key.
    allowed = ("img-src 'self'", "connect-src 'self'", "frame-ancestors 'none'")
    headers = {
        "Content-Security-Policy": pages.policy_of(PAGE, *allowed),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    def not_found():
        return PlainTextResponse("There is nothing here. Please check the link.", 404)

    def page(request):
        rater = study.find_rater(request.path_params["token"])
        if rater is None:
            return not_found()
        content = {"address": request.url.path} | study.progress(rater)
        return HTMLResponse(template.render(data=content))

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
        exception_handlers={404: lambda request, error: not_found()},
    )
    application.router.redirect_slashes = False
    return serving.with_headers(application, headers)


def position_of(request):
    """The position in a request's address; -1, where nothing is shown, if it is more than SQLite can count to."""
    position = request.path_params["position"]
    return position if position < 2**63 else -1


def serve(study, host, port, raters):
    """Serve a plans.Study to at least `raters` raters until Ctrl-C. Raises UserError.

    port: 0 takes any that is free.
    """
    try:
        lock = FileLock(study.folder / "lock").acquire(timeout=0)
    except Timeout:
        raise UserError(f"another server has {study.folder} open") from None
    with lock, serving.listening(host, port) as (listener, address):
        study.add_raters(raters)
        print(f"{len(study.pictures)} pictures in {study.folder}. One link a rater, always the same; Ctrl-C stops.")
        for rater, token, done, count in study.raters():
            print(f"rater {rater}: {address}/r/{token}  {done} of {count} done", flush=True)
        serving.run(make_app(study), listener, "stopped; every rating is saved, and the links go on where they were")
