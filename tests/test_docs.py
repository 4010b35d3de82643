"""What README and docs promise is there: files, headings, flags."""

import re

import pytest
from conftest import PROJECT

PAGES = sorted(
    [
        *PROJECT.glob("*.md"),
        *(path for room in ("docs", "checkpoint", "vgg19") for path in (PROJECT / room).glob("*.md")),
    ]
)
# Whose add_argument calls a command has, beside its own file's.
PARSERS = {"train.py": ("training/plan.py",), "demo.py": ("web/serving.py",)}


def anchors_of(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors_of(place), target


def commands_in(text):
    """(file, flags) of every `python NAME.py …` and `python -m room.name …` in code."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    for line in lines:
        for script, module, rest in re.findall(r"python (?:(\w+\.py)|-m (\w+\.\w+))([^`#\n|&]*)", line):
            name = script or module.replace(".", "/") + ".py"
            if (PROJECT / name).is_file():
                yield name, re.findall(r"(?<=\s)(--[a-z][a-z-]*)", rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_every_flag_of_a_command_is_a_flag_of_that_command(page):
    for name, flags in commands_in(page.read_text(encoding="utf-8")):
        sources = "".join((PROJECT / source).read_text() for source in (name, *PARSERS.get(name, ())))
        for flag in set(flags) - {"--help"}:
            assert f'"{flag}"' in sources, f"{name} {flag}"


def test_commands_are_found():
    """The search above does see flags, of scripts and of modules."""
    found = list(commands_in("`python train.py --mode=srgan --steps 2`\npython -m scoring.explain x --csv a"))
    assert found == [("train.py", ["--mode", "--steps"]), ("scoring/explain.py", ["--csv"])]


def test_readme_is_short():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
