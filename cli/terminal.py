"""What all commands share: types for argparse, and exit statuses."""

import argparse
import math
import sys
from fractions import Fraction
from pathlib import Path

from utils import UserError


def number(kind, least, most, words):
    """A `type` for argparse: int or float within [least, most]; words: what is allowed, for the error message."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"takes {words}, not '{text}'")
        return value

    return convert


def seconds(text):
    """A `type` for argparse: "90", "2.5s", "1:30" or "1:02:03.5" as a Fraction of seconds."""
    try:
        parts = [Fraction(part) for part in text.removesuffix("s").split(":")]
        value = sum(part * 60**i for i, part in enumerate(reversed(parts)))
        if len(parts) > 3 or min(parts) < 0 or "/" in text:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"takes a time, such as 90, 2.5s or 1:02:03, not '{text}'") from None
    return value


def names(text):
    """A `type` for argparse: the names in "A,B", each once."""
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not found:
        raise argparse.ArgumentTypeError("names nothing")
    return found


def run_command(main):
    """Run a script's main(). A UserError, OSError or lack of memory prints one sentence and exits with status 2.

    Names of files may hold any bytes: those that are not UTF-8 are printed as \\udc….
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader of a pipe has closed it, for example `head`
        sys.exit(141)
    except (UserError, OSError, MemoryError) as error:
        if isinstance(error, MemoryError):
            error = "there is not enough memory"
        elif isinstance(error, OSError) and error.filename:
            error = f"{error.filename}: {error.strerror}"
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
