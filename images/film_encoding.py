"""Writing films by PyAV: upscaled frames are encoded in segments, which outlast an interruption.

A segment is a small film of its own, in a hidden folder beside the target. film_muxing.py joins them all.
"""

import contextlib
import os
import re
import shutil
import time
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

import utils
from images import film_reading
from images.film_reading import why
from utils import LazyModule, UserError

av = LazyModule("av")

os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints its settings otherwise


class Codec(NamedTuple):
    """An encoder by FFmpeg's name: the crf of a loss that is hardly visible, the most, whether it has 10 bits."""

    encoder: str
    crf: int
    most: int
    is_deep: bool
    options: dict


CODECS = {
    "h264": Codec("libx264", 16, 51, False, {"preset": "medium"}),  # 10 bits of H.264 play nearly nowhere
    "hevc": Codec("libx265", 18, 51, True, {"preset": "medium"}),
    "av1": Codec("libsvtav1", 22, 63, True, {"preset": "8"}),
    "vp9": Codec("libvpx-vp9", 20, 63, False, {"b:v": "0", "row-mt": "1", "cpu-used": "2"}),
}
# {file ending: (FFmpeg's name of the container, its codecs, the usual one first)}
CONTAINERS = {
    ".mp4": ("mp4", ("h264", "hevc", "av1", "vp9")),
    ".mov": ("mov", ("h264", "hevc")),
    ".mkv": ("matroska", ("h264", "hevc", "av1", "vp9")),
    ".avi": ("avi", ("h264",)),
    ".m4v": ("mp4", ("h264", "hevc")),
    ".webm": ("webm", ("vp9", "av1")),
}
SUFFIXES = tuple(CONTAINERS)
SECONDS, LEAST = 60, 12  # a segment ends after so many seconds of work, and with so many frames at least
PROBE = (np.arange(24 * 24 * 3).reshape(24, 24, 3) * 7919 % 251).astype(np.uint8)  # a picture to know a network by
SAME = 2  # levels that two calls of a network may differ by, on different devices


class Coding(NamedTuple):
    """How a film is written: by which of CODECS, its crf, (width, height) in pixels, whether with 10 bits.

    time_base: of the times that are given; container: "mp4" or "avi", of segments; the rest is a film_reading.Film's.
    """

    codec: str
    crf: int
    size: tuple
    deep: bool
    time_base: Fraction
    rate: Fraction
    aspect: Fraction
    colour: object
    light: dict
    container: str


@contextlib.contextmanager
def reasons():
    """FFmpeg's errors in writing become UserErrors with its reason; OSErrors, such as a full disk, stay."""
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise UserError(f"cannot be written ({why(error)})") from error


def open_encoder(container, coding):
    """The av.VideoStream of a new container that frames are encoded to. Raises UserError if PyAV lacks the encoder."""
    codec = CODECS[coding.codec]
    try:
        stream = container.add_stream(codec.encoder, rate=coding.rate.limit_denominator(1001000))
    except (av.error.FFmpegError, ValueError) as error:
        raise UserError(f"cannot be written as {coding.codec}: this PyAV has no {codec.encoder}") from error
    stream.width, stream.height = coding.size
    stream.pix_fmt = "yuv420p10le" if coding.deep else "yuv420p"
    context = stream.codec_context
    context.time_base = coding.time_base
    context.sample_aspect_ratio = coding.aspect
    context.color_primaries, context.color_trc = coding.colour.primaries, coding.colour.transfer
    context.colorspace, context.color_range = coding.colour.matrix, 2 if coding.colour.full_range else 1
    if coding.container == "avi":
        context.max_b_frames = 0  # its frames lie in the order in which they are shown
    stream.options = {"crf": str(coding.crf)} | codec.options | hdr_options(coding)
    with ordinary_threads():
        context.open()
    return stream


@contextlib.contextmanager
def ordinary_threads():
    """Threads that start inside get no real-time priority.

    SVT-AV1 asks Linux for it, and as root gets it: its threads would run before everything else on the machine.
    """
    tasks = Path("/proc/self/task")
    before = set(tasks.glob("*"))
    yield
    for task in set(tasks.glob("*")) - before:
        with contextlib.suppress(OSError):  # it has ended meanwhile, or a container forbids this
            if os.sched_getscheduler(int(task.name)) in (os.SCHED_FIFO, os.SCHED_RR):
                os.sched_setscheduler(int(task.name), os.SCHED_OTHER, os.sched_param(0))


def hdr_options(coding):
    """The encoder's options for what a film says of its HDR, see film_reading.light_of."""
    said = []
    display, content = coding.light.get("display"), coding.light.get("content")
    if coding.codec == "hevc":
        said.append("log-level=none")
        if display:
            r, g, b, w = ("({:.0f},{:.0f})".format(*(50000 * v for v in display[i : i + 2])) for i in (0, 2, 4, 6))
            said.append(f"master-display=G{g}B{b}R{r}WP{w}L({1e4 * display[9]:.0f},{1e4 * display[8]:.0f})")
        if content:
            said.append("max-cll={},{}".format(*content))
        return {"x265-params": ":".join(said)}
    if coding.codec == "av1":
        if display:
            r, g, b, w = ("({:.5f},{:.5f})".format(*display[i : i + 2]) for i in (0, 2, 4, 6))
            said.append(f"mastering-display=G{g}B{b}R{r}WP{w}L({display[9]:.4f},{display[8]:.4f})")
        if content:
            said.append("content-light={},{}".format(*content))
        return {"svtav1-params": ":".join(said)} if said else {}
    return {}


def picture_of(pixels, coding):
    """The av.VideoFrame in YCbCr for RGB [h, w, 3]; odd sides get their last row or column twice."""
    height, width, _ = pixels.shape
    pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
    pixels = film_reading.to_scaler(pixels) if coding.deep else pixels
    flags = av.video.reformatter.Interpolation
    return av.VideoFrame.from_ndarray(pixels, format="rgb48le" if coding.deep else "rgb24").reformat(
        format="yuv420p10le" if coding.deep else "yuv420p",
        dst_colorspace={6: 5}.get(coding.colour.matrix, coding.colour.matrix),  # swscale's numbers, equal but for this
        src_color_range="JPEG",
        dst_color_range="JPEG" if coding.colour.full_range else "MPEG",
        interpolation=flags.BICUBIC | flags.FULL_CHR_H_INT | flags.FULL_CHR_H_INP | flags.ACCURATE_RND,
    )


def even(size):
    """(width, height) with odd sides made even, as picture_of does."""
    return tuple(side + side % 2 for side in size)


class Segment(NamedTuple):
    """A file of encoded frames: the number of the first one, how many there are, and the first one's time."""

    path: Path
    first: int
    frames: int
    time: int


class Segments:
    """The frames of a film that are encoded, in files that stay if the work is interrupted.

    add() encodes a frame, in order; finish() writes what is open to its file. What was left by the same work is there
    from the start: `done` frames. key: text that tells one work from another; probe: uint8 [h, w, 3], which the network
    makes of PROBE.
    """

    def __init__(self, target, coding, key, probe):
        self.coding, self.folder = coding, target.with_name(f".{target.name}.parts")
        if not self.fits(key, probe):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            np.save(self.folder / "probe.npy", probe)
            utils.write_atomically(self.folder / "work.txt", lambda path: path.write_text(key, encoding="utf-8"))
        self.files = self.find()
        self.done = sum(segment.frames for segment in self.files)
        self.container = None

    def fits(self, key, probe):
        """Whether the folder is of the same work."""
        try:
            before = np.load(self.folder / "probe.npy")
            same = (self.folder / "work.txt").read_text(encoding="utf-8") == key and before.shape == probe.shape
            return same and np.abs(before.astype(int) - probe).max() <= SAME
        except (OSError, ValueError):
            return False

    def find(self):
        """[Segment] of the folder's files, as far as one joins the other."""
        found = {}
        for path in self.folder.iterdir():
            if match := re.fullmatch(r"(\d+)_(\d+)_(-?\d+)\.\w+", path.name):
                found[int(match[1])] = Segment(path, *map(int, match.groups()))
        files, next_one = [], 0
        while segment := found.get(next_one):
            files.append(segment)
            next_one += segment.frames
        return files

    def add(self, pixels, moment, duration):
        """Encode RGB [h, w, 3], of uint16 if `deep`, shown from `moment` for `duration` in the coding's time base."""
        if self.container is None:
            self.began, self.start, self.count, self.durations = time.monotonic(), moment, 0, {}
            self.open_path = self.folder / f"open.{self.coding.container}"
            self.container = av.open(f"file:{self.open_path}", "w", format=self.coding.container)
            self.stream = open_encoder(self.container, self.coding)
        picture = picture_of(pixels, self.coding)
        picture.pts, picture.time_base = moment - self.start, self.coding.time_base
        self.durations[picture.pts] = duration
        self.mux(self.stream.encode(picture))
        self.count += 1
        self.done += 1
        if self.count >= LEAST and time.monotonic() - self.began > SECONDS:
            self.finish()

    def mux(self, packets):
        for packet in packets:
            packet.duration = self.durations.pop(packet.pts)  # encoders do not tell it
            self.container.mux(packet)

    def finish(self):
        """Write what is open to its file."""
        if self.container is None:
            return
        try:
            self.mux(self.stream.encode())
        finally:
            self.container.close()
            self.container = None
        first = self.done - self.count
        path = self.folder / f"{first:08}_{self.count}_{self.start}.{self.coding.container}"
        os.replace(self.open_path, path)
        self.files.append(Segment(path, first, self.count, self.start))

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)
