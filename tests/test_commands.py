"""Each command as a process of its own: it starts, and a mistake is answered before TensorFlow is loaded."""

import ast
import os

import pytest
from conftest import PROJECT, ROOMS, assert_refused

SOURCES = [path for place in (".", *ROOMS) for path in sorted((PROJECT / place).glob("*.py"))]
MODULES = [path.relative_to(PROJECT) for path in SOURCES if "__main__" in path.read_text()]
COMMANDS = [(path.name,) if len(path.parts) == 1 else ("-m", ".".join(path.with_suffix("").parts)) for path in MODULES]
TAKE_NOTHING = {("model.py",)}  # and so make no mistakes


def test_commands_are_found():
    assert {("train.py",), ("-m", "scoring.niqe"), *TAKE_NOTHING} <= set(COMMANDS)
    for path in MODULES:  # each ends as cli.terminal has it
        assert ast.unparse(ast.parse((PROJECT / path).read_text()).body[-1]).endswith("terminal.run_command(main)"), (
            path
        )


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in TAKE_NOTHING], ids=lambda command: command[-1])
def test_a_mistake_is_answered_before_tensorflow(run, command):
    result = run(*command, "--no-such-flag", env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    imported = {line.rsplit("|", 1)[1].strip() for line in result.stderr.splitlines() if line.startswith("import time")}
    assert "argparse" in imported and not imported & {"tensorflow", "keras", "skimage", "matplotlib", "gradio"}
    assert_refused(result)
