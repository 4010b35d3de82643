"""What an evaluation has found already, kept in its folder, so that the next one only does what is new.

`.kept.jsonl` has a line for each thing found: the scores of a picture, by the hashes of its pixels and the original's,
and which pictures lie in the folder, by what they were made of. Its first line names the code and the libraries: where
these have changed, everything is found anew. A line is written as soon as its figures are there, so an evaluation that
was interrupted goes on where it stopped.
"""

import hashlib
import json
import threading
from importlib.metadata import PackageNotFoundError, version

from images import hashes
from scoring import metrics
from utils import PROJECT

FILE = ".kept.jsonl"
# What pictures and scores depend on, beside weights and images.
CODE = ("utils.py", "model.py", "evaluate.py", "layers/*", "networks/*", "inference/compiled.py", "images/pictures.py")
CODE += (
    "images/degradation.py",
    "scoring/metrics.py",
    "scoring/niqe*",
    "scoring/figures.py",
    "scoring/perceptual.py",
    "scoring/foreign.py",
    "scoring/work.py",
)
LIBRARIES = ("tensorflow", "keras", "numpy", "scipy", "scikit-image", "pillow", "torch", "lpips", "pyiqa")
LIBRARIES += ("efficientnet_lite_pytorch",)


def code_digest():
    """SHA-256 over the code and the versions of the libraries that pictures and scores depend on."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in PROJECT.glob(pattern) if path.is_file()):
        digest.update(path.read_bytes())
    for name in LIBRARIES:
        try:
            digest.update(f"{name} {version(name)}".encode())
        except PackageNotFoundError:
            continue
    return digest.hexdigest()


def digest_of(*parts):
    """A short name for what a picture was made of: `parts` are texts and numbers."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Kept:
    """The findings in a folder, {key: value}; folder None keeps nothing beyond this object. Threads may share it."""

    def __init__(self, folder=None):
        self.folder, self.lock, self.found = folder, threading.Lock(), {}
        self.path = folder and folder / FILE
        code = {"code": code_digest()}
        if not self.path:
            return
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        if lines[:1] == [json.dumps(code)]:
            for line in lines[1:]:
                try:
                    self.found.update(json.loads(line))
                except ValueError:  # the last line of an evaluation that was cut off
                    continue
            if not lines[-1].endswith("}"):
                self.append("")
        else:
            self.path.write_text(json.dumps(code) + "\n", encoding="utf-8")

    def append(self, line):
        if self.path:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")

    def add(self, key, value):
        with self.lock:
            self.found[key] = value
            self.append(json.dumps({key: value}))

    # -----------------------------------------------------------------------------------------------------------------

    def files(self, made_of, *paths):
        """What was noted of files made of `made_of`, or None if there are none, or they have changed since."""
        entry = self.found.get(self.key_of(paths))
        if entry and entry["of"] == made_of and all(path.is_file() for path in paths):
            return entry["note"] if entry["sha256"] == [hashes.file_digest(path, "sha256") for path in paths] else None
        return None

    def add_files(self, made_of, note, *paths):
        """Keep that files, just written, are made of `made_of`; note: what `files` is to return for them, not None."""
        digests = [hashes.file_digest(path, "sha256") for path in paths]
        self.add(self.key_of(paths), {"of": made_of, "sha256": digests, "note": note})

    def key_of(self, paths):
        return f"file {paths[0].relative_to(self.folder).as_posix()}"

    def compute(self, names, image, scale, pixels, sr, compute):
        """{name: value} of one picture, of which only what is not known is computed.

        image: testsets.Image; pixels: the hash of SR's pixels; sr(): SR itself; compute(names, sr): {name: value}.
        """
        key = f"scores {pixels} {image.digest} {scale}"
        known = self.found.get(key, {})
        labels = {name: name + metrics.COLUMNS[name].model if name in metrics.COLUMNS else name for name in names}
        if missing := [name for name in names if labels[name] not in known]:
            known = known | {labels[name]: value for name, value in compute(missing, sr()).items()}
            self.add(key, known)
        return {name: known[labels[name]] for name in names}

    def measure(self, names, image, scale, pixels, sr):
        """metrics.measure of one picture; arguments as in compute."""

        def compute(missing, sr):
            return metrics.measure(missing, sr, image.hr, image.lr, scale)

        return self.compute(names, image, scale, pixels, sr, compute)
