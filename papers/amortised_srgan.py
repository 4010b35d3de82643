"""SRGAN from equal starts, whose generator minimises -log D or -logit D, with and without instance noise.

The question of the reviewers of Sønderby et al., 2017 (section 3.3 is on -logit D, appendix C on the noise). Stability
is told by what training.doctor measures.
"""

import numpy as np

from papers.runner import evaluate, has_ended, train_run
from runs import store
from runs.logs import read_metrics
from training.doctor import Doctor

STEPS, SET = 500, "Set14"
START = "srresnet_x4"
LOGIT, NOISE = ("--set", "TRAIN.adversarial=logit"), ("--set", "TRAIN.instance_noise=0.2")
ROWS = {  # {what differs: flags of train.py}; the run is amortised- and this name
    "log": (),
    "logit": LOGIT,
    "log-noise": NOISE,
    "logit-noise": LOGIT + NOISE,
}
TITLES = {"log": "-log D", "logit": "-logit D", "log-noise": "-log D, noise", "logit-noise": "-logit D, noise"}
# Small crops, and no loss against a grid or shifts, which would hide what the adversarial loss does.
RULE = ("TRAIN.batch=8", "DATA.crop=64", "TRAIN.batch_norm=frozen", "TRAIN.shift=false", "TRAIN.learning_rate=2e-4")
RULE += ("TRAIN.ema=0.99", f"TRAIN.validate_every={STEPS}", f"TRAIN.save_every={STEPS // 5}", "TRAIN.log_every=5")
MEASURES = ("psnr_y", "niqe_own", "consistency")


def command_of(name, argument, settings=()):
    """The arguments of train.py for one of ROWS; argument: the value of --data; settings: more, "SECTION.key=value"."""
    command = ["--mode=srgan", "--init", START, "--steps", str(STEPS), "--seed", "0", "--name", f"amortised-{name}"]
    command += ["--data", argument] if argument else []
    return [*command, *(word for setting in (*RULE, *settings) for word in ("--set", setting)), *ROWS[name]]


def stability(lines):
    """{measure: its median over the second half of a run's log}, the share of lines where D has won, the remarks.

    lines: of metrics.jsonl.
    """
    late = lines[len(lines) // 2 :]
    keys = ("d_real", "d_fake", "g_grad", "colour_drift", "checkerboard")
    found = {key: float(np.median([line[key] for line in late])) for key in keys}
    found["swing"] = float(np.std([line["d_real"] - line["d_fake"] for line in late]))
    doctor = Doctor("srgan")
    shows, _ = doctor.known_ailments(lines[0])["D won"]
    won = [shows(line) for line in lines]
    remarks = [remark for line in lines for remark in doctor.examine(line)]
    return found | {"won": float(np.mean(won)), "remarks": [remark.split(":")[0] for remark in remarks]}


def run(folder, argument, settings=()):
    """Train ROWS, score them on SET, and write srgan.json into the folder; what is there is kept.

    Returns {"steps", "set", "start", "rows": {name: stability() | {measure of MEASURES: mean}}}. argument, settings: as
    for command_of. Raises UserError.
    """
    path = folder / "srgan.json"
    if path.is_file():
        return store.read_json(path)
    runs = {f"amortised-{name}": name for name in ROWS}
    for each, name in runs.items():
        if not has_ended(each):
            train_run(each, command_of(name, argument, settings), argument)
    weights = {START: START} | {each: store.root() / each / store.WEIGHTS for each in runs}
    scores = evaluate(weights, MEASURES, folder / "evaluate", argument, (SET,))[SET]
    rows = {name: stability(read_metrics(store.root() / each)) | scores[each] for each, name in runs.items()}
    store.write_json(path, {"steps": STEPS, "set": list(settings), "start": scores[START], "rows": rows})
    return store.read_json(path)


def commands(settings=()):
    """The commands of ROWS as a person would type them, for the page."""
    return "\n".join(f"python train.py {' '.join(command_of(name, 'DATA', settings))}" for name in ROWS)


HEAD = "| | D of HR | D of SR | swing | D won | gradient | checkerboard | colour drift | PSNR-Y | NIQE-own | LR-PSNR |"


def part_of_page(study):
    """The Markdown of run()'s result; None: of what was not run."""
    if not study:
        return f"Not run. Equal starts, equal crops, {STEPS} updates each:\n\n```bash\n{commands()}\n```"
    lines = [HEAD, "|---" * HEAD.count(" |") + "|"]
    for name, row in study["rows"].items():
        cells = [f"{row[key]:.2f}" for key in ("d_real", "d_fake", "swing")]
        cells += [
            f"{row['won']:.0%}",
            f"{row['g_grad']:.2f}",
            f"{row['checkerboard']:.2f}",
            f"{row['colour_drift']:.2f}",
        ]
        cells += [f"{row['psnr_y']:.2f}", f"{row['niqe_own']:.2f}", f"{row['consistency']:.1f}"]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    start = study["start"]
    lines.append(f"| {START}, the start |" + "  |" * 7 + f" {start['psnr_y']:.2f} | {start['niqe_own']:.2f} | "
                 f"{start['consistency']:.1f} |")  # fmt: skip
    remarks = [f"{TITLES[name]}: {'; '.join(row['remarks'])}." for name, row in study["rows"].items() if row["remarks"]]
    table = "\n".join(lines)
    return f"""```bash
{commands(study["set"])}
```

Equal starts, equal crops, {study["steps"]:,} updates each, one seed. Medians over the second half of each log: the
probability of being real that D gives to HR and to SR, the norm of the generator's gradient, and the doctor's measures
in grey levels (an SRResNet has a checkerboard of 0.2 to 0.4). The swing is the standard deviation of the difference of
the first two; D has won in the share of the log where it is above 0.99 and below 0.01. Noise has a standard deviation
of 0.2 at first and falls to zero. Scores on {SET}.

{table}

What the doctor said: {" ".join(remarks) or "nothing."}"""
