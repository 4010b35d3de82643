"""Joining a film: its encoded segments, and all that the source holds besides pictures.

Sound, subtitles, chapters, attachments, covers and texts are copied as they are. Sound and text subtitles that the new
container cannot hold are encoded anew; what cannot be kept is told.
"""

import contextlib
import heapq
import io

from images.film_encoding import CONTAINERS, reasons
from images.film_reading import is_cover, log_kept, opened, why
from utils import LazyModule, UserError

av = LazyModule("av")

SOUND = {"webm": "libopus", "avi": "libmp3lame"}  # encoders of sound that a container cannot hold; elsewhere AAC
SUBTITLES = {"webm": "webvtt", "matroska": "srt", "mp4": "mov_text", "mov": "mov_text"}  # of text; AVI holds none
TEXTS = ("mov_text", "srt", "subrip", "webvtt", "ass", "ssa", "text")
# Texts about a container itself and not about the film, beside those that begin with "_".
OWN = ("major_brand", "minor_version", "compatible_brands", "encoder", "rotate", "duration", "bps")
OWN += ("number_of_frames", "number_of_bytes", "timecode")  # the last one has a track of its own
LATER = 10  # seconds by which tracks of a file may lie apart


def check(source, target):
    """[sentence] for all of a film_reading.Film that the file `target` cannot hold as it is.

    Raises UserError if the container refuses it altogether.
    """
    name, _ = CONTAINERS[target.suffix.lower()]
    with log_kept(), opened(source.path) as origin:
        container = av.open(io.BytesIO(), "w", format=name)
        try:
            tracks, notes = add_tracks(container, origin, source.index, name)
            if tracks:
                container.start_encoding()
                for track in tracks.values():
                    track.close()
        except (av.error.FFmpegError, ValueError) as error:
            said = why(error) if isinstance(error, av.error.FFmpegError) else str(error)
            raise UserError(f"cannot become {target.suffix}: {said}") from error
        finally:
            with contextlib.suppress(av.error.FFmpegError, ValueError):  # there is nothing in it
                container.close()
        return notes


def join(target, name, pictures, source=None, start=None, end=None):
    """Write a film of Pictures and of what a film_reading.Film holds besides.

    target: the file's path; name: FFmpeg's name of the container; start, end: the part of the source in seconds of its
    own times, or None for all.
    """
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(opened(pictures.segments[0].path))
        origin = stack.enter_context(opened(source.path)) if source else None
        texts = kept_texts(origin) if source else {}
        options = {}
        if name in ("mp4", "mov"):  # browsers play it while it loads; texts may have names as phones give them
            options["movflags"] = "+faststart" + "+use_metadata_tags" * any("." in key for key in texts)
        container = stack.enter_context(written(target, name, options))
        stream = container.add_stream_from_template(first.streams.video[0], opaque=True)
        if name in ("mp4", "mov") and stream.codec_context.name == "hevc":
            stream.codec_context.codec_tag = "hvc1"  # which Apple's players ask for
        container.metadata.update(texts)
        packets = ((packet, Copied(container, stream)) for packet in pictures)
        tracks = {}
        if source:
            describe_like(stream, origin.streams[source.index])
            tracks, _ = add_tracks(container, origin, source.index, name)
            container.set_chapters(cut_chapters(origin, start, end))
            packets = heapq.merge(packets, other_packets(origin, tracks, start, end), key=moment)
        for packet, track in packets:
            track.write(packet)
        for track in tracks.values():
            track.close()


@contextlib.contextmanager
def written(path, name, options):
    """An av.container.OutputContainer; name: FFmpeg's, options: of the container. Raises UserError or OSError."""
    container = av.open(f"file:{path}", "w", format=name, container_options=options)
    try:
        yield container
    except BaseException:
        with contextlib.suppress(av.error.FFmpegError):  # a second error, after the one that is told
            container.close()
        raise
    with reasons():
        container.close()


def moment(pair):
    """The time at which a packet is decoded, in seconds."""
    packet, _ = pair
    return packet.dts * packet.time_base


class Pictures:
    """The packets of [Segment] in the order in which they are decoded, with their times in the whole film.

    time_base: of the segments' times; last: the duration of the last frame. The times of decoding are given anew, since
    each segment begins with them anew: they rise in the whole film.
    """

    def __init__(self, segments, time_base, last):
        self.segments, self.time_base, self.last = segments, time_base, last
        times = [time for time, _ in self.read()]
        self.order = [*sorted(times), max(times) + last]
        places = {time: i for i, time in enumerate(self.order)}
        self.places = [places[time] for time in times]
        self.delay = max(i - place for i, place in enumerate(self.places))

    def read(self):
        """Yield (time in the whole film, packet)."""
        for segment in self.segments:
            with opened(segment.path) as container:
                is_avi = container.format.name == "avi"
                for packet in container.demux(container.streams.video[0]):
                    if packet.size:
                        time = packet.dts if is_avi else packet.pts
                        yield segment.time + round(time * packet.time_base / self.time_base), packet

    def __iter__(self):
        for i, ((_, packet), place) in enumerate(zip(self.read(), self.places, strict=True)):
            early = self.delay - i
            packet.time_base = self.time_base
            packet.pts, packet.duration = self.order[place], self.order[place + 1] - self.order[place]
            packet.dts = self.order[-early] if early <= 0 else self.order[0] - early * (self.order[1] - self.order[0])
            yield packet


# ---------------------------------------------------------------------------------------------------------------------
# What goes beside the pictures


class Copied:
    """A track whose packets are copied as they are."""

    def __init__(self, container, stream):
        self.container, self.stream = container, stream

    def write(self, packet):
        packet.stream = self.stream
        self.mux(packet)

    def mux(self, packets):
        """Write what belongs to this track. Raises UserError or OSError."""
        with reasons():
            self.container.mux(packets)

    def close(self):
        """Write what is left."""


class Sound(Copied):
    """A sound track that is encoded anew."""

    def __init__(self, container, stream, origin):
        super().__init__(container, stream)
        stream.codec_context.layout = origin.layout.name
        self.resampler = av.AudioResampler(stream.codec_context.format.name, origin.layout.name, stream.rate)

    def write(self, packet):
        with contextlib.suppress(av.error.InvalidDataError):  # a damaged packet is a gap of some milliseconds
            for frame in packet.decode():
                self.encode(self.resampler.resample(frame))

    def encode(self, frames):
        for frame in frames:
            self.mux(self.stream.encode(frame))

    def close(self):
        self.encode(self.resampler.resample(None))
        self.mux(self.stream.encode(None))


class Text(Copied):
    """A track of text subtitles that is encoded anew."""

    def __init__(self, container, stream, origin):
        super().__init__(container, stream)
        self.decoder = origin.codec_context
        self.decoder.open(strict=False)
        self.stream.codec_context.subtitle_header = self.decoder.subtitle_header

    def write(self, packet):
        if subtitle := self.decoder.decode2(packet):
            new = self.stream.codec_context.encode_subtitle(subtitle)
            new.time_base = packet.time_base
            new.pts, new.dts, new.duration = packet.pts, packet.dts, packet.duration
            super().write(new)


def add_tracks(container, origin, pictures, name):
    """({number of a stream: its track in a new container}, [what is not kept as it is]) for all streams but one.

    origin: av.container.InputContainer; pictures: the number of that one; name: FFmpeg's name of the container.
    """
    tracks, notes = {}, []
    for stream in origin.streams:
        if stream.index == pictures or (stream.type == "video" and not is_cover(stream)):
            continue
        if stream.type == "data" and origin.chapters():  # the names of chapters, which an MP4 has twice
            continue
        track, note = add_track(container, stream, name)
        if track:
            describe_like(track.stream, stream)
            tracks[stream.index] = track
        if note:
            notes.append(note)
    return tracks, notes


def add_track(container, stream, name):
    """(track in a new container or None, sentence or "") for a stream that holds no moving pictures."""
    codec = stream.codec_context.name if stream.codec_context else ""
    what = {"audio": "the sound", "subtitle": "the subtitles", "video": "the cover", "data": "a track of data"}
    what = f"{what.get(stream.type, f'an {stream.type}')} ({codec or 'of an unknown kind'})"
    if name == "matroska" and stream.type == "attachment":
        container.add_attachment(stream.name or "attachment", stream.mimetype or "", stream.data)
        return None, ""
    if name == "matroska" and stream.type == "video":
        ending = {"mjpeg": "jpeg"}.get(codec, codec)
        container.add_attachment(f"cover.{ending}", f"image/{ending}", cover_of(stream))
        return None, ""
    if stream.type in ("audio", "subtitle") or (stream.type == "video" and name in ("mp4", "mov")):
        with contextlib.suppress(ValueError):  # the container cannot hold it
            return Copied(container, container.add_stream_from_template(stream, opaque=True)), ""
    if stream.type == "audio" and codec:
        encoder = SOUND.get(name, "aac")
        new = container.add_stream(encoder, rate=48000 if encoder == "libopus" else stream.rate)
        return Sound(container, new, stream), f"{what} becomes {new.codec.canonical_name}"
    if stream.type == "subtitle" and codec in TEXTS and name in SUBTITLES:
        return Text(container, container.add_stream(SUBTITLES[name]), stream), f"{what} become {SUBTITLES[name]}"
    return None, f"{what} cannot be kept"


def cover_of(stream):
    """The bytes of a picture that belongs to a file."""
    with opened(stream.container.name.removeprefix("file:")) as container:
        return bytes(next(container.demux(container.streams[stream.index])))


def describe_like(new, old):
    """Give a new track the language, name, use and other texts of an old one."""
    texts = kept_texts(old)
    if "name" in texts:  # so MP4 calls a title when it is read, and not when it is written
        texts["title"] = texts.pop("name")
    new.metadata.update(texts)
    new.disposition = old.disposition


def kept_texts(of):
    """{name: text} of a file or stream that are about the film."""
    return {key: text for key, text in of.metadata.items() if key.lower() not in OWN and not key.startswith("_")}


def cut_chapters(origin, start, end):
    """The chapters of a file, or of a part of it, see join()."""
    chapters = []
    for chapter in origin.chapters():
        first, last = (0 if start is None else start), (chapter["end"] if end is None else end / chapter["time_base"])
        first = first / chapter["time_base"]
        begins, ends = (round(min(max(chapter[key], first), last) - first) for key in ("start", "end"))
        if ends > begins:
            chapters.append(chapter | {"start": begins, "end": ends})
    return chapters


def other_packets(origin, tracks, start, end):
    """Yield (packet, its track) of all tracks, with times from `start` on; see join()."""
    if not tracks:
        return
    if start:
        origin.seek(int(start * 1_000_000))
    for packet in origin.demux([origin.streams[index] for index in tracks]):
        time = packet.dts if packet.pts is None else packet.pts
        if time is None and not packet.size:  # the end of a stream
            continue
        if time is None or packet.stream.type == "video":  # a cover has no time
            packet.pts = packet.dts = packet.duration = 0
            yield packet, tracks[packet.stream.index]
            continue
        ends = time + (packet.duration or 0)
        if end is not None and time * packet.time_base >= end:
            if time * packet.time_base > end + LATER:
                return
            continue
        if end is not None and packet.stream.type == "subtitle":
            ends = min(ends, round(end / packet.time_base))
            packet.duration = ends - time
        if start is not None:
            first = round(start / packet.time_base)
            if packet.stream.type == "subtitle" and ends > first:
                time = max(time, first)
            elif time < first:
                continue
            packet.pts = packet.dts = time - first
            packet.duration = ends - time
        elif packet.dts is None:
            packet.dts = time
        yield packet, tracks[packet.stream.index]
