"""An upload and its results by several methods: the work behind the page of upscaling.py.

Each network does what upscale.py does with the same file.
"""

import contextlib
import re
import tempfile
import threading
import time
import zipfile
from functools import lru_cache
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

import numpy as np

import upscale
import utils
from images import pictures
from inference.tiles import Upscaler, choose_weights
from runs import store
from utils import UserError
from web.serving import KEEP

FRAMES = 50  # of films and animations at most, if they are as large as a picture may be; more if smaller
PAGES = 64  # that are open at a time; one more closes the one that has not been used for longest
HELD = 2**30  # bytes of uploads in memory before the next action closes other pages as well
STORED = 4 * 2**30  # bytes of views on disk, likewise
LONGEST = 65500  # pixels: the longest side of a JPEG, and so of pictures that are compared
CLOSER = 256  # pixels: side of the enlarged crops
FIXED = ("nearest", "bicubic")  # methods without weights


class Upload(NamedTuple):
    """A file that was uploaded, with others that were uploaded at the same time."""

    name: str
    content: bytes
    about: str  # a sentence: its size
    lr: np.ndarray | None  # uint8 RGB [h, w, 3], if it is one picture that a page can show
    others: tuple = ()  # Uploads that are made, too, and not compared
    still: bool = True  # whether it is one picture, and no animation or video


class How(NamedTuple):
    """What is asked for beside the methods; None is what upscale.py does by itself."""

    scale: int | None = None
    format: str | None = None  # a key of pictures.FORMATS
    engine: str = "auto"


def read_upload(name, content, scale, max_megapixels):
    """The Upload of a file's name and content. Raises UserError, OSError or MemoryError where upscale.py does."""
    if not Path(name).suffix:
        raise UserError("needs an ending, as .png, that says what it is")
    with on_disk(name, content) as source:
        target = source
        if kind := pictures.READ_ONLY.get(source.suffix.lower()):
            target = source.with_suffix(pictures.FORMATS[kind][0][0])
        job = upscale.measure(upscale.Job(source, target), max_megapixels)
        if job.pixels > FRAMES * max_megapixels * 1e6:
            raise UserError(
                f"has {job.frames:,} frames of {job.width}×{job.height}, more than this page takes: "
                "`python upscale.py` does it"
            )
        still = (
            job.frames == 1
            and source.suffix.lower() in pictures.SUFFIXES
            and scale * max(job.width, job.height) <= LONGEST
        )
        lr = view_of(source) if still else None
    frames = f"{job.frames} frames of " if job.frames > 1 else ""
    about = f"{name}: {frames}{job.width}×{job.height}"
    return Upload(name, content, about, lr, still=bool(still))


@contextlib.contextmanager
def on_disk(name, content):
    """The path of a temporary file of this content; its name is plain_name(name)."""
    with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
        source = Path(folder, plain_name(name))
        source.write_bytes(content)
        yield source


def plain_name(name):
    """What a browser calls a file, as a name that any system takes for a file and for nothing else."""
    stem, dot, ending = re.sub(r"[^\w .()+-]", "_", name).rpartition(".")
    plain = f"{stem.strip(' .')[-80:] or 'upload'}{dot}{ending[-10:].strip()}"
    return f"_{plain}" if PureWindowsPath(plain).is_reserved() else plain  # con.png is the console there


def view_of(path):
    """uint8 RGB [h, w, 3] of a still picture as a screen shows it: eight bits, on white, sRGB. Raises UserError."""
    picture, _ = pictures.fit(pictures.read(path, np.inf), "jpg", 1)
    return np.asarray(pictures.to_srgb(picture).pixels.convert("RGB"))


class Making:
    """The work on one Upload, and its results.

    files: paths in `folder`; views: {method: uint8 RGB [scale·h, scale·w, 3]}; said: sentences for the user; complete:
    whether nothing has ended the work.
    stopped: an event that ends the work at the next tile; report: called with the share of the work done and a name.
    scale: the networks' factor, unless `how` has another.
    """

    def __init__(self, upload, scale, max_megapixels, folder, stopped, report, how=How()):  # noqa: B008, it is constant
        self.upload, self.scale, self.how, self.max_megapixels = upload, how.scale or scale, how, max_megapixels
        self.folder, self.stopped, self.report = folder, stopped, report
        self.files, self.views, self.said, self.complete = [], {}, [], False

    @property
    def status(self):
        """What is said at the end, a sentence a line."""
        done = self.complete and (self.files or self.views)
        return "\n".join([*(["Done."] if done else []), *self.said])

    def run(self, methods, share):
        """Upscale by each method; share: the SRGAN's in a blend with its SRResNet, where there are both.

        An error is added to `said` and ends the work; earlier results stay.
        """
        lr = self.upload.lr
        networks = [method for method in methods if method not in FIXED]
        try:
            if lr is not None:
                self.views |= {name: utils.imresize(lr, self.scale, name) for name in methods if name in FIXED}
            for i, upload in enumerate((self.upload, *self.upload.others)):
                with on_disk(upload.name, upload.content) as source:
                    for j, method in enumerate(networks):
                        self.run_network(source, method, share, i * len(networks) + j, networks, upload)
        except KeyboardInterrupt:
            self.said.append("Stopped.")
        except (UserError, OSError, MemoryError) as error:
            self.said.append(f"{self.upload.name}: {upscale.reason(error)}")
        else:
            self.complete = True
        if len(self.files) > 1:
            self.files.insert(0, self.pack())
        if lr is None and self.files:
            self.said.append("This is downloaded and not compared: a film, an animation, or too long a picture.")
        elif lr is None and not self.said:
            self.said.append("Of this kind only networks make something: choose one.")

    def pack(self):
        """The path of a zip of all files; two of one name have different ones in it."""
        path = self.folder / f"srgan_x{self.scale}.zip"
        with zipfile.ZipFile(path, "w") as file:  # pictures are compressed already
            for made in self.files:
                again = sum(name.endswith(made.name) for name in file.namelist())
                file.write(made, f"{again + 1}_{made.name}" if again else made.name)
        return path

    def run_network(self, source, method, share, i, networks, upload):
        """Upscale an Upload by one of the networks, whose name is `method`, as the i-th work of all."""
        done, works = 0, len(networks) * (1 + len(self.upload.others))

        def progress(pixels):
            nonlocal done
            done += pixels
            if done > FRAMES * self.max_megapixels * 1e6:  # a film that does not say how long it is
                raise UserError("is longer than this page takes: `python upscale.py` does it")
            self.advance((i + min(done / job.pixels, 1)) / works, method)

        self.advance(i / works, method)
        upscaler, partner = network_for(method, share, self.how)
        label = f"_{Path(method).name}" if len(networks) > 1 else ""
        name = self.how.format or pictures.READ_ONLY.get(source.suffix.lower())
        ending = pictures.FORMATS[name][0][0] if name and upload.still else source.suffix
        target = self.folder / f"{source.stem}{label}_x{self.scale}{ending}"
        if target.exists():  # two uploads may have one name
            target = self.folder / str(i) / target.name
        job = upscale.measure(upscale.Job(source, target), self.max_megapixels)
        remark = upscale.work_off(job, upscaler, self.max_megapixels, progress)
        self.said += [f"{target.name}: {said}" for said in (*job.notes, remark) if said]
        if partner:
            self.said.append(f"{target.name}: {share:g} of {method}, {1 - share:g} of its SRResNet")
        self.files.append(target)
        if upload is self.upload and upload.lr is not None:
            self.views[method] = view_of(target)

    def advance(self, share, method):
        """Report the share of the work that is done. Raises KeyboardInterrupt if the user has stopped it."""
        self.report(share, method)
        if self.stopped.is_set():
            raise KeyboardInterrupt


def crops(views, x, y, zoom):
    """[(uint8 RGB, at most CLOSER a side, method)]: crops x and y percent into the pictures, enlarged by zoom."""
    side = CLOSER // zoom
    found = []
    for method, view in views.items():
        height, width, _ = view.shape
        top, left = start_of_crop(y, height, side), start_of_crop(x, width, side)
        found.append((enlarged(view[top : top + side, left : left + side], zoom), method))
    return found


def enlarged(crop, zoom):
    """A crop [h, w, 3] as [zoom·h, zoom·w, 3]: each pixel becomes a square, so that it can be seen as it is."""
    return crop.repeat(zoom, axis=0).repeat(zoom, axis=1)


def start_of_crop(percent, length, side):
    """Where a crop of `side` pixels begins whose middle is so far along `length` pixels, moved inside them."""
    middle = round(percent / 100 * (length - 1))
    return min(max(middle - side // 2, 0), max(length - side, 0))


def offered(weights):
    """(weights that the page offers, their factor); the first are chosen at the start.

    weights: names or paths that were asked for; None for upscale.py's own and all runs of its factor. Raises UserError.
    """
    if weights is None:
        first = store.default_weights()
        scale = store.describe_weights(first)[1]["config"].MODEL.scale
        found = store.find_runs()
        same = (name for name, (_, about) in found.items() if about["config"].MODEL.scale == scale)
        return [name for name in dict.fromkeys((first.name, *same)) if name not in FIXED], scale
    scales = [store.describe_weights(name)[1]["config"].MODEL.scale for name in weights]
    if len(set(scales)) > 1:
        raise UserError(f"models of one factor can be compared, not of {', '.join(map(str, sorted(set(scales))))}")
    names = [Path(name).name for name in weights]
    if same := [name for name in names if name in FIXED or names.count(name) > 1]:
        raise UserError(f"methods are told apart by their last names, and there is more than one {same[0]}")
    return list(weights), scales[0]


def partner_of(weights):
    """The SRResNet that these weights can be mixed with, or None."""
    try:
        return choose_weights(weights, 0.5, None)[1]
    except UserError:
        return None


def preview(upload, scale, methods, share, x, y, zoom, how=How()):  # noqa: B008, it is constant
    """What `crops` will give of an Upload, before all is computed; scale, share and how: as of a Making."""
    scale, side = how.scale or scale, CLOSER // zoom
    margin, outer, inner = 16, [], []  # LR pixels around what is seen
    for percent, n in zip((y, x), upload.lr.shape[:2], strict=True):
        start = start_of_crop(percent, scale * n, side)
        first, last = max(start // scale - margin, 0), min(-(-(start + side) // scale) + margin, n)
        outer.append(slice(first, last))
        inner.append(slice(start - scale * first, start - scale * first + side))
    lr, inner = np.ascontiguousarray(upload.lr[tuple(outer)]), tuple(inner)
    found = []
    for method in methods:
        if method in FIXED:
            sr = utils.imresize(lr, scale, method)
        else:
            sr = network_for(method, share, how, "preview")[0].upscale(lr)
        found.append((enlarged(sr[inner], zoom), f"{method}, preview"))
    return found


def network_for(method, share, how, use="making"):
    """(the Upscaler of some weights, the SRResNet that they are mixed with or None); share, how: as of a Making.

    use: each has an Upscaler of its own, so that a preview need not wait for a large tile.
    """
    partner = partner_of(method) if share < 1 else None
    written = tuple(store.describe_weights(name)[0].stat().st_mtime_ns for name in (method, partner) if name)
    return upscaler_of(method, share if partner else None, written, how.scale, how.engine, use), partner


@lru_cache(maxsize=8)
def upscaler_of(weights, share, written, scale, engine, use):
    """The Upscaler of some weights; share: the SRGAN's in a blend, or None; scale, engine: see How; use: network_for's.

    written: when the files were written, so that weights which training has changed are loaded again.
    """
    return Upscaler(weights, blend=share, scale=scale, engine=engine)


class Session:
    """One open page: its upload, the views of its results, and `stopped`, which ends the work on it."""

    def __init__(self):
        self.upload, self.views, self.folder = None, {}, None
        self.stopped, self.used = threading.Event(), time.monotonic()

    def replace(self, upload):
        """Take another upload, or None, instead of the one before, and stop the work on that."""
        self.stopped.set()
        self.keep({})
        self.upload, self.stopped = upload, threading.Event()

    def keep(self, views):
        """Keep {method: uint8 RGB [h, w, 3]} instead of the views before, on disk: memory has what is looked at."""
        folder, self.folder, self.views = self.folder, None, {}  # Windows deletes no file that is mapped
        if folder:
            folder.cleanup()
        if views:
            self.folder = tempfile.TemporaryDirectory(prefix="srgan-", ignore_cleanup_errors=True)
        for i, (method, view) in enumerate(views.items()):
            path = Path(self.folder.name, f"{i}.npy")
            np.save(path, view)
            self.views[method] = np.load(path, mmap_mode="r")


class Sessions(dict):
    """{Gradio's name of an open page: Session}, at most PAGES, with HELD bytes in memory and STORED on disk.

    gr.State would keep what a closed page has for an hour, and its bound on pages knows no delete_callback.
    """

    def of(self, request):
        """The Session of the page that a gr.Request comes from; others give way, those first that are idle longest."""
        used = {name: session.used for name, session in list(self.items()) if name != request.session_hash}
        others = sorted(used, key=used.get, reverse=True)
        while others and (len(others) >= PAGES or self.held() > HELD or self.stored() > STORED):
            self.drop(others.pop())
        session = self.setdefault(request.session_hash, Session())
        session.used = time.monotonic()
        return session

    def held(self):
        """Bytes of uploads in memory, as files and as pixels."""
        uploads = [session.upload for session in list(self.values()) if session.upload]
        uploads = [each for upload in uploads for each in (upload, *upload.others)]
        return sum(len(upload.content) + (0 if upload.lr is None else upload.lr.nbytes) for upload in uploads)

    def stored(self):
        """Bytes of views on disk."""
        return sum(view.nbytes for session in list(self.values()) for view in list(session.views.values()))

    def drop_idle(self):
        """Close the pages that have not been used for KEEP seconds."""
        now = time.monotonic()
        for name in [name for name, session in list(self.items()) if now - session.used > KEEP]:
            self.drop(name)

    def drop(self, name):
        if session := self.pop(name, None):
            session.replace(None)

    def stop_all(self):
        for session in list(self.values()):
            session.stopped.set()
