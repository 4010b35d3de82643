"""What evaluate.py prints and writes: tables with the paper's figures, p-values, JSON and CSV."""

import csv
import math

import numpy as np

import metrics
import runs
import utils

# The paper's figures at ×4: PSNR-Y in dB, its SSIM (metrics.ssim_paper), and the mean opinion of 26 people (1 to 5).
# Table 2, and from Table 1 the three variants that are not in it.
PAPER = {
    "Set5": {
        "NN": (26.26, 0.7552, 1.28),
        "bicubic": (28.43, 0.8211, 1.97),
        "SRCNN": (30.07, 0.8627, 2.57),
        "SelfExSR": (30.33, 0.8720, 2.65),
        "DRCN": (31.52, 0.8938, 3.26),
        "ESPCN": (30.76, 0.8784, 2.89),
        "SRResNet": (32.05, 0.9019, 3.37),
        "SRGAN": (29.40, 0.8472, 3.58),
        "SRResNet-VGG22": (30.51, 0.8803, 3.46),
        "SRGAN-MSE": (30.64, 0.8701, 3.77),
        "SRGAN-VGG22": (29.84, 0.8468, 3.78),
    },
    "Set14": {
        "NN": (24.64, 0.7100, 1.20),
        "bicubic": (25.99, 0.7486, 1.80),
        "SRCNN": (27.18, 0.7861, 2.26),
        "SelfExSR": (27.45, 0.7972, 2.34),
        "DRCN": (28.02, 0.8074, 2.84),
        "ESPCN": (27.66, 0.8004, 2.52),
        "SRResNet": (28.49, 0.8184, 2.98),
        "SRGAN": (26.02, 0.7397, 3.72),
        "SRResNet-VGG22": (27.19, 0.7807, 3.15),
        "SRGAN-MSE": (26.92, 0.7611, 3.43),
        "SRGAN-VGG22": (26.44, 0.7518, 3.57),
    },
    "BSD100": {
        "NN": (25.02, 0.6606, 1.11),
        "bicubic": (25.94, 0.6935, 1.47),
        "SRCNN": (26.68, 0.7291, 1.87),
        "SelfExSR": (26.83, 0.7387, 1.89),
        "DRCN": (27.21, 0.7493, 2.12),
        "ESPCN": (27.02, 0.7442, 2.01),
        "SRResNet": (27.58, 0.7620, 2.29),
        "SRGAN": (25.16, 0.6688, 3.56),
    },
}


def summarise(scores, doubts):
    """{set: {method: {measure: mean, …, "images": {image: {measure: value}}}}} as it is written to results.json.

    scores: {set: {method: {image: {measure: value}}}}; doubts: {set: clause or None}. With PSNR-Y each method also gets
    "p_psnr_y": {other method: p}; where there is a doubt, "not_comparable": the clause.
    """
    results = {}
    for set_name, rows in scores.items():
        results[set_name] = {}
        for method, images in rows.items():
            row = {name: mean_of([image[name] for image in images.values()]) for name in next(iter(images.values()))}
            if "psnr_y" in row:
                others = {other: theirs for other, theirs in rows.items() if other != method}
                row["p_psnr_y"] = {other: p_value(images, theirs) for other, theirs in others.items()}
            if doubts[set_name]:
                row["not_comparable"] = doubts[set_name]
            results[set_name][method] = row | {"images": images}
    return results


def means(row):
    """{measure: mean} of a row of `summarise`, without those that are no numbers."""
    return {name: row[name] for name in metrics.COLUMNS if name in row and math.isfinite(row[name])}


def mean_of(values):
    """The mean of those values that are numbers; NaN if none is (NIQE of images smaller than its patches)."""
    values = [value for value in values if not math.isnan(value)]
    return float(np.mean(values)) if values else math.nan


def p_value(ours, theirs):
    """p of the paired two-sided Wilcoxon signed-rank test on PSNR-Y over images, as in the paper's section 3.1.

    ours, theirs: {image: {"psnr_y": dB}} with the same images. 1.0 if no image differs.
    """
    from scipy.stats import wilcoxon

    differences = [ours[image]["psnr_y"] - theirs[image]["psnr_y"] for image in ours]
    differences = [0.0 if math.isnan(d) else d for d in differences]  # both are perfect
    return float(wilcoxon(differences).pvalue) if any(differences) else 1.0


def finite(value):
    """A nest of dicts with null where a number is not finite, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def measures_of(results):
    """The measures that `summarise` was given, in the order of the columns; they are the same in every row."""
    row = next(iter(next(iter(results.values())).values()))
    return [name for name in metrics.COLUMNS if name in row]


def write_json(path, results):
    """Write what `summarise` gives."""
    runs.write_json(path, finite(results))


def write_csv(path, results):
    """Write what `summarise` gives as a line for each set, method and image, and one for the mean."""
    names = measures_of(results)

    def write(temporary):
        with open(temporary, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["set", "method", "image", *names, "not_comparable"])
            for set_name, rows in results.items():
                for method, row in rows.items():
                    for image, values in {**row["images"], "mean": row}.items():
                        doubt = row.get("not_comparable", "")
                        writer.writerow([set_name, method, image, *(values[name] for name in names), doubt])

    utils.write_atomically(path, write)


def print_tables(results, scale):
    """One table a set, the paper's figures below ours."""
    names = measures_of(results)
    columns = [metrics.COLUMNS[name] for name in names]
    print(f"\nProtocol: ×{scale}; {metrics.PROTOCOL.format(border=scale)}")
    for column in columns:
        print(f"  {column.title:10}  {column.about}")
    for set_name, rows in results.items():
        paper = PAPER.get(set_name, {}) if scale == 4 and {"psnr_y", "ssim_paper"} & set(names) else {}
        width = max(map(len, [*rows, *(f"paper: {method}" for method in paper)]))
        first = next(iter(rows.values()))
        print(f"\n{set_name} ({len(first['images'])} images)")
        if "not_comparable" in first:
            print(f"NOT COMPARABLE with published figures: {first['not_comparable']}")
        print(" " * width, *(f"{column.title:>10}" for column in columns))
        for method, row in rows.items():
            print(f"{method:{width}}", *(cell(row[name], metrics.COLUMNS[name]) for name in names))
        for method, (psnr, ssim, opinion) in paper.items():
            theirs = {"psnr_y": psnr, "ssim_paper": ssim}
            cells = (cell(theirs.get(name, math.nan), metrics.COLUMNS[name]) for name in names)
            print(f"{f'paper: {method}':{width}}", *cells, f" MOS {opinion:.2f}")


def cell(value, column):
    return f"{'-':>10}" if math.isnan(value) else f"{value:10.{column.digits}f}"


def print_significance(results):
    """For each set the p-values between its methods; below 0.05 a difference counts as real, as in the paper."""
    for set_name, rows in results.items():
        count = len(next(iter(rows.values()))["images"])
        print(f"\n{set_name}: p of the paired two-sided Wilcoxon signed-rank test on PSNR-Y over {count} images")
        width = max(10, *map(len, rows))
        print(" " * width, *(f"{method:>{width}}" for method in list(rows)[:-1]))
        for i, (method, row) in enumerate(rows.items()):
            if i:
                cells = (f"{row['p_psnr_y'][other]:{width}.2g}" for other in list(rows)[:i])
                print(f"{method:{width}}", *cells)
        if count < 6:
            print(f"(the least p that {count} images can give is {2 / 2**count:.2g})")
