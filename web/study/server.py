"""The rating study of plans.py in a browser: one link a rater, one picture at a time, 1 to 5 by key or click.

All that the browser knows of a picture is its position in the rater's own plan: no name, no method, no size in advance.
page.html is the page, a Jinja2 template; it asks for nothing but what is served here.
"""

import json
from pathlib import Path

from filelock import FileLock, Timeout

from scoring import pages
from utils import LazyModule, UserError
from web import serving
from web.study.plans import Refused

applications = LazyModule("starlette.applications")
concurrency = LazyModule("starlette.concurrency")
responses = LazyModule("starlette.responses")
routing = LazyModule("starlette.routing")

PAGE = Path(__file__).resolve().parent / "page.html"
PACKAGES = ("starlette", "uvicorn")
LARGEST = 1000  # bytes of an answer


def make_app(study):
    """The web application: a page, pictures and answers for each rater of a plans.Study."""
    raters = Raters(study)
    application = applications.Starlette(
        routes=[
            routing.Route("/r/{token}", raters.page),
            routing.Route("/r/{token}/{position:int}", raters.picture),
            routing.Route("/r/{token}/{position:int}", raters.answer, methods=["POST"]),
            routing.Route("/favicon.ico", lambda request: responses.Response(status_code=204)),
        ],
        exception_handlers={404: lambda request, error: not_found()},
    )
    application.router.redirect_slashes = False
    allowed = ("img-src 'self'", "connect-src 'self'", "frame-ancestors 'none'")
    # no-store: a repeated picture must not show itself by coming from the cache. no-referrer: the link is the key.
    headers = {
        "Content-Security-Policy": pages.policy_of(PAGE, *allowed),
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return serving.with_headers(application, headers)


class Raters:
    """What is answered to the browser of a rater, who is known by the token in the link."""

    def __init__(self, study):
        self.study, self.template = study, pages.load(PAGE)

    def page(self, request):
        rater = self.find(request)
        if rater is None:
            return not_found()
        data = {"address": request.url.path} | self.study.progress(rater)
        return responses.HTMLResponse(self.template.render(data=data))

    def picture(self, request):
        rater = self.find(request)
        content = None if rater is None else self.study.read_picture(rater, position_of(request))
        return not_found() if content is None else responses.Response(content, media_type="image/png")

    async def answer(self, request):
        if serving.body_length(request.scope) > LARGEST:
            return refusal("this is too long for an answer")
        body = await request.body()
        return await concurrency.run_in_threadpool(self.take, request, body)

    def take(self, request, body):
        """Store an answer: body, JSON with rating, milliseconds and answer."""
        rater = self.find(request)
        if rater is None:
            return not_found()
        try:
            given = json.loads(body)
            rating, milliseconds, answer = (given[key] for key in ("rating", "milliseconds", "answer"))
            self.study.rate(rater, position_of(request), rating, milliseconds, answer)
        except Refused as error:
            return refusal(str(error))
        except (ValueError, TypeError, KeyError, RecursionError):
            return refusal("this is not an answer")
        return responses.JSONResponse({"saved": True})

    def find(self, request):
        """The number of the rater with the token in a request's address, or None."""
        return self.study.find_rater(request.path_params["token"])


def not_found():
    return responses.PlainTextResponse("There is nothing here. Please check the link.", 404)


def refusal(reason):
    return responses.JSONResponse({"error": reason}, 400)


def position_of(request):
    """The position in a request's address; -1, where there is no picture, if SQLite has no number as large."""
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
