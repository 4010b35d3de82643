"""The table of docs/upscaling.md: films of all kinds before and after upscale.py, as their files say.

PYTHONPATH=. python tests/film_table.py [WEIGHTS]
"""

import sys
import tempfile
from collections import Counter
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from test_films import CHAPTERS, PQ, SOUNDS, SUBTITLES, TEXTS, UNEVEN, hdr_film, moving, write_film

import upscale
from cli import terminal
from images import film_reading


def films_in(folder):
    """Make the films; {what they are: (path, arguments for upscale.py)}."""
    cut = write_film(folder / "whole.mkv", tuple(range(0, 4000, 40)))
    (folder / "cut.mkv").write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    beside = {"sounds": SOUNDS, "subtitles": SUBTITLES, "chapters": CHAPTERS, "texts": TEXTS}
    bff = {"options": {"crf": "4", "x264-params": "bff=1"}}
    odd = {"frames": moving(10, 25, 33), "pix_fmt": "yuv444p"}
    (folder / "manifest.mp4").write_text('<?xml version="1.0"?><MPD><BaseURL>whole.mkv</BaseURL></MPD>')
    return {
        "variable rate, sound": (write_film(folder / "uneven.mp4", UNEVEN, sounds=SOUNDS[:1]), []),
        "16.67 frames a second": (write_film(folder / "slow.mp4", tuple(range(0, 600, 60)), last=60), []),
        "a still of 75 s": (write_film(folder / "still.mp4", (0, 75000)), []),
        "two sound tracks, subtitles, chapters, title": (write_film(folder / "rich.mkv", **beside), []),
        "the same into WebM": (folder / "rich.mkv", ["-o", folder / "rich.webm"]),
        "no sound": (write_film(folder / "mute.mov"), []),
        "HDR (PQ), 10 bits": (hdr_film(folder / "hdr.mp4", PQ), []),
        "the same as H.264": (folder / "hdr.mp4", ["--codec", "h264", "--suffix", "_h264"]),
        "turned by 90°": (write_film(folder / "turned.mp4", rotation=90), []),
        "wide pixels": (write_film(folder / "wide.mp4", sample_aspect_ratio=Fraction(16, 11)), []),
        "odd sides, ×3": (write_film(folder / "odd.mp4", **odd), ["--scale", "3"]),
        "interlaced": (write_film(folder / "laced.mp4", **bff), ["--deinterlace"]),
        "cut in half": (folder / "cut.mkv", []),
        "a manifest called .mp4": (folder / "manifest.mp4", []),
    }


def described(path):
    """What a film's file holds, in words; "" if there is none."""
    if not path.is_file():
        return ""
    try:
        film = film_reading.look(path)
    except film_reading.UserError:
        return "no film"
    words = [f"{film.size[0]}×{film.size[1]}", f"{len(film.times)} frames"]
    if film.complete:
        words.append(f"{float((film.end - film.start) * film.time_base):.2f} s")
    gaps = np.diff(film.times)
    if len(gaps) and gaps.max() > gaps.min() + 1:
        gaps = [round(float(gap * film.time_base), 2) for gap in (gaps.min(), gaps.max())]
        words.append(f"{gaps[0]:g} to {gaps[1]:g} s each")
    words += [f"pixels {film.aspect.numerator}:{film.aspect.denominator}"] * (film.aspect != 1)
    words += [f"{film.bits} bits {film.colour.hdr}".strip()] * (film.bits > 8)
    words += ["interlaced"] * film.interlaced + ["cut off"] * (not film.complete)
    with av.open(str(path)) as container:
        words.insert(0, container.streams.video[0].codec_context.name)
        kinds = Counter((stream.type, stream.codec_context.name) for stream in list(container.streams)[1:])
        for (kind, codec), count in kinds.items():
            words.append(f"{count} {kind} ({codec})")
        words += [f"{len(container.chapters())} chapters"] * bool(container.chapters())
        words += ["title"] * ("title" in {key.lower() for key in container.metadata})
        frame = next(container.decode(video=0))
        words += [f"turn {frame.rotation}°"] * bool(frame.rotation)
    return ", ".join(words)


def main():
    weights = sys.argv[1] if len(sys.argv) > 1 else "vespcn_x4"
    print("| film | before | after |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, (path, arguments) in films_in(folder).items():
            there = set(folder.iterdir())
            sys.argv = ["upscale.py", "--weights", weights, "--quiet", str(path), *map(str, arguments)]
            try:
                terminal.run_command(upscale.main)
            except SystemExit:
                pass
            made = [new for new in folder.iterdir() if new not in there and not new.name.startswith(".")]
            after = described(made[0]) if made else "refused"
            print(f"| {title} | {described(path)} | {after} |", flush=True)


if __name__ == "__main__":
    main()
