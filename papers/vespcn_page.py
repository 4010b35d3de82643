"""The page of VESPCN (docs/vespcn.md): Vid4 by all networks that were trained, beside the paper's figures; pictures."""

import re

import numpy as np
from tqdm import tqdm

import utils
from images import hashes
from inference.tiles import Upscaler
from networks import counting, vespcn
from networks.registry import build_generator
from papers import results, vespcn_pictures
from runs import film_runs, store
from scoring import films
from utils import LazyModule, UserError

tf = LazyModule("tensorflow")

SCALES = (4, 3)
# The paper's mean PSNR and SSIM on Vid4, and GOps for a frame of 1080 lines, by (method, scale).
PAPER = {
    ("bicubic", 3): {"PSNR": 25.38, "SSIM": 0.7613},
    ("ESPCN", 3): {"PSNR": 26.97, "SSIM": 0.8364, "GOps": 9.92},
    ("5L-E3", 3): {"PSNR": 27.05, "SSIM": 0.8388, "GOps": 7.96},
    ("9L-E3-MC", 3): {"PSNR": 27.25, "SSIM": 0.8447, "GOps": 24.23},
    ("bicubic", 4): {"PSNR": 23.82, "SSIM": 0.6548},
    ("ESPCN", 4): {"PSNR": 25.06, "SSIM": 0.7394, "GOps": 6.08},
    ("5L-E3", 4): {"GOps": 4.85},
    ("9L-E3-MC", 4): {"PSNR": 25.35, "SSIM": 0.7557, "GOps": 14.00},
}
# The paper's claims: (claim, the gain in dB by which it is seen here, pairs of networks: the first over the second).
CLEAR = 0.05  # dB: less is no difference
CLAIMS = (
    ("Three frames are better than one, at equal work", CLEAR, (("5L-E3", "5L-E1"), ("9L-E3", "9L-E1"))),
    ("Three frames are as good as one, with about 30 % less work", -CLEAR, (("5L-E3", "7L-E1"), ("5L-E3", "ESPCN"))),
    ("Motion compensation is better than three frames as they are", CLEAR, (("9L-E3-MC", "9L-E3"),)),
    ("Slow fusion of five frames is better than one frame, at more work", CLEAR, (("7L-S5", "7L-E1"),)),
)
FILES = ("vespcn.md", "vespcn_slice.png", "vespcn_flow.png")  # and the figures, vespcn_xSCALE.json


def work(name, scale):
    """GOps of a network of vespcn.NETWORKS, or of a run of train.py, for one frame of 1920×1080; two a multiply-add."""
    if name in vespcn.NETWORKS:
        network, channels = vespcn.build(name, scale), vespcn.NETWORKS[name].frames
    else:
        network, channels = build_generator(store.describe_weights(name)[1]["config"].MODEL), 3
    return 2 * counting.multiply_adds(network, (1, 1080 // scale, 1920 // scale, channels)) / 1e9


# ---------------------------------------------------------------------------------------------------------------------
# Scores


def find_methods(scale):
    """{name: (facts for vespcn_x4.json, function that makes the function of LR)} of all that can be scored at a factor.

    These are bicubic, the runs of `python -m papers.vespcn`, and the project's own weights; runs called vespcn_x4_… are
    for comparison with vespcn_x4. The last functions take uint8 [n, h, w] to [n, scale·h, scale·w].
    """
    methods = {"bicubic": ({"network": "bicubic"}, lambda: lambda lr: films.bicubic(lr, scale))}
    named = re.compile(rf"vespcn-.*-x{scale}-\d+|vespcn_x{scale}(_\w+)?")
    places = dict.fromkeys((store.PROJECT / "checkpoint", store.root()))
    for path in sorted(path for place in places for path in place.glob("vespcn*") if named.fullmatch(path.name)):
        if run := film_runs.describe(path):
            weights, about = run
            facts = {"network": about["config"].MODEL.network, **about["config"].TRAIN, "commit": about["commit"]}
            facts["sha256"] = hashes.file_digest(weights, "sha256")
            methods[path.name] = (facts, lambda run=run: by_network(film_runs.load(run[0], run[1]["config"].MODEL)))
    name = f"srresnet_x{scale}"
    if weights := store.find_runs().get(name):
        facts = {"network": name, "sha256": hashes.file_digest(weights[0], "sha256")}
        methods[name] = (facts, lambda: frame_by_frame(Upscaler(name, engine="tensorflow")))
    return methods


def by_network(network):
    """The function from LR to SR of a film, uint8 both; its first and last frame stand for those beyond."""
    frames = network.inputs[0].shape[-1]
    compiled = tf.function(network, reduce_retracing=True)

    def upscale(lr):
        padded, sr = np.pad(lr, ((frames // 2, frames // 2), (0, 0), (0, 0)), "edge"), []
        for i in range(len(lr)):
            outputs = compiled(utils.u8_to_01(np.moveaxis(padded[i : i + frames], 0, -1))[None])
            outputs = outputs[0] if isinstance(outputs, (list, tuple)) else outputs
            sr.append(utils.round_u8(255 * np.asarray(outputs)[0, ..., 0]))
        return np.stack(sr)

    return upscale


def frame_by_frame(upscaler):
    """The same by an Upscaler of pictures, which takes Y for a gray picture."""
    return lambda lr: np.stack([upscaler.upscale(frame) for frame in lr])


def score_all(found, scale, path, most=None):
    """The content of vespcn_x4.json at `path`, which is written after each step; what is there is not scored again.

    {"scale", "most", "frames": {film: number}, "runs": {name: facts | {"scores": {film: [PSNR, SSIM, T-PSNR]}}}}.
    found: {film: path}; most: how many frames of each are scored, from the first on; None for all.
    """
    before = store.read_json(path) if path.is_file() else {}
    before = before["runs"] if (before.get("scale"), before.get("most")) == (scale, most) else {}
    methods, study = find_methods(scale), {"scale": scale, "most": most, "frames": {}, "runs": {}}
    for name, (facts, _) in methods.items():
        old = before.get(name, {})
        scores = old["scores"] if old.get("sha256") == facts.get("sha256") and old else {}
        study["runs"][name] = facts | {"scores": {film: scores[film] for film in found if film in scores}}
    made = {}
    for film, place in found.items():
        hr = films.read_luma(place)[:most]
        study["frames"][film] = len(hr)
        missing = [name for name in methods if film not in study["runs"][name]["scores"]]
        if not missing:
            continue
        hr, lr = films.shrink(hr, scale)
        flows = films.flows_of(hr)
        for name in tqdm(missing, desc=film, disable=None):
            made[name] = made.get(name) or methods[name][1]()
            study["runs"][name]["scores"][film] = films.score(made[name](lr), hr, flows)
            store.write_json(path, study)
    store.write_json(path, study)
    return study


def means_of(study, network):
    """[seeds, 3] of PSNR, SSIM and T-PSNR, means over the films, of runs_of a network."""
    return np.array([mean_of(run) for run in runs_of(study, network).values()])


def is_longer(name):
    """Whether a run has a budget of its own: the weights that ship, and those to compare them with."""
    return name.startswith("vespcn_")


def runs_of(study, network):
    """{seed: run} of a network, of those with the budget that all rows share."""
    runs = {name: run for name, run in study["runs"].items() if run["network"] == network and not is_longer(name)}
    return {run.get("seed", 0): run for run in runs.values()}


def longer_of(study, network):
    """{(seed, updates, films): run} of a network, of those that are trained longer."""
    runs = [run for name, run in study["runs"].items() if run["network"] == network and is_longer(name)]
    return {(run.get("seed", 0), run["steps"], run["films"]): run for run in runs}


def rows_of(study):
    """[(title, network, [run])] of the table: networks, and at its end the runs that are trained longer."""
    rows = [(name, name, list(runs_of(study, name).values())) for name in networks_of(study)]
    return rows + [(name, run["network"], [run]) for name, run in study["runs"].items() if is_longer(name)]


def networks_of(study):
    """The names of the networks in the order of the table."""
    known = ["bicubic", "ESPCN", f"srresnet_x{study['scale']}", *vespcn.NETWORKS]
    return [name for name in dict.fromkeys(known) if runs_of(study, name)]


# ---------------------------------------------------------------------------------------------------------------------
# The page

TEXT = """# VESPCN: what neighbouring frames know

Written by `python -m papers.vespcn --score FOLDER` from {figures}.

Caballero et al., "Real-time video super-resolution with spatio-temporal networks and motion compensation" (CVPR 2017):
small networks that take several frames at a time (E3: three, in the first layer), and a network that first brings the
neighbours to the middle frame (MC), trained with them end to end. 9L-E3-MC is VESPCN.

```bash
python -m papers.vespcn --list                                     # all networks, parameters, GOps
python data.py vid4 --from ~/my/vid4                               # four films, see data.md
python -m papers.vespcn ESPCN 5L-E1 5L-E3 --seeds 3 {budget}   # trains those that are missing; ×3: --scale 3
python -m papers.vespcn 9L-E3-MC --data ~/films                    # films, and folders of numbered frames
python -m papers.vespcn --score data/Vid4                          # this page, into samples/vespcn
{shipped}
python upscale.py film.mp4 --weights vespcn_x4                     # see upscaling.md
```

**Training.** {training}
All rows but srresnet_x4 and those called vespcn_x4… have the same budget, which is far below the paper's: read
differences between rows, not distances to the paper. Films are made of photographs by
[images/motion.py](../images/motion.py). Only Y is trained, as in the paper. Unlike in the paper, all networks add to
the bicubic image of the middle frame, so that all rows start there, and motion compensation learns by itself first
([departures](departures.md), 42).

## Vid4

{protocol}. {frames}
Means over the frames of a film, then over the four films; ± is the standard deviation over seeds. T-PSNR is the PSNR
of what changes from frame to frame along the motion in the original, its own change subtracted
(`scoring/films.changes`): what flickers. {steady} GOps are for a frame of 1920×1080, two operations a multiply-add.

{tables}

## Claims and findings

Differences of mean PSNR, and of T-PSNR, between runs with the same seed, which have the same films. A claim,
the paper's or (of slow fusion) ours, is seen if the mean gain is {clear} dB or more; for "as good as", if the mean
loss is {clear} dB at most. Only rows of the same budget count for this; longer runs are shown below them.

{claims}

## Pictures

Vid4 may not be shown, so these are of a film made of a photograph that nothing was trained on. A row of pixels, one
frame below the other: an edge that moves is a slanted line, and what flickers is rough along it.

![rows of pixels over time](vespcn_slice.png)

*In the picture of docs/vespcn.md ESPCN draws the white rim hardly sharper than bicubic, and the other networks nearly
as sharp as it is. Thin bright lines stay bright with the SRResNet alone. On dark ground the networks of nine layers,
with their few updates, leave a faint pattern of vertical lines; vespcn_x4 has nearly lost it.*

![flows and what they leave](vespcn_flow.png)

*Above, a frame and the next; in the middle, the true flow and VESPCN's, less a constant (the colour is its direction);
below, the change from frame to frame before and after warping by VESPCN's flow, with the constant. {flow}*

Trained at {commits}.
"""

TABLES = """### ×{scale}

| | PSNR | SSIM | T-PSNR | GOps | seeds | the paper's: PSNR | SSIM | GOps |
|---|---|---|---|---|---|---|---|---|
{table}

PSNR of each film:

| | {films} |
|---|{dashes}|
{by_film}

{notes}"""


def tables_of(study):
    """A factor's section: its table, PSNR of each film, notes."""
    text = TABLES.format(
        scale=study["scale"],
        table=table_of(study),
        films=" | ".join(study["frames"]),
        dashes="---|" * (len(study["frames"]) - 1) + "---",
        by_film=by_film(study),
        notes=notes_of(study),
    )
    return text.rstrip()


def table_of(study):
    """The lines of the table: a network or a run of rows_of each, means over its seeds, beside the paper's."""
    lines = []
    for name, network, runs in rows_of(study):
        means, paper = np.array([mean_of(run) for run in runs]), PAPER.get((network, study["scale"]), {})
        cells = [results.spread(means[:, k], digits) for k, digits in enumerate((2, 4, 2))]
        cells += ["" if name == "bicubic" else f"{work(network, study['scale']):.2f}", str(len(means))]
        cells += [f"{paper[key]:.{n}f}" if key in paper else "" for key, n in (("PSNR", 2), ("SSIM", 4), ("GOps", 2))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_film(study):
    """The lines of PSNR by film."""
    lines = []
    for name, _, runs in rows_of(study):
        cells = [f"{np.mean([run['scores'][film][0] for run in runs]):.2f}" for film in study["frames"]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def claims_of(studies):
    """Paragraphs and lines on CLAIMS: for each pair and factor that was trained, differences of runs with one seed."""
    parts = []
    for claim, least, pairs in CLAIMS:
        found = [gain for study in studies for pair in pairs if (gain := gain_of(study, *pair))]
        if found:
            seen = sum(mean >= least for _, mean in found)
            verdict = (
                "seen here" if seen == len(found) else f"seen in {seen} of {len(found)}" if seen else "not seen here"
            )
            longer = [gain for study in studies for pair in pairs if (gain := gain_of(study, *pair, longer_of))]
            parts += ["\n".join([f"**{claim}: {verdict}.**", "", *(line for line, _ in found + longer)])]
    if parts and max(len(runs_of(study, name)) for study in studies for name in networks_of(study)) < 3:
        parts.append("With fewer than three seeds these differences neither support nor refute the paper's claims.")
    return "\n\n".join(parts)


def gain_of(study, one, other, of=runs_of):
    """(a line on what one network gains over another, the mean gain in PSNR), of runs with the same seed; or None.

    of: runs_of or longer_of.
    """
    ours, theirs = (of(study, name) for name in (one, other))
    if not (seeds := sorted(set(ours) & set(theirs))):
        return None
    gains = np.array([mean_of(ours[seed]) - mean_of(theirs[seed]) for seed in seeds])
    share = f"{work(one, study['scale']) / work(other, study['scale']) - 1:+.0%}".replace("-", "−")
    which = f", {ours[seeds[0]]['steps']:,} updates" if of is longer_of else ""
    line = (
        f"- ×{study['scale']}{which}: {one} over {other} ({share} of GOps): {signed(gains[:, 0])} dB, higher with "
        f"{int(np.sum(gains[:, 0] > 0))} of {len(seeds)} seed{'s' * (len(seeds) > 1)}; T-PSNR {signed(gains[:, 2])} dB."
    )
    return line, gains[:, 0].mean()


def mean_of(run):
    """[3]: a run's PSNR, SSIM and T-PSNR, means over the films."""
    return np.mean(list(run["scores"].values()), axis=0)


def signed(values):
    return " ".join(f"{value:+.3f}" for value in values).replace("-", "−")


def notes_of(study):
    """Sentences on the rows that are no equals."""
    scale, notes = study["scale"], []
    if f"srresnet_x{scale}" in study["runs"]:
        notes.append(
            f"srresnet_x{scale} is the project's own ([MODEL_CARD.md](../checkpoint/MODEL_CARD.md)), trained for hours "
            "on RGB. It takes Y for a gray picture, frame by frame."
        )
    bicubic = means_of(study, "bicubic")[0, 0]
    if below := [name for name in networks_of(study) if means_of(study, name)[:, 0].mean() < bicubic]:
        notes.append(f"Below bicubic at this budget: {', '.join(below)}.")
    for name, network, (run, *_) in rows_of(study):
        if is_longer(name):
            what = ", the weights that ship," if name == f"vespcn_x{scale}" else ""
            budget = f"{run['steps']:,} updates on {run['films']:,} films, seed {run['seed']}"
            notes.append(f"{name}{what} is {network} with {budget}.")
    return " ".join(notes)


def shipped_command(study):
    """The command that trained the weights that ship."""
    name = f"vespcn_x{study['scale']}"
    if not (run := study["runs"].get(name)):
        return "python -m papers.vespcn 9L-E3-MC                               # VESPCN alone"
    keys = {"steps": "steps", "motion-steps": "motion_steps", "films": "films", "seed": "seed"}
    flags = " ".join(f"--{flag} {run[key]}" for flag, key in keys.items() if run.get(key))
    return f"python -m papers.vespcn {run['network']} {flags} --name {name}   # the weights that ship"


def flow_in_words(constant, truth, error, varying, changing):
    """Sentences on flows; the arguments are what draw_flow returns."""
    x, y = (f"{value:+.2f}".replace("-", "−") for value in constant)
    learned = "It follows motion." if varying < 0.8 * changing else "It has not learned to follow motion."
    return (
        f"Over the whole film the true flow is {truth:.2f} LR pixels long on average, and VESPCN's error {error:.2f}. "
        f"All its flows are off by a constant ({x}, {y}), which the layers behind it can undo; less this, the error is "
        f"{varying:.2f}. A flow that knew nothing but the film's mean would be off by {changing:.2f}. {learned}"
    )


def most_of(study, key):
    """The largest value of a setting among the rows that were trained."""
    return max((run[key] for name, run in study["runs"].items() if name.startswith("vespcn-")), default=0)


def training_of(study):
    """A sentence on the budget of the rows."""
    runs = [run for name, run in study["runs"].items() if "steps" in run and not is_longer(name)]
    if not runs:
        return "Nothing was trained but the weights that ship."
    facts = {key: sorted({run[key] for run in runs}) for key in ("steps", "batch", "crop", "films", "learning_rate")}
    words = {key: " or ".join(f"{value:,}" for value in values) for key, values in facts.items()}
    text = (
        f"{words['steps']} updates of batch {words['batch']} on crops of {words['crop']} LR pixels from "
        f"{words['films']} films, Adam, cosine from {words['learning_rate']}."
    )
    if before := next(((run["motion_steps"], run["motion_batch"]) for run in runs if "motion_steps" in run), None):
        text += f" Before this, motion compensation by itself has {before[0]:,} updates of {before[1]} pairs of frames."
    return text


def steady_in_words(study):
    """A sentence, if bicubic flickers least."""
    means = {name: means_of(study, name)[:, 2].mean() for name in networks_of(study)}
    return "Bicubic's is the best of all: a blur changes little." if max(means, key=means.get) == "bicubic" else ""


def page_of(studies, flow):
    """The text of vespcn.md; studies: of one factor each, the first one's pictures are shown; flow: see draw_flow."""
    study = studies[0]
    trained = [run for study in studies for run in study["runs"].values() if "steps" in run]
    frames = ", ".join(f"{film} {count}" for film, count in study["frames"].items())
    which = "The first frames" if study["most"] else "All frames"
    return TEXT.format(
        figures=" and ".join(f"[{name}]({name})" for name in (f"vespcn_x{study['scale']}.json" for study in studies)),
        shipped=shipped_command(study),
        budget=" ".join(f"--{key} {most_of(study, key)}" for key in ("steps", "films")),
        training=training_of(study),
        protocol=films.PROTOCOL,
        frames=f"{which}: {frames}.",
        steady=steady_in_words(study),
        tables="\n\n".join(tables_of(study) for study in studies),
        clear=CLEAR,
        claims=claims_of(studies),
        flow=flow_in_words(*flow),
        commits=results.in_words(list(dict.fromkeys(run["commit"] for run in trained))),
    )


def is_trained(scale):
    """Whether networks were trained for a factor."""
    return any(name.startswith("vespcn-") for name in find_methods(scale))


def write(found, scale, out, most=None):
    """Score all that is trained on {film: path}, and write FILES into the folder `out`; most: see score_all.

    The pictures are of the factor `scale`; the other one's table follows if anything was trained for it.
    """
    out.mkdir(parents=True, exist_ok=True)
    methods = find_methods(scale)
    runs = (f"vespcn-{name}-x{scale}-0" for name in ("ESPCN", "9L-E1", "9L-E3", "9L-E3-MC"))
    shown = ("bicubic", f"srresnet_x{scale}", *runs, f"vespcn_x{scale}")
    shown = [name for name in shown if name in methods]
    if not shown[-1].endswith(("-MC-x4-0", "-MC-x3-0", f"vespcn_x{scale}")):
        raise UserError("train 9L-E3-MC first: the page shows its flow")
    shown = list({methods[name][0].get("sha256"): name for name in shown}.values())  # weights that ship may be a row's
    scales = [scale, *(other for other in SCALES if other != scale and is_trained(other))]
    studies = [score_all(found, one, out / f"vespcn_x{one}.json", most) for one in scales]
    hr, lr, flows = vespcn_pictures.example(scale)
    vespcn_pictures.draw_slice(out / "vespcn_slice.png", hr, {name: methods[name][1]()(lr) for name in shown})
    weights, about = film_runs.describe(shown[-1])
    flow = vespcn_pictures.draw_flow(out / "vespcn_flow.png", lr, flows, film_runs.load(weights, about["config"].MODEL))
    text = page_of(studies, flow)
    utils.write_atomically(out / "vespcn.md", lambda temporary: temporary.write_text(text, encoding="utf-8"))
    for study in studies:
        print(f"×{study['scale']}")
        for name in networks_of(study):
            print(f"{name:12} " + "  ".join(f"{results.spread(values, 3)}" for values in means_of(study, name).T))
    print(f"written: {out / 'vespcn.md'}, its figures and its pictures")
