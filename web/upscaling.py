"""The page of demo.py that upscales: drop a picture, compare models, look closer, download.

An upload is in memory until its page is closed, or any page is used after KEEP seconds, and on disk only while it is
worked on. What is shown and can be downloaded is on disk for KEEP seconds, or until the last page is closed.
"""

import tempfile
import threading
import time
from pathlib import Path

from PIL import Image

import data
import upscale
import utils
from utils import LazyModule, UserError
from web import serving
from web.compare import FIXED, KEEP, Making, Sessions, crops, offered, partner_of, read_upload

gr = LazyModule("gradio")

LARGEST_FILE = "100mb"
ZOOM = 2  # of the crops at first
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


def make_examples(folder):
    """[(path, caption)]: photographs that come with the libraries, made small by MATLAB's bicubic."""
    examples = []
    for path in data.package_files(data.SAMPLE_TEST):
        hr = utils.read_image(path)
        utils.write_image(folder / f"{path.stem}.png", utils.imresize(hr, EXAMPLE_SIDE / max(hr.shape)))
        examples.append((folder / f"{path.stem}.png", path.stem))
    return examples


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
        """Ready for Upscale again: what is still being made ends, what is asked for next has not been stopped."""
        session = sessions.of(request)
        session.stopped.set()
        session.stopped = threading.Event()

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
                    visible=any(map(partner_of, weights)),
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
