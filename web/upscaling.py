"""The page of demo.py that upscales: drop a picture, compare models, look closer, download.

An upload stays in memory until its page is closed, or has not been used for half an hour. What a page compares is on
disk for as long. Uploads and other results are on disk for half an hour, or until the last page is closed.

`Actions` says what the page does; below it, `build` makes its parts, and `connect` joins both.
"""

import tempfile
import threading
import time
from pathlib import Path

from PIL import Image
from tqdm import tqdm

import data
import upscale
import utils
from images import pictures
from inference.engines import ENGINES, missing
from utils import LazyModule, UserError
from web import serving
from web.compare import FIXED, How, Making, Sessions, crops, offered, partner_of, preview, read_upload

gr = LazyModule("gradio")

LARGEST_FILE = "100mb"
AS_IT_WAS = "as it was"  # the format of the upload
ZOOM = 2  # of the crops at first
EXAMPLE_SIDE = 160  # pixels: the longer side of an example
# Three parts: beside each other, or on a phone below each other, so that results come before settings. What has nothing
# to show or to do is hidden, and captions stand above and below pictures.
CSS = """
#parts { display: grid; grid-template: "pictures view" auto "choice view" 1fr / minmax(300px, 1fr) minmax(0, 2fr); }
#pictures { grid-area: pictures; } #choice { grid-area: choice; } #view { grid-area: view; }
@media (max-width: 768px) { #parts { grid-template: "pictures" "view" "choice" / minmax(0, 1fr); } }
#view:not(:has(img)) > :not(#hint), #view:has(img) > #hint, #compared:not(:has(#slider img)) { display: none; }
#pictures:has(#status > .wrap.hide) #stop, #files .label-clear-button { display: none; }
#hint { border: 1px solid var(--border-color-primary); padding: 3rem 1rem; text-align: center; }
#closer img { image-rendering: pixelated; }
#closer .gallery-item { max-width: 400px; }
#where img { cursor: crosshair; }
#examples .grid-wrap, #closer .grid-wrap { min-height: 0; max-height: none; height: auto; overflow: visible; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
#examples, #closer, #where { padding-top: 28px; }
#examples .thumbnail-item, #closer .thumbnail-item { aspect-ratio: auto; height: auto; }
#examples .thumbnail-item img, #closer .thumbnail-item img { aspect-ratio: 1; height: auto; }
#examples .caption-label, #closer .caption-label { position: static; max-width: none; border: 0; }
"""
HINT = "Here you will see a part of your picture at once, and all of it when it is made: two methods under a slider."
ABOUT = """# srgan
Drop a picture, or several, and get them ×{scale}. Here each may have {limit:g} megapixels and 100 MB;
`python upscale.py` takes more.
Nothing leaves the machine that serves this page. Uploads and results are deleted when the last page is closed, or after
half an hour."""


def make_examples(folder):
    """[(path, caption)]: photographs that come with the libraries, made small by MATLAB's bicubic."""
    examples = []
    for path in data.package_files(data.SAMPLE_TEST):
        hr = pictures.read_image(path)
        utils.write_image(folder / f"{path.stem}.png", utils.imresize(hr, EXAMPLE_SIDE / max(hr.shape)))
        examples.append((folder / f"{path.stem}.png", path.stem))
    return examples


class Actions:
    """What happens on the page: Gradio calls these methods with the values of the page's parts.

    It recognises a parameter that is annotated as gr.Request or gr.SelectData, and fills it in.
    """

    def __init__(self, weights, scale, folder, max_megapixels, sessions):
        """weights: those that are offered; folder: serving.gradio_folder's; sessions: Sessions."""
        self.offered = (*FIXED, *weights)
        self.scale, self.folder, self.max_megapixels, self.sessions = scale, folder, max_megapixels, sessions
        (folder.path / "examples").mkdir()
        self.examples = make_examples(folder.path / "examples")

    # A page is opened and closed

    def open_page(self, request: "gr.Request"):
        self.sessions.of(request)

    def close_page(self, request: "gr.Request"):
        self.sessions.drop(request.session_hash)
        if not self.sessions:
            self.folder.tidy(total=0)

    # A picture comes in

    def receive(self, paths, request: "gr.Request"):
        """Uploads: [nothing in the drop area, and what `take` returns]; paths: one or several.

        The files stay: Gradio keeps the same bytes from two pages as one file, so another page may still need them.
        """
        files = []
        for path in map(Path, [paths] if isinstance(paths, str) else paths):
            try:
                if not serving.is_in(self.folder.path, path):
                    raise OSError(f"{path} was not uploaded")
                files.append((path.name, path.read_bytes()))
            except OSError:  # it came long ago
                self.sessions.of(request).replace(None)
                return None, *shown("the upload was lost: drop it once more")
        return None, *self.take(request, files)

    def choose_example(self, event: "gr.SelectData", request: "gr.Request"):
        path, _ = self.examples[event.index]
        return self.take(request, [(path.name, path.read_bytes())])

    def take(self, request, files):
        """What uploads, [(name, content)], or an example change, see `shown`."""
        session = self.sessions.of(request)
        session.replace(None)
        uploads, said = [], []
        for name, content in files:
            try:
                uploads.append(read_upload(name, content, self.scale, self.max_megapixels))
                said.append(uploads[-1].about)
            except (UserError, OSError, MemoryError) as error:
                said.append(f"{name}: {upscale.reason(error)}")
        if not uploads:
            return shown("\n".join(said))
        uploads.sort(key=lambda upload: upload.lr is None)  # the first that can be shown is compared
        upload = uploads[0]._replace(others=tuple(each._replace(lr=None) for each in uploads[1:]))
        session.replace(upload)
        return shown("\n".join(said), upload)

    # It is upscaled

    def stop(self, request: "gr.Request"):
        self.sessions.of(request).stopped.set()

    def start_again(self, request: "gr.Request"):
        """Stop what is being made, and be ready for what is asked for next."""
        session = self.sessions.of(request)
        session.stopped.set()
        session.stopped = threading.Event()

    def make(self, methods, share, request, progress, how=How()):  # noqa: B008, it is constant
        """Upscale, and yield [status, files, left, right, slider]; nothing if nobody waits for it any more.

        progress: a gr.Progress; how: see compare.How.
        """
        session = self.sessions.of(request)
        upload, stopped = session.upload, session.stopped
        methods = [method for method in methods if method in self.offered]  # a name of weights is a path
        if upload is None or not methods:
            reason = "Choose at least one method." if upload else "There is nothing to upscale: drop a picture."
            yield reason, gr.File(None, visible=False), gr.Dropdown([]), gr.Dropdown([]), None
            return

        start = time.monotonic()

        def report(share, what):
            session.used = time.monotonic()
            left = (session.used - start) * (1 - share) / share if share else 0
            progress(share, f"{what}, {tqdm.format_interval(left)} left" if share else what)

        with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
            made = Making(upload, self.scale, self.max_megapixels, Path(folder), stopped, report, how)
            made.run(methods, share)
            if self.sessions.get(request.session_hash) is not session or session.upload is not upload:
                return  # the page is closed, or shows another upload: what was made is deleted
            session.keep(made.views)
            yield results(made, folder)  # Gradio has copied the files when it comes back here

    # It is looked at

    def choose_pair(self, left, right, request: "gr.Request"):
        with tempfile.TemporaryDirectory(prefix="srgan-") as folder:
            yield write_pair(self.sessions.of(request).views, left, right, folder)

    def move_slider(self, position):
        return gr.ImageSlider(slider_position=position)

    def look_closer(self, x, y, zoom, methods, share, request, how=How()):  # noqa: B008, it is constant
        """Crops of the results; before there are any, a small part is computed."""
        session = self.sessions.of(request)
        if session.views or session.upload is None or session.upload.lr is None:
            return crops(session.views, x, y, zoom)
        methods = [method for method in methods if method in self.offered]
        return preview(session.upload, self.scale, methods, share, x, y, zoom, how)

    def point(self, event: "gr.SelectData", request: "gr.Request"):
        """A click into the small picture: [x, y] in percent."""
        upload = self.sessions.of(request).upload
        if upload is None or upload.lr is None:
            return gr.skip(), gr.skip()
        height, width = upload.lr.shape[:2]
        return round(100 * event.index[0] / width), round(100 * event.index[1] / height)


def shown(about, upload=None):
    """What a new Upload, or None, changes: [about, the button, the picture to click into, the slider, the files]."""
    lr = None if upload is None else upload.lr
    return about, gr.Button(interactive=upload is not None), lr, None, gr.File(None, visible=False)


def results(made, folder):
    """[status, files, left, right, slider] of a Making that has run; folder: for the slider's files."""
    names = list(made.views)
    left, right = (names[0], names[-1]) if names else (None, None)
    return (
        made.status,
        gr.File([str(file) for file in made.files] or None, visible=bool(made.files)),
        gr.Dropdown(names, value=left),
        gr.Dropdown(names, value=right),
        write_pair(made.views, left, right, folder),
    )


def write_pair(views, left, right, folder):
    """Two files for the slider, or None; JPEGs of high quality, which a browser shows sooner than PNGs."""
    if left not in views or right not in views:
        return None
    paths = [Path(folder, f"{side}.jpg") for side in ("left", "right")]
    for path, name in zip(paths, (left, right), strict=True):
        Image.fromarray(views[name]).save(path, quality=95, subsampling=0)
    return tuple(map(str, paths))


# ---------------------------------------------------------------------------------------------------------------------
# The page


def build(weights, scale, folder, max_megapixels, sessions):
    """The page, a gradio.Blocks.

    weights, scale: as offered() gives them; folder: that of serving.gradio_folder; sessions: Sessions.
    """
    actions = Actions(weights, scale, folder, max_megapixels, sessions)
    with gr.Blocks(title="srgan", analytics_enabled=False) as page:
        gr.Markdown(ABOUT.format(scale=scale, limit=max_megapixels))
        with gr.Row(elem_id="parts"):
            with gr.Column(elem_id="pictures"):
                parts = build_pictures(actions.examples)
            with gr.Column(elem_id="view"):
                view = build_view()
            with gr.Column(elem_id="choice"):
                parts |= build_choice(weights, scale)
        connect(page, parts, view, actions)
    return page


def build_pictures(examples):
    """{name: part}: pictures to choose, and what is said and made of them."""
    return {
        "drop": gr.File(label="Pictures, animations or films", height=150, file_count="multiple", elem_id="drop"),
        "examples": gr.Gallery(
            examples,
            label="Or one of these",
            columns=3,
            height="auto",
            allow_preview=False,
            buttons=[],
            elem_id="examples",
        ),
        "about": gr.Textbox("nothing so far", label="Upload", interactive=False, elem_id="about"),
        "status": gr.Textbox(label="Result", lines=2, interactive=False, elem_id="status"),
        "files": gr.File(label="Download", visible=False, interactive=False, file_count="multiple", elem_id="files"),
        "stop": gr.Button("Stop", size="sm", elem_id="stop"),
    }


def build_choice(weights, scale):
    """{name: part}: how pictures are upscaled."""
    parts = {
        "methods": gr.CheckboxGroup(
            [*FIXED, *weights], value=["bicubic", weights[0]], label="Methods, side by side", elem_id="methods"
        ),
        "share": gr.Slider(
            minimum=0,
            maximum=1,
            value=1,
            step=0.05,
            label="From SRResNet (0, smooth) to SRGAN (1, textured)",
            visible=any(map(partner_of, weights)),
            elem_id="share",
        ),
    }
    with gr.Accordion("Factor, format, engine", open=False, elem_id="more"):
        factors = [str(factor) for factor in (2, 3, 4, 8) if factor <= scale]
        parts["factor"] = gr.Dropdown(factors, value=str(scale), label="Factor", elem_id="factor")
        parts["format"] = gr.Dropdown([AS_IT_WAS, *pictures.FORMATS], value=AS_IT_WAS, label="Format", elem_id="format")
        names = ["auto", *(name for name in ENGINES if not missing(name))]
        parts["engine"] = gr.Dropdown(names, value="auto", label="Engine", elem_id="engine")
    parts["go"] = gr.Button("Upscale again", variant="primary", interactive=False, elem_id="go")
    return parts


def build_view():
    """{name: part}: two results under a slider, and crops to look closer at."""
    parts = {}
    gr.Markdown(HINT, elem_id="hint")
    with gr.Column(elem_id="compared"):
        with gr.Row():
            parts["left"] = gr.Dropdown([], label="Left of the slider", interactive=True, elem_id="left")
            parts["right"] = gr.Dropdown([], label="Right of it", interactive=True, elem_id="right")
        parts["slider"] = gr.ImageSlider(
            label="Before and after",
            show_label=False,
            type="filepath",
            interactive=False,
            max_height=700,
            elem_id="slider",
        )
        parts["position"] = gr.Slider(0, 100, 50, step=5, label="Slider, by keyboard, %", elem_id="position")
    parts["closer"] = gr.Gallery(
        label="Closer",
        columns=3,
        height="auto",
        format="png",
        allow_preview=False,
        buttons=[],
        elem_id="closer",
    )
    with gr.Row():
        parts["where"] = gr.Image(
            label="Click where to look closer",
            interactive=False,
            format="png",
            height=230,
            buttons=[],
            elem_id="where",
        )
        with gr.Column(min_width=200):
            parts["x"] = gr.Slider(0, 100, 50, step=1, label="Across, %", elem_id="x")
            parts["y"] = gr.Slider(0, 100, 50, step=1, label="Down, %", elem_id="y")
            parts["zoom"] = gr.Slider(1, 8, ZOOM, step=1, precision=0, label="Zoom", elem_id="zoom")
    return parts


def connect(page, parts, view, actions):
    """Say which action follows when something happens to a part of the page.

    parts: those of build_pictures and build_choice; view: those of build_view.
    """

    def how(factor, kind, engine):
        return How(int(factor), None if kind == AS_IT_WAS else kind, engine)

    def make(methods, share, factor, kind, engine, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        yield from actions.make(methods, share, request, progress, how(factor, kind, engine))

    def look_closer(methods, share, factor, kind, engine, x, y, zoom, request: gr.Request):
        return actions.look_closer(x, y, zoom, methods, share, request, how(factor, kind, engine))

    asked = [parts[name] for name in ("methods", "share", "factor", "format", "engine")]
    taken = [parts["about"], parts["go"], view["where"], view["slider"], parts["files"]]
    pair = [view["left"], view["right"]]
    place = [view["x"], view["y"]]
    making = {
        "fn": make,
        "inputs": asked,
        "outputs": [parts["status"], parts["files"], *pair, view["slider"]],
        "show_progress_on": [parts["status"]],
        "trigger_mode": "multiple",  # an upload while another is worked on takes its place
    }
    page.load(actions.open_page)
    page.unload(actions.close_page)
    moved = [*place, view["zoom"]]
    looking = {
        "fn": look_closer,
        "inputs": [*asked, *moved],
        "outputs": view["closer"],
        "show_progress": "hidden",
    }
    came = parts["drop"].upload(actions.receive, parts["drop"], [parts["drop"], *taken])
    for event in (came, parts["examples"].select(actions.choose_example, None, taken)):
        event.then(**looking).then(**making).then(**looking)
    parts["go"].click(actions.start_again, queue=False).then(**making).then(**looking)
    parts["stop"].click(actions.stop, queue=False)

    latest = {"trigger_mode": "always_last"}  # of many changes one after the other
    hidden = {"show_progress": "hidden"}
    gr.on([part.input for part in pair], actions.choose_pair, pair, view["slider"], **latest)
    view["position"].input(actions.move_slider, view["position"], view["slider"], **latest, **hidden)
    gr.on([part.change for part in moved], **looking)
    view["where"].select(actions.point, None, place)


def serve(weights, max_megapixels, host, port, password=None):
    """Serve the page until Ctrl-C. Raises UserError.

    weights: names or paths to offer, or None; max_megapixels: larger uploads are refused; port: 0 takes any free one;
    password: asked of everybody, if there is one.
    """
    weights, scale = offered(weights)
    sessions = Sessions()
    with serving.gradio_folder() as folder, serving.listening(host, port) as (listener, address):
        page = build(weights, scale, folder, max_megapixels, sessions)
        print(f"weights: {', '.join(weights)}. Open {address} in a browser; Ctrl-C stops.", flush=True)
        goodbye = "stopped; what was uploaded and made is deleted"
        settings = {"css": CSS, "max_file_size": LARGEST_FILE, "auth": serving.account(password)}
        serving.run_gradio(page, folder, listener, goodbye, sessions.stop_all, sessions.drop_idle, **settings)
