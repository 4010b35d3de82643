"""The page of demo.py that upscales: drop a picture, compare models, look closer, download.

It does with a file what upscale.py does. An upload is in memory for as long as its page is open, and on disk only while
it is worked on. What is shown and can be downloaded is on disk for KEEP seconds, or until the last page is closed.
"""

import contextlib
import shutil
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

import data
import pictures
import runs
import serving
import upscale
import utils
from tiles import Upscaler, choose_weights
from utils import LazyModule, UserError

gr = LazyModule("gradio")

KEEP = 1800  # seconds
LARGEST_FILE = "100mb"
CLOSER = 256  # pixels: side of the crops to look closer at
ZOOM = 2  # of the crops at first
FIXED = ("nearest", "bicubic")  # methods without weights
EXAMPLE_SIDE = 160  # pixels: the longer side of an example
CSS = """
#closer img { image-rendering: pixelated; }
#where img { cursor: crosshair; }
#examples .grid-wrap, #closer .grid-wrap { min-height: 0; max-height: none; height: auto; overflow: visible; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
"""
ABOUT = """# srgan
Drop a picture, and get it ×{scale}. Here it may have {limit:g} megapixels; `python upscale.py` takes larger ones.
Nothing leaves the machine that serves this page. Uploads and results are deleted when it is closed, or after half an
hour."""


class Session:
    """What one open page has: its upload, and for a still picture what it and the results look like."""

    def __init__(self):
        self.name, self.content = "", b""
        self.lr, self.views = None, {}  # uint8 RGB [h, w, 3]; {method: uint8 RGB [scale·h, scale·w, 3]}
        self.stopped = threading.Event()

    def take(self, name, content, scale, max_megapixels):
        """Take an upload in the place of the one before; returns what it is in words. Raises UserError, OSError."""
        self.__init__()
        with self.on_disk(name, content) as source:
            job = upscale.measure(upscale.Job(source, source), max_megapixels)
            self.lr = view_of(source) if is_still(job) else None
        self.name, self.content = name, content
        frames = f"{job.frames} frames of " if job.frames > 1 else ""
        return f"{name}: {frames}{job.width}×{job.height}, to be {scale * job.width}×{scale * job.height}"

    @staticmethod
    @contextlib.contextmanager
    def on_disk(name, content):
        """The path of a file of this name and content for as long as it is needed."""
        with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
            source = Path(folder, name)
            source.write_bytes(content)
            yield source

    def make(self, methods, share, max_megapixels, folder, report):
        """Upscale the upload by each method into a folder: ([files], what is to be said of them in words).

        share: the SRGAN's in a blend with its SRResNet, where there are both; report: called with the share of the
        work done and the method at work. Raises UserError or OSError; KeyboardInterrupt if the page has said stop.
        """
        self.stopped.clear()
        self.views, files, said = {}, [], []
        networks = [method for method in methods if method not in FIXED]
        with self.on_disk(self.name, self.content) as source:
            for i, method in enumerate(networks):
                report(i / len(networks), method)
                upscaler = upscaler_of(method, share if share < 1 and can_blend(method) else None)
                label = f"_{Path(method).name}" if len(networks) > 1 else ""
                target = folder / f"{source.stem}{label}_x{upscaler.scale}{source.suffix}"
                job = upscale.measure(upscale.Job(source, target), max_megapixels)
                remark = upscale.work_off(job, upscaler, max_megapixels, self.counter(i, len(networks), job, report))
                said += [f"{target.name}: {remark}"] if remark else []
                files.append(target)
                if self.lr is not None:
                    self.views[method] = view_of(target)
        if self.lr is not None:
            scale = next((len(view) // len(self.lr) for view in self.views.values()), 4)
            fixed = {"nearest": utils.imresize(self.lr, scale, "nearest"), "bicubic": utils.imresize(self.lr, scale)}
            self.views = {name: fixed[name] for name in methods if name in FIXED} | self.views
        else:
            said.append("Videos and animations are not compared here, only made.")
        return files, said

    def counter(self, i, count, job, report):
        """The progress function of the i-th of `count` methods; it counts LR pixels."""
        done = 0

        def progress(pixels):
            nonlocal done
            done += pixels
            report((i + min(done / job.pixels, 1)) / count, job.target.stem)
            if self.stopped.is_set():
                raise KeyboardInterrupt

        return progress

    def crops(self, x, y, zoom):
        """[(uint8 RGB [CLOSER, CLOSER, 3], method)]: what lies x and y percent into the picture, enlarged by zoom."""
        side = CLOSER // zoom
        found = []
        for method, view in self.views.items():
            corner = [round(share / 100 * (n - 1)) - side // 2 for share, n in zip((y, x), view.shape, strict=False)]
            top, left = (min(max(a, 0), max(n - side, 0)) for a, n in zip(corner, view.shape, strict=False))
            crop = view[top : top + side, left : left + side]
            found.append((crop.repeat(zoom, axis=0).repeat(zoom, axis=1), method))
        return found


def is_still(job):
    """Whether a measured upscale.Job is of one picture that a page can show."""
    return job.frames == 1 and bool(pictures.format_of(job.source))


def view_of(path):
    """uint8 RGB [h, w, 3] of a still picture as a screen shows it: eight bits, on white. Raises UserError."""
    picture, _ = pictures.fit(pictures.read(path, np.inf), "jpg", 1)
    if picture.kind == "CMYK":
        picture = pictures.to_rgb(picture)
    return np.asarray(picture.pixels.convert("RGB"))


def offered(weights):
    """(weights that the page offers, their factor); the first are chosen at the start.

    weights: names or paths that were asked for; None for upscale.py's own and all runs of its factor. Raises UserError.
    """
    if weights is None:
        first = runs.default_weights()
        scale = runs.describe_weights(first)[1]["config"].MODEL.scale
        found = runs.find_runs()
        same = (name for name, (_, about) in found.items() if about["config"].MODEL.scale == scale)
        return list(dict.fromkeys((first.name, *same))), scale
    scales = [runs.describe_weights(name)[1]["config"].MODEL.scale for name in weights]
    if len(set(scales)) > 1:
        raise UserError(f"models of one factor can be compared, not of {', '.join(map(str, sorted(set(scales))))}")
    return list(weights), scales[0]


def can_blend(weights):
    """Whether there is an SRResNet to mix these weights with."""
    try:
        return choose_weights(weights, 0.5, None)[1] is not None
    except UserError:
        return False


@lru_cache(maxsize=4)
def upscaler_of(weights, share):
    """The Upscaler of some weights, loaded once; share: of an SRGAN in a blend, or None."""
    return Upscaler(weights, blend=share)


def make_examples(folder):
    """[(path, caption)]: photographs that come with the libraries, made small by MATLAB's bicubic. Free of rights."""
    examples = []
    for path in data.package_files(data.SAMPLE_TEST):
        hr = utils.read_image(path)
        lr = utils.imresize(hr, EXAMPLE_SIDE / max(hr.shape))
        utils.write_image(folder / f"{path.stem}.png", lr)
        examples.append((folder / f"{path.stem}.png", path.stem))
    return examples


def build(weights, scale, folder, max_megapixels):
    """The page, a gradio.Blocks; weights, scale: as offered() gives them; folder: that of serving.gradio_folder."""
    sessions, examples = {}, make_examples(folder)

    def session_of(request):
        return sessions.setdefault(request.session_hash, Session())

    def forget(request: gr.Request):
        if session := sessions.pop(request.session_hash, None):
            session.stopped.set()
        if not sessions:
            for path in set(folder.rglob("*")) - lasting:
                if path.is_file():
                    path.unlink(missing_ok=True)

    def take(request, name, content):
        """What an upload or an example changes: [about, the button, the picture to click into]."""
        session = session_of(request)
        session.stopped.set()  # what is still being made of the upload before is of no use
        try:
            about = session.take(name, content, scale, max_megapixels)
        except (UserError, OSError, MemoryError) as error:
            return f"{name}: {upscale.reason(error)}", gr.Button(interactive=False), None
        return about, gr.Button(interactive=True), session.lr

    def upload(path, request: gr.Request):
        path = Path(path)
        try:
            content = path.read_bytes()
            shutil.rmtree(path.parent)
        except OSError:  # someone else has uploaded just the same, and it was forgotten
            return None, "the upload was lost: drop it once more", gr.Button(interactive=False), None
        return None, *take(request, path.name, content)

    def choose(event: gr.SelectData, request: gr.Request):
        path = examples[event.index][0]
        return take(request, path.name, path.read_bytes())

    def make(methods, share, request: gr.Request, progress=gr.Progress()):  # noqa: B008, as Gradio asks for it
        session = session_of(request)
        if not session.name:  # the upload was refused, which has been said
            yield None, gr.File(None, visible=False), gr.Dropdown([]), gr.Dropdown([]), None, []
            return
        said, files = ["Choose at least one method."], []
        with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
            if methods:
                try:
                    files, said = session.make(methods, share, max_megapixels, Path(folder), progress)
                    said = said or ["Done."]
                except KeyboardInterrupt:
                    said = ["Stopped."]
                except (UserError, OSError, MemoryError) as error:
                    said = [f"{session.name}: {upscale.reason(error)}"]
            names = list(session.views)
            left, right = (names[0], names[-1]) if names else (None, None)
            yield (
                "\n".join(said),
                gr.File([str(file) for file in files] or None, visible=bool(files)),
                gr.Dropdown(names, value=left),
                gr.Dropdown(names, value=right),
                compare(session, left, right, folder),
                session.crops(50, 50, ZOOM),
            )  # Gradio has copied the files when it comes back here

    def compare(session, left, right, folder):
        """Two files for the slider: JPEGs of the highest quality, which a browser shows sooner than a PNG."""
        if not {left, right} <= set(session.views):
            return None
        paths = [Path(folder, f"{side}.jpg") for side in ("left", "right")]
        for path, name in zip(paths, (left, right), strict=True):
            Image.fromarray(session.views[name]).save(path, quality=95, subsampling=0)
        return tuple(map(str, paths))

    def halt(request: gr.Request):
        session_of(request).stopped.set()

    def slide(left, right, request: gr.Request):
        with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
            yield compare(session_of(request), left, right, folder)

    def closer(x, y, zoom, request: gr.Request):
        return session_of(request).crops(x, y, zoom)

    def point(event: gr.SelectData, request: gr.Request):
        height, width = session_of(request).lr.shape[:2]
        return 100 * event.index[0] / width, 100 * event.index[1] / height

    with gr.Blocks(title="srgan", analytics_enabled=False, delete_cache=(60, KEEP)) as page:
        gr.Markdown(ABOUT.format(scale=scale, limit=max_megapixels))
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                drop = gr.File(label="Picture, animation or video", height=150, elem_id="drop")
                shown = gr.Gallery(
                    examples,
                    label="Or one of these",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    buttons=[],
                    elem_id="examples",
                )
                methods = gr.CheckboxGroup(
                    [*FIXED, *weights], value=["bicubic", weights[0]], label="Methods, side by side", elem_id="methods"
                )
                share = gr.Slider(
                    *(0, 1, 1, 0.05),
                    label="From SRResNet (0, smooth) to SRGAN (1, textured)",
                    visible=any(map(can_blend, weights)),
                    elem_id="share",
                )
                with gr.Row():
                    go = gr.Button("Upscale again", interactive=False, elem_id="go")
                    stop = gr.Button("Stop", elem_id="stop")
                about = gr.Textbox("nothing so far", label="Upload", interactive=False, elem_id="about")
                status = gr.Textbox(label="Result", lines=2, interactive=False, elem_id="status")
                files = gr.File(label="Download", visible=False, file_count="multiple", elem_id="files")
            with gr.Column(scale=2, min_width=300):
                with gr.Row():
                    left = gr.Dropdown([], label="Left of the slider", interactive=True, elem_id="left")
                    right = gr.Dropdown([], label="Right of it", interactive=True, elem_id="right")
                slider = gr.ImageSlider(
                    label="Before and after", type="filepath", interactive=False, max_height=700, elem_id="slider"
                )
                crops = gr.Gallery(
                    label="Closer",
                    columns=3,
                    height="auto",
                    format="png",
                    allow_preview=False,
                    buttons=[],
                    elem_id="closer",
                )
                with gr.Row():
                    where = gr.Image(
                        label="Click where to look closer",
                        interactive=False,
                        format="png",
                        height=230,
                        buttons=[],
                        elem_id="where",
                    )
                    with gr.Column(min_width=200):
                        x = gr.Slider(0, 100, 50, step=1, label="Across, %", elem_id="x")
                        y = gr.Slider(0, 100, 50, step=1, label="Down, %", elem_id="y")
                        zoom = gr.Slider(1, 8, ZOOM, step=1, label="Zoom", elem_id="zoom")
        taken = [about, go, where]
        making = {
            "fn": make,
            "inputs": [methods, share],
            "outputs": [status, files, left, right, slider, crops],
            "show_progress_on": [status],
        }
        drop.upload(upload, drop, [drop, *taken]).then(**making)
        shown.select(choose, None, taken).then(**making)
        go.click(**making)
        stop.click(halt, None, None)
        gr.on([left.input, right.input], slide, [left, right], slider)
        gr.on([x.change, y.change, zoom.change], closer, [x, y, zoom], crops, show_progress="hidden")
        where.select(point, None, [x, y])
        page.unload(forget)
    lasting = set(folder.rglob("*"))  # Gradio has its copies of the examples now
    return page


def serve(weights, max_megapixels, host, port):
    """Serve the page until Ctrl-C. Raises UserError.

    weights: names or paths to offer, or None; max_megapixels: larger uploads are refused; port: 0 takes any free one.
    """
    weights, scale = offered(weights)
    with serving.gradio_folder() as folder, serving.listening(host, port) as (listener, address):
        page = build(weights, scale, folder, max_megapixels)
        print(f"weights: {', '.join(weights)}. Open {address} in a browser; Ctrl-C stops.", flush=True)
        goodbye = "stopped; what was uploaded and made is deleted"
        serving.run_gradio(page, listener, host, goodbye, css=CSS, max_file_size=LARGEST_FILE)
