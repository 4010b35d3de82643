"""The page of demo.py that watches a run while it trains: its numbers, sample grids and the doctor's remarks.

It only reads what train.py writes, so it can be opened and closed at any time, for a finished run too.
"""

import time

import numpy as np

from runs import store
from runs.logs import Metrics
from training.curves import PLOTS, curve
from utils import LazyModule
from web import serving

gr = LazyModule("gradio")
pd = LazyModule("pandas")

EVERY = 5  # seconds between two readings
QUIET = 300  # seconds without a new line after which the page asks whether the run has stopped
NEWEST = "the newest"


def state(run, lines, age):
    """How far a run is, as a sentence; lines: of its metrics.jsonl; age: seconds since the last of them."""
    if not lines:
        return "nothing is logged yet: the first update takes a minute for compiling"
    run, _ = store.reopen(run.directory)  # --resume may have given it another number of steps
    step, steps = lines[-1]["step"], run.config.TRAIN.steps
    words = f"{run.mode}, step {step:,} of {steps:,}"
    if step >= steps:
        return f"{words}: finished"
    if each := [line["seconds_per_step"] for line in lines[-20:] if "seconds_per_step" in line]:
        seconds = float(np.median(each))
        hours, minutes = divmod(round(seconds * (steps - step) / 60), 60)
        words += f", {seconds:.2f} s a step, {hours} h {minutes:02} min to go if it goes on like that"
    if age > QUIET:
        words += f"; nothing new for {age / 60:.0f} minutes: stopped? `python train.py --resume {run.name}` goes on"
    return words


def remarks(run):
    """The doctor's lines of log.txt, as one text."""
    path = run.directory / "log.txt"
    log = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    said = [line for line in log if "the doctor says:" in line]
    return "\n".join(said) or "nothing so far"


def grids(run):
    """{step as the page shows it: file} of the sample grids, the newest first."""
    files = sorted(run.samples.glob("step_*.png"), reverse=True)
    return {f"{int(file.stem.removeprefix('step_')):,}": file for file in files}


def build(run):
    """The page of a store.Run, a gradio.Blocks."""
    metrics = Metrics(run.directory)

    def look(chosen, seen):
        """What has changed since the last reading: [seen, state, remarks, grid, names of all grids, the plots]."""
        path = run.directory / "metrics.jsonl"
        lines, found = metrics.lines(), grids(run)
        age = time.time() - path.stat().st_mtime if path.is_file() else 0
        picture = next(iter(found.values()), None) if chosen == NEWEST else found.get(chosen)
        now = [len(lines), str(picture), len(found)]
        words = [now, state(run, lines, age), remarks(run)]
        if now == seen:
            return *words, *(gr.skip() for _ in range(2 + len(PLOTS)))
        plots = []
        for names in PLOTS.values():
            points = curve(lines, names)
            frame = pd.DataFrame(points, columns=["step", "value", "curve"])
            plots.append(gr.LinePlot(frame, visible=bool(points)))
        return *words, str(picture) if picture else None, gr.Dropdown([NEWEST, *found]), *plots

    with gr.Blocks(title=f"srgan: {run.name}", analytics_enabled=False) as page:
        gr.Markdown(f"# {run.name}")
        seen = gr.State()
        state_box = gr.Textbox(label="State", elem_id="state")
        doctor_box = gr.Textbox(label="The doctor", elem_id="doctor", lines=2, max_lines=12)
        with gr.Row():
            plots = [
                gr.LinePlot(x="step", y="value", color="curve", title=title, min_width=400, height=260)
                for title in PLOTS
            ]
        chosen = gr.Dropdown([NEWEST], value=NEWEST, label="Sample grid of step", elem_id="step")
        picture = gr.Image(
            label="LR, bicubic, SR, HR",
            type="filepath",
            interactive=False,
            buttons=["download", "fullscreen"],  # Gradio's third would share it elsewhere
            elem_id="samples",
        )
        settings = {
            "fn": look,
            "inputs": [chosen, seen],
            "outputs": [seen, state_box, doctor_box, picture, chosen, *plots],
            "show_progress": "hidden",
        }
        gr.on([page.load, gr.Timer(EVERY).tick, chosen.input], **settings)
    return page


def serve(name, host, port, password=None):
    """Serve the page of a run, by its name or directory, until Ctrl-C. Raises UserError."""
    run, _ = store.reopen(name)
    with serving.gradio_folder() as folder, serving.listening(host, port) as (listener, address):
        page = build(run)
        print(f"watching {run.directory}. Open {address} in a browser; Ctrl-C stops.", flush=True)
        settings = {"allowed_paths": [str(run.samples)], "auth": serving.account(password)}
        serving.run_gradio(page, folder, listener, "stopped; the run goes on", **settings)
