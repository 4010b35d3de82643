"""Reading films by PyAV (FFmpeg's libraries): what a file holds, and its frames, upright, with their time stamps.

Only containers that hold their pictures themselves are opened, and only files: a manifest, which names other files of
the machine, is refused whatever its name is.
"""

import contextlib
import struct
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

import utils
from images import hdr
from utils import LazyModule, UserError

av = LazyModule("av")

SAFE = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi", "protocol_whitelist": "file"}
HDR = {16: "PQ", 18: "HLG"}  # {transfer characteristics of ITU-T H.273: name}
UNKNOWN = 2  # in H.273: a description that is not given
# {matrix coefficients of H.273: their name for FFmpeg's scale filter}
MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020"}
STANDARD = 576  # lines at most of television before HD, whose matrix players take where none is given
LATE = 1  # seconds that a Matroska file may end before the time in its header
SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


class Damaged(UserError):
    """A film's file is damaged, or none."""


def why(error):
    """The library's own reason for an av.error.FFmpegError, in one line."""
    return (error.log[2].strip() if error.log else "") or utils.short(error.strerror or error)


@contextlib.contextmanager
def opened(path):
    """An av.container.InputContainer. Raises Damaged with FFmpeg's reason, or OSError."""
    try:
        with av.open(f"file:{path}", options=SAFE, metadata_errors="replace") as container:
            yield container
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise Damaged(f"is damaged, or no film of a kind that is read ({why(error)})") from error


@contextlib.contextmanager
def log_kept():
    """FFmpeg's messages are kept for the reasons of its errors. Not for decoding, which has many threads."""
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture():
            yield
    finally:
        av.logging.set_level(None)


def is_cover(stream):
    """Whether a video stream is a still that belongs to the file, such as a cover."""
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


@dataclass(frozen=True)
class Colour:
    """How a film's numbers mean colours, as ITU-T H.273 counts it; what a file does not say is what players take."""

    primaries: int
    transfer: int
    matrix: int
    full_range: bool

    @property
    def hdr(self):
        """The kind of HDR, or "" for ordinary light."""
        return HDR.get(self.transfer, "")


@dataclass(frozen=True)
class Film:
    """What a film's file holds. Times are whole numbers of `time_base` seconds, as in the file.

    index: the number of its track of pictures; size: (width, height) of upright frames; aspect: width of a pixel /
    height, upright; turn: see upright(); times: of all frames, sorted; end: of the last one; rate: frames a second on
    the average; bits: of a colour; light: see light_of(); complete: whether the file ends where it says; notes:
    sentences for the user.
    """

    path: object
    index: int
    size: tuple
    aspect: Fraction
    turn: tuple
    time_base: Fraction
    times: tuple
    end: int
    rate: Fraction
    bits: int
    colour: Colour
    light: dict
    interlaced: bool
    complete: bool
    notes: tuple = ()

    @property
    def start(self):
        return self.times[0]

    def ticks(self, seconds):
        """The time in `time_base` that is so many seconds behind the first frame."""
        return self.start + round(Fraction(seconds) / self.time_base)

    def seconds(self, time):
        """The seconds from the first frame to a time in `time_base`."""
        return float((time - self.start) * self.time_base)

    @property
    def identity(self):
        """What tells this file from others, and from itself after a change."""
        status = self.path.stat()
        return str(self.path.resolve()), status.st_size, status.st_mtime_ns

    def frames(self, deep, start, end, deinterlace=False):
        """Yield the Frames whose times are in [start, end); memory holds a few.

        deep: see Converter. Raises Damaged where the file is, or where it ends before its last frame.
        """
        convert, last, done = Converter(self, deep), None, 0
        for time, picture in decoded(self, start, end, deinterlace):
            if last:
                yield Frame(last[0], time - last[0], last[1], convert)
            last, done = (time, picture), done + 1
        wanted = [time for time in self.times if start <= time < end]
        if last and last[0] >= wanted[-1]:
            yield Frame(last[0], min(self.end, end) - last[0], last[1], convert)
        else:
            raise Damaged(f"is damaged: {done} of {len(wanted)} frames can be decoded")


def look(path):
    """The Film of a file, which is read through once, without decoding. Raises UserError or OSError."""
    if path.stat().st_size == 0:
        raise UserError("is empty")
    with log_kept(), opened(path) as container:
        stream = next((stream for stream in container.streams.video if not is_cover(stream)), None)
        if stream is None:
            raise UserError("is not a film: there are no moving pictures in it")
        if stream.codec_context is None:
            raise UserError("holds pictures of a codec that is not known here")
        index, packets = stream.index, look_through(container, stream)
    with opened(path) as container:
        stream = container.streams[index]
        frame = next(container.decode(stream), None)
        if frame is None or not packets["times"]:
            raise UserError("is not a film: there is no picture in it that can be decoded")
        turn = turn_of(frame)
        size, aspect = (frame.width, frame.height), stream.sample_aspect_ratio or Fraction(1)
        if turn[0]:
            size, aspect = size[::-1], 1 / aspect
        others = sum(not is_cover(other) for other in container.streams.video) - 1
        notes = [f"only the first of {others + 1} tracks of pictures is taken"] if others else []
        if any(part.is_alpha for part in frame.format.components):
            notes.append("transparent parts are not kept")
        return Film(
            path=path,
            index=index,
            size=size,
            aspect=aspect,
            turn=turn,
            time_base=stream.time_base,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            bits=max(part.bits for part in frame.format.components),
            colour=colour_of(frame),
            light=light_of(frame),
            interlaced=frame.interlaced_frame or stream.codec_context.field_order > 1,
            notes=tuple(notes),
            **packets,
        )


def look_through(container, stream):
    """{"times", "end", "complete"} of a Film, from its packets."""
    name = container.format.name
    times, ends, count, reached, damaged = [], [], 0, 0, False
    for packet in container.demux():
        # In an AVI packets lie in the places of frames, whatever the order of frames is.
        time = packet.dts if name == "avi" or packet.pts is None else packet.pts
        if packet.is_corrupt:
            damaged = True
        elif time is not None:
            ends_at = time + (packet.duration or 0)
            reached = max(reached, ends_at * packet.time_base)
            if packet.stream_index == stream.index:
                count += 1
                if not packet.is_discard:
                    times.append(time)
                    ends.append(ends_at)
    times.sort()
    end = max(ends, default=0)
    if times and end <= times[-1]:  # no duration is given: the last frame's is that of the one before
        usual = round(1 / (stream.guessed_rate or 25) / stream.time_base)
        end = times[-1] + max(times[-1] - times[-2] if len(times) > 1 else usual, 1)
    if name.startswith("mov"):
        # Its packets last until the next one is to be decoded, which need not be until the next frame.
        end = max(min(end, times[0] + (stream.duration or end)), times[-1] + 1) if times else end
        damaged |= count < len(stream.index_entries)
    elif name == "avi":
        damaged |= end < stream.frames
    elif container.duration is not None:
        damaged |= reached < container.duration / 1_000_000 - LATE
    return {"times": tuple(times), "end": end, "complete": not damaged}


def count_pictures(path):
    """How many frames a film's file holds, counted by packets."""
    with opened(path) as container:
        stream = next(stream for stream in container.streams.video if not is_cover(stream))
        return sum(packet.size > 0 for packet in container.demux(stream))


def colour_of(frame):
    """The Colour of a film by one of its frames, with what players take for what is not said."""
    matrix = frame.colorspace
    is_rgb = frame.format.is_rgb
    if is_rgb or matrix not in MATRICES:
        is_standard = frame.height <= STANDARD and not is_rgb
        matrix = 9 if frame.color_trc in HDR else 6 if is_standard else 1
    # A standard's primaries and transfer have the number of its matrix, but for BT.2020's transfer.
    same = {1: 1, 6: 6, 9: 9}.get(matrix, UNKNOWN)
    primaries = frame.color_primaries if frame.color_primaries != UNKNOWN else same
    transfer = frame.color_trc if frame.color_trc != UNKNOWN else {9: 14}.get(same, same)
    full = frame.color_range == 2 or frame.format.name.startswith("yuvj")
    return Colour(primaries, transfer, matrix, full and not is_rgb)


def light_of(frame):
    """What a film says of its HDR, if it does: {"display": …, "content": …}.

    display: x and y of red, green, blue and white, and the least and greatest nits of the display it was made on;
    content: nits of its brightest pixel and of its brightest frame's mean.
    """
    found = {}
    for data in frame.side_data:
        if data.type.name == "CONTENT_LIGHT_LEVEL":
            found["content"] = struct.unpack_from("2I", bytes(data))
        elif data.type.name == "MASTERING_DISPLAY_METADATA":
            *numbers, has_primaries, has_luminance = struct.unpack_from("22i", bytes(data))
            if has_primaries and has_luminance:
                found["display"] = tuple(a / b for a, b in zip(numbers[::2], numbers[1::2], strict=True))
    return found


def turn_of(frame):
    """(swapped, x, y) for upright(): how a frame's display matrix turns and mirrors it, to quarter turns."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack_from("9i", bytes(data))
            # A pixel at (x, y) is shown at (a x + c y, b x + d y).
            return (True, c < 0, b < 0) if abs(b) > abs(a) else (False, a < 0, d < 0)
    return False, False, False


def upright(pixels, turn):
    """[h, w, 3] with rows and columns swapped, then mirrored in x and in y, as `turn` says of each."""
    swapped, x, y = turn
    pixels = pixels.swapaxes(0, 1) if swapped else pixels
    return np.ascontiguousarray(pixels[:: -1 if y else 1, :: -1 if x else 1])


# ---------------------------------------------------------------------------------------------------------------------
# Frames


class Frame:
    """A frame of a film: its time and duration in the film's time base, and pixels, converted when asked for."""

    def __init__(self, time, duration, picture, convert):
        self.time, self.duration, self.picture, self.convert = time, duration, picture, convert

    @cached_property
    def pixels(self):
        """uint8 or uint16 RGB [h, w, 3], upright."""
        return self.convert(self.picture)


def decoded(film, start, end, deinterlace):
    """Yield (time, av.VideoFrame) of the frames in [start, end), each later than the one before."""
    before, number = None, 0
    with opened(film.path) as container:
        stream = container.streams[film.index]
        stream.thread_type = "AUTO"
        is_avi = container.format.name == "avi"
        if start > film.start and not is_avi:
            container.seek(start, stream=stream)
        packets = (packet for packet in container.demux(stream) if not packet.is_corrupt)  # as look_through() has it
        frames = (frame for packet in packets for frame in packet.decode())
        for picture in deinterlaced(frames, stream) if deinterlace else frames:
            if is_avi or picture.pts is None:
                time = film.times[min(number, len(film.times) - 1)]
                number += 1
            else:
                time = round(picture.pts * picture.time_base / film.time_base)
            time = time if before is None else max(time, before + 1)
            before = time
            if time >= end:
                return
            if time >= start:
                yield time, picture


def deinterlaced(frames, stream):
    """Yield a picture for each of the frames of an av.VideoStream, with the lines in between made by FFmpeg's bwdif."""
    graph = None
    for frame in frames:
        if graph is None:
            graph = av.filter.Graph()
            nodes = (graph.add("bwdif", "mode=send_frame:deint=all"), graph.add("buffersink"))
            graph.link_nodes(graph.add_buffer(template=stream), *nodes).configure()
        graph.push(frame)
        yield from pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from pulled(graph)


def pulled(graph):
    """Yield what a filter graph has ready."""
    while True:
        try:
            yield graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return


def from_scaler(pixels):
    """uint16 pixels of FFmpeg's scaler, whose white is 255·256, with a white of 65535."""
    pixels = np.minimum(pixels, 65280)
    return pixels + (pixels >> 8)


def to_scaler(pixels):
    """What from_scaler() has made, as FFmpeg's scaler has it."""
    return pixels - ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint16)


class Converter:
    """Converts an av.VideoFrame of a Film to uint16 if `deep`, else uint8, RGB [h, w, 3], upright.

    HDR keeps its own light in 16 bits; in 8 it becomes what ordinary screens show.
    """

    def __init__(self, film, deep):
        self.film, self.deep = film, deep
        self.kind = self.graph = None

    def __call__(self, picture):
        kind = (picture.width, picture.height, picture.format.name)
        if self.graph is None:
            self.kind, self.graph = kind, self.build(picture)
        if kind != self.kind:
            (a, b, _), (c, d, _) = self.kind, kind
            raise Damaged(f"changes its pictures from {a}×{b} to {c}×{d}, which is not read")
        self.graph.push(picture)
        pixels = self.graph.pull().to_ndarray()
        if pixels.dtype == np.uint16:
            pixels = from_scaler(pixels)
        if self.film.colour.hdr and not self.deep:
            pixels = hdr.to_sdr(pixels, self.film.colour.hdr)
        return upright(pixels, self.film.turn)

    def build(self, picture):
        """FFmpeg's scaler as a filter graph, which converts pictures like this one."""
        colour = self.film.colour
        full = colour.full_range or picture.format.is_rgb
        options = f"in_color_matrix={MATRICES[colour.matrix]}:in_range={'pc' if full else 'tv'}:out_range=pc:{SCALING}"
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=self.film.time_base
        )
        kind = "rgb48le" if self.deep or colour.hdr else "rgb24"
        nodes = (source, graph.add("scale", options), graph.add("format", kind), graph.add("buffersink"))
        graph.link_nodes(*nodes).configure()
        return graph
