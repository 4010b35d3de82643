"""The page of demo.py that upscales: drop a picture, compare models, look closer, download.

It does with a file what upscale.py does. An upload is in memory for as long as its page is open, and on disk only while
it is worked on. What is shown and can be downloaded is on disk for KEEP seconds, or until the last page is closed.
"""

import contextlib
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

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
FRAMES = 50  # of videos and animations at most, if they are as large as a picture may be; more if smaller
LONGEST = 65500  # pixels: side of a JPEG, and so of what is compared
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
Drop a picture, and get it ×{scale}. Here it may have {limit:g} megapixels and 100 MB; `python upscale.py` takes more.
Nothing leaves the machine that serves this page. Uploads and results are deleted when the last page is closed, or after
half an hour."""


class Upload(NamedTuple):
    """A file that came in, and what it looks like if it is one picture that a page can show, else None."""

    name: str
    content: bytes
    about: str  # what it is and becomes, in words
    lr: np.ndarray | None  # uint8 RGB [h, w, 3]


def read_upload(name, content, scale, max_megapixels):
    """The Upload of a file's name and content. Raises UserError, OSError or MemoryError where upscale.py does."""
    if not Path(name).suffix:
        raise UserError("needs an ending, as .png, that says what it is")
    with on_disk(name, content) as source:
        job = upscale.measure(upscale.Job(source, source), max_megapixels)
        if job.pixels > FRAMES * max_megapixels * 1e6:
            raise UserError(
                f"has {job.frames:,} frames of {job.width}×{job.height}, more than this page takes: "
                "`python upscale.py` does it"
            )
        still = job.frames == 1 and pictures.format_of(source) and scale * max(job.width, job.height) <= LONGEST
        lr = view_of(source) if still else None
    frames = f"{job.frames} frames of " if job.frames > 1 else ""
    about = f"{name}: {frames}{job.width}×{job.height}, to be {scale * job.width}×{scale * job.height}"
    return Upload(name, content, about, lr)


@contextlib.contextmanager
def on_disk(name, content):
    """The path of a file of this name and content for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
        source = Path(folder, name)
        source.write_bytes(content)
        yield source


def view_of(path):
    """uint8 RGB [h, w, 3] of a still picture as a screen shows it: eight bits, on white. Raises UserError."""
    picture, _ = pictures.fit(pictures.read(path, np.inf), "jpg", 1)
    if picture.kind == "CMYK":
        picture = pictures.to_rgb(picture)
    return np.asarray(picture.pixels.convert("RGB"))


class Making:
    """What is being made of an Upload: files in `folder`, and views, {method: uint8 RGB [scale·h, scale·w, 3]}.

    stopped: an event that ends the work at the next tile; report: called with the share of the work done and a name.
    """

    def __init__(self, upload, scale, max_megapixels, folder, stopped, report):
        self.upload, self.scale, self.max_megapixels = upload, scale, max_megapixels
        self.folder, self.stopped, self.report = folder, stopped, report
        self.files, self.views, self.said = [], {}, []

    def run(self, methods, share):
        """Upscale by each method; share: the SRGAN's in a blend with its SRResNet, where there are both.

        What goes wrong is said in `said`; what was done before is kept. Raises nothing of upscale.py's.
        """
        lr = self.upload.lr
        if lr is not None:
            fixed = {name: utils.imresize(lr, self.scale, name) for name in methods if name in FIXED}
            self.views |= fixed
        networks = [method for method in methods if method not in FIXED]
        try:
            with on_disk(self.upload.name, self.upload.content) as source:
                for i, method in enumerate(networks):
                    self.run_network(source, method, share, i, networks)
        except KeyboardInterrupt:
            self.said.append("Stopped.")
        except (UserError, OSError, MemoryError) as error:
            self.said.append(f"{self.upload.name}: {upscale.reason(error)}")
        if lr is None and self.files:
            self.said.append("This is downloaded and not compared: a video, an animation, or too long a picture.")
        elif lr is None and not self.said:
            self.said.append("Of this kind only networks make something: choose one.")

    def run_network(self, source, method, share, i, networks):
        """Upscale by the i-th of the networks, whose name is `method`."""
        done = 0

        def progress(pixels):
            nonlocal done
            done += pixels
            self.report((i + min(done / job.pixels, 1)) / len(networks), method)
            if self.stopped.is_set():
                raise KeyboardInterrupt

        self.report(i / len(networks), method)
        if self.stopped.is_set():
            raise KeyboardInterrupt
        mixed = share < 1 and can_blend(method)
        upscaler = upscaler_of(method, share if mixed else None, runs.describe_weights(method)[0].stat().st_mtime_ns)
        label = f"_{Path(method).name}" if len(networks) > 1 else ""
        target = self.folder / f"{source.stem}{label}_x{self.scale}{source.suffix}"
        job = upscale.measure(upscale.Job(source, target), self.max_megapixels)
        if remark := upscale.work_off(job, upscaler, self.max_megapixels, progress):
            self.said.append(f"{target.name}: {remark}")
        if mixed:
            self.said.append(f"{target.name}: {share:g} of {method}, {1 - share:g} of its SRResNet")
        self.files.append(target)
        if self.upload.lr is not None:
            self.views[method] = view_of(target)


def crops(views, x, y, zoom):
    """[(uint8 RGB [CLOSER, CLOSER, 3], method)]: what lies x and y percent into the pictures, enlarged by zoom."""
    side = CLOSER // zoom
    found = []
    for method, view in views.items():
        corner = [round(share / 100 * (n - 1)) - side // 2 for share, n in zip((y, x), view.shape, strict=False)]
        top, left = (min(max(a, 0), max(n - side, 0)) for a, n in zip(corner, view.shape, strict=False))
        crop = view[top : top + side, left : left + side]
        found.append((crop.repeat(zoom, axis=0).repeat(zoom, axis=1), method))
    return found


def offered(weights):
    """(weights that the page offers, their factor); the first are chosen at the start.

    weights: names or paths that were asked for; None for upscale.py's own and all runs of its factor. Raises UserError.
    """
    if weights is None:
        first = runs.default_weights()
        scale = runs.describe_weights(first)[1]["config"].MODEL.scale
        found = runs.find_runs()
        same = (name for name, (_, about) in found.items() if about["config"].MODEL.scale == scale)
        return [name for name in dict.fromkeys((first.name, *same)) if name not in FIXED], scale
    scales = [runs.describe_weights(name)[1]["config"].MODEL.scale for name in weights]
    if len(set(scales)) > 1:
        raise UserError(f"models of one factor can be compared, not of {', '.join(map(str, sorted(set(scales))))}")
    names = [Path(name).name for name in weights]
    if same := [name for name in names if name in FIXED or names.count(name) > 1]:
        raise UserError(f"methods are told apart by their last names, and there is more than one {same[0]}")
    return list(weights), scales[0]


def can_blend(weights):
    """Whether there is an SRResNet to mix these weights with."""
    try:
        return choose_weights(weights, 0.5, None)[1] is not None
    except UserError:
        return False


@lru_cache(maxsize=4)
def upscaler_of(weights, share, time_written):
    """The Upscaler of some weights, loaded once for each time they are written; share: of an SRGAN in a blend."""
    return Upscaler(weights, blend=share)


def make_examples(folder):
    """[(path, caption)]: photographs that come with the libraries, made small by MATLAB's bicubic."""
    examples = []
    for path in data.package_files(data.SAMPLE_TEST):
        hr = utils.read_image(path)
        utils.write_image(folder / f"{path.stem}.png", utils.imresize(hr, EXAMPLE_SIDE / max(hr.shape)))
        examples.append((folder / f"{path.stem}.png", path.stem))
    return examples


class Session:
    """What one open page has: its upload, the views of what was made of it, and the end of what is being made."""

    def __init__(self):
        self.upload, self.views = None, {}
        self.stopped, self.used = threading.Event(), time.monotonic()

    def replace(self, upload):
        """Put another upload, or none, in the place of the one before; what is being made of that ends."""
        self.stopped.set()
        self.upload, self.views, self.stopped = upload, {}, threading.Event()


class Sessions(dict):
    """{Gradio's name of an open page: Session}. Those that nobody has used for KEEP seconds go."""

    def of(self, request):
        """The Session of the page that a gr.Request comes from."""
        now = time.monotonic()
        for name in [name for name, session in self.items() if now - session.used > KEEP]:
            self.drop(name)
        session = self.setdefault(request.session_hash, Session())
        session.used = now
        return session

    def drop(self, name):
        if session := self.pop(name, None):
            session.replace(None)

    def stop_all(self):
        for session in list(self.values()):
            session.stopped.set()


def build(weights, scale, folder, max_megapixels, sessions):
    """The page, a gradio.Blocks.

    weights, scale: as offered() gives them; folder: that of serving.gradio_folder; sessions: Sessions.
    """
    (folder / "examples").mkdir()
    examples = make_examples(folder / "examples")

    def open_page(request: gr.Request):
        sessions.of(request)

    def forget(request: gr.Request):
        sessions.drop(request.session_hash)
        if not sessions:
            for path in set(folder.rglob("*")) - lasting:
                if path.is_file():
                    path.unlink(missing_ok=True)

    def take(request, name, content):
        """What an upload or an example changes: [about, the button, the picture to click into]."""
        session = sessions.of(request)
        session.replace(None)
        try:
            upload = read_upload(name, content, scale, max_megapixels)
        except (UserError, OSError, MemoryError) as error:
            return f"{name}: {upscale.reason(error)}", gr.Button(interactive=False), None
        session.replace(upload)
        return upload.about, gr.Button(interactive=True), upload.lr

    def receive(path, request: gr.Request):
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError:  # another page has dropped the same bytes, which was one file, and it was taken
            sessions.of(request).replace(None)
            return None, "the upload was lost: drop it once more", gr.Button(interactive=False), None
        if path not in lasting:
            path.unlink(missing_ok=True)
        return None, *take(request, path.name, content)

    def choose(event: gr.SelectData, request: gr.Request):
        path = examples[event.index][0]
        return take(request, path.name, path.read_bytes())

    def ask(request: gr.Request):
        """Ready for Upscale: what the page asks for next has not been stopped."""
        sessions.of(request).stopped = threading.Event()

    def halt(request: gr.Request):
        sessions.of(request).stopped.set()

    def make(methods, share, request: gr.Request, progress=gr.Progress()):  # noqa: B008, as Gradio asks for it
        session = sessions.of(request)
        upload, stopped = session.upload, session.stopped
        if upload is None or not methods:
            said = "Choose at least one method." if upload else "There is nothing to upscale: drop a picture."
            yield said, gr.File(None, visible=False), gr.Dropdown([]), gr.Dropdown([]), None, []
            return

        def report(share, what):
            session.used = time.monotonic()
            progress(share, what)

        with tempfile.TemporaryDirectory(prefix="srgan-") as place:
            made = Making(upload, scale, max_megapixels, Path(place), stopped, report)
            made.run(methods, share)
            if sessions.get(request.session_hash) is not session or session.upload is not upload:
                return  # the page is closed, or shows another upload: what was made goes
            session.views = made.views
            left, right = [*made.views, None][0], [None, *made.views][-1]
            yield (
                "\n".join(made.said) or "Done.",
                gr.File([str(file) for file in made.files] or None, visible=bool(made.files)),
                gr.Dropdown(list(made.views), value=left),
                gr.Dropdown(list(made.views), value=right),
                write_pair(made.views, left, right, place),
                crops(made.views, 50, 50, ZOOM),
            )  # Gradio has copied the files when it comes back here

    def write_pair(views, left, right, place):
        """Two files for the slider, or None; JPEGs of high quality, which a browser shows sooner than PNGs."""
        if not {left, right} <= set(views):
            return None
        paths = [Path(place, f"{side}.jpg") for side in ("left", "right")]
        for path, name in zip(paths, (left, right), strict=True):
            Image.fromarray(views[name]).save(path, quality=95, subsampling=0)
        return tuple(map(str, paths))

    def choose_pair(left, right, request: gr.Request):
        with tempfile.TemporaryDirectory(prefix="srgan-") as place:
            yield write_pair(sessions.of(request).views, left, right, place)

    def move(position):
        return gr.ImageSlider(slider_position=position)

    def closer(x, y, zoom, request: gr.Request):
        return crops(sessions.of(request).views, x, y, zoom)

    def point(event: gr.SelectData, request: gr.Request):
        upload = sessions.of(request).upload
        if upload is None or upload.lr is None:
            return gr.skip(), gr.skip()
        height, width = upload.lr.shape[:2]
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
                    minimum=0,
                    maximum=1,
                    value=1,
                    step=0.05,
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
                position = gr.Slider(0, 100, 50, step=5, label="Slider, by keyboard, %", elem_id="position")
                closest = gr.Gallery(
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
                        zoom = gr.Slider(1, 8, ZOOM, step=1, precision=0, label="Zoom", elem_id="zoom")
        taken = [about, go, where]
        making = {
            "fn": make,
            "inputs": [methods, share],
            "outputs": [status, files, left, right, slider, closest],
            "show_progress_on": [status],
            "trigger_mode": "multiple",  # an upload while another is worked on takes its place
        }
        page.load(open_page)
        page.unload(forget)
        drop.upload(receive, drop, [drop, *taken]).then(**making)
        shown.select(choose, None, taken).then(**making)
        go.click(ask, queue=False).then(**making)
        stop.click(halt, queue=False)
        gr.on([left.input, right.input], choose_pair, [left, right], slider, trigger_mode="always_last")
        position.input(move, position, slider, trigger_mode="always_last", show_progress="hidden")
        gr.on([x.change, y.change, zoom.change], closer, [x, y, zoom], closest, show_progress="hidden")
        where.select(point, None, [x, y])
    lasting = set(folder.rglob("*"))  # the examples and Gradio's copies of them
    return page


def serve(weights, max_megapixels, host, port):
    """Serve the page until Ctrl-C. Raises UserError.

    weights: names or paths to offer, or None; max_megapixels: larger uploads are refused; port: 0 takes any free one.
    """
    weights, scale = offered(weights)
    sessions = Sessions()
    with serving.gradio_folder() as folder, serving.listening(host, port) as (listener, address):
        page = build(weights, scale, folder, max_megapixels, sessions)
        print(f"weights: {', '.join(weights)}. Open {address} in a browser; Ctrl-C stops.", flush=True)
        goodbye = "stopped; what was uploaded and made is deleted"
        serving.run_gradio(page, listener, goodbye, sessions.stop_all, css=CSS, max_file_size=LARGEST_FILE)
