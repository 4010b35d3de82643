"""What README and docs promise is there: files, headings, flags, functions."""

import ast
import re

import pytest
from conftest import PROJECT

import reproduce

PAGES = sorted(
    [
        *PROJECT.glob("*.md"),
        *(path for room in ("docs", "checkpoint", "vgg19") for path in (PROJECT / room).glob("*.md")),
    ]
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
# The file that reads a command's flags, where it is not the command's own.
PARSERS = {"train.py": "training/plan.py"}
# The command whose manual a page is: its flags stand there, and all of them.
MANUALS = {
    "upscaling": "upscale.py",
    "evaluation": "evaluate.py",
    "export": "export.py",
    "speed": "benchmark.py",
    "data": "data.py",
    "training": "train.py",
}
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ENDINGS = "py md json jsonl txt csv html png npz npy h5 hlo onnx tflite".split()  # `name.ending` is a file
FLAG = r"(?<![\w-])--[a-z][a-z-]*"


def prose(text):
    """A page without its blocks of code, in which `#` is no heading and brackets are no link."""
    return FENCE.sub("", text)


def anchors_of(text):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(text, page):
    """Targets of a page's links, without those to the web, that lead to no file or no heading."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or anchor and anchor not in anchors_of(place.read_text(encoding="utf-8")):
            yield target


@each_page
def test_every_link_leads_somewhere(page):
    assert not list(broken_links(page.read_text(encoding="utf-8"), page))


def test_broken_links_are_found():
    text = "[a](docs/nowhere.md) [b](CONTRIBUTING.md#the-rooms) [c](CONTRIBUTING.md#the-cellar)\n```\n[d](in_code)\n```"
    assert list(broken_links(text, PROJECT / "README.md")) == ["docs/nowhere.md", "CONTRIBUTING.md#the-cellar"]
    assert anchors_of("# One, two\n```\n# a comment\n```\n") == {"one-two"}


def flags_of(script):
    """The flags that a command has: first arguments of add() and add_argument(), or keys of demo.py's tables of flags.

    A string elsewhere in the file, as in a message or for another command's parser, is no flag.
    """
    found = {"--help"}
    for node in ast.walk(ast.parse((PROJECT / PARSERS.get(script, script)).read_text())):
        names = node.keys if isinstance(node, ast.Dict) else []
        if isinstance(node, ast.Call) and (
            getattr(node.func, "attr", None) == "add_argument" or getattr(node.func, "id", None) == "add"
        ):
            names = node.args
            if any(ast.unparse(keyword.value).endswith("BooleanOptionalAction") for keyword in node.keywords):
                names = [*names, *(ast.Constant(f"--no-{name.value[2:]}") for name in node.args)]
        found |= {name.value for name in names if isinstance(name, ast.Constant) and isinstance(name.value, str)}
    return {name for name in found if name.startswith("--")}


def commands_in(text):
    """(file, flags) of every `python NAME.py …` and `python -m room.name …` in code."""
    for line in re.sub(r"\\\n", " ", text).splitlines():
        for script, module, rest in re.findall(r"python (?:(\w+\.py)|-m (\w+\.\w+))([^`#\n|&]*)", line):
            if script == "reproduce.py" and (paper := next(iter(rest.split()), "").strip("`")) in reproduce.PAPERS:
                module, script = reproduce.PAPERS[paper], ""
            yield script or module.replace(".", "/") + ".py", re.findall(FLAG, rest)


@each_page
def test_every_flag_of_a_command_is_a_flag_of_that_command(page):
    for script, flags in commands_in(page.read_text(encoding="utf-8")):
        assert (PROJECT / script).is_file(), f"there is no {script}"
        assert set(flags) <= flags_of(script), f"{script} {set(flags) - flags_of(script)}"


def test_commands_and_flags_are_found():
    found = list(commands_in("`python train.py --mode=srgan --steps 2`\npython -m scoring.explain x --csv a # --b"))
    assert found == [("train.py", ["--mode", "--steps"]), ("scoring/explain.py", ["--csv"])]
    assert list(commands_in("python reproduce.py pruning --lose 1")) == [("papers/pruning.py", ["--lose"])]
    assert {"--mode", "--no-xla", "--collect"} <= flags_of("train.py")
    assert {"--mos", "--port"} <= flags_of("demo.py")
    assert {"--xla", "--no-xla"} <= flags_of("benchmark.py")
    assert not {"--blend", "--scale", "--mos", "--xla"} & flags_of("train.py")  # other commands'


@pytest.mark.parametrize("name", MANUALS)
def test_a_manual_has_every_flag_of_its_command(name):
    text = (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert flags_of(MANUALS[name]) - {"--help"} <= set(re.findall(FLAG, text))


@pytest.mark.parametrize("name", MANUALS)
def test_tables_of_a_manual_name_no_other_flags(name):
    text = (PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`-.*?) \|", text, re.MULTILINE)
    assert cells and set(re.findall(FLAG, " ".join(cells))) <= flags_of(MANUALS[name])


def test_the_pages_manuals_have_every_flag_of_demo():
    text = "".join((PROJECT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("pages", "study"))
    assert flags_of("demo.py") - {"--help"} <= set(re.findall(FLAG, text))


def missing_functions(text):
    """Names as `file.name` or `room/file.name` of which there is no file, or nothing of that name in it."""
    for path, name in re.findall(r"`([a-z_/0-9]+)\.([A-Za-z_0-9]+)`", text):
        if name in ENDINGS:
            continue
        source = PROJECT / f"{path}.py"
        if not source.is_file() or name not in names_in(source):
            yield f"{path}.{name}"


def names_in(source):
    """The functions, classes and constants of a file."""
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


@each_page
def test_pages_name_functions_that_exist(page):
    assert not list(missing_functions(page.read_text(encoding="utf-8")))


def test_missing_functions_are_found():
    assert list(missing_functions("`train.no_losses` `launch.read_new` `model.vgg` `config.SETTINGS`")) == [
        "train.no_losses",
        "launch.read_new",
    ]


def test_readme_is_short():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_readme_has_one_command_to_install_and_test():
    """.ci/run takes the first line that ends so, and runs it on a fresh clone."""
    lines = re.findall(r"^.*python -m pytest$", (PROJECT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert lines[0].startswith("python3 -m venv .venv && .venv/bin/pip install -r requirements-dev.txt && ")
