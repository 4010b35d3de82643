"""Web pages from Jinja2 templates: what a template inserts is text, and no page asks for anything from elsewhere."""

import base64
import hashlib
import re

from utils import LazyModule

jinja2 = LazyModule("jinja2")


def load(path):
    """The jinja2.Template of an HTML file. Whatever it inserts is escaped; a name that it is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=True,
        finalize=printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)


def printable(value):
    """Text without control characters, which HTML and XML cannot hold; everything else as it is.

    HTML that a template made itself, which has __html__, may have line ends.
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in value)


def policy_of(path, *allowed):
    """The content security policy of a template: its own script and style, and what is `allowed`.

    The browser then refuses all else, such as a script that came in by the name of a file.
    """
    page = path.read_text(encoding="utf-8")
    own = (f"{element}-src 'sha256-{digest_of(page, element)}'" for element in ("script", "style"))
    return "; ".join(["default-src 'none'", *allowed, *own, "base-uri 'none'", "form-action 'none'"])


def digest_of(page, element):
    """The SHA-256 by which a content security policy knows an inline script or style, in Base64."""
    text = re.search(f"<{element}>(.*?)</{element}>", page, re.DOTALL)[1]
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
