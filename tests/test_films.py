"""Films: times of frames, sound, subtitles, chapters, aspect, colours, HDR, damage, interruption, numbered pictures.

They are made here by PyAV, tiny and short.
"""

import hashlib
import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from test_animations import Nearest

from cli import terminal
from images import film_encoding, film_reading, films, hdr, pictures
from utils import UserError

WIDTH, HEIGHT = 32, 24
TICK = Fraction(1, 1000)
STEADY = tuple(range(0, 400, 40))  # milliseconds
UNEVEN = (0, 40, 80, 200, 240, 280, 900, 940, 980, 2000)
PQ, HLG = 16, 18


def moving(count, height=HEIGHT, width=WIDTH):
    """uint8 [count, height, width, 3]: waves of three colours that move to the right, a pixel a frame."""
    y, x = np.mgrid[:height, : width + count]
    waves = [np.sin(x / 9 + y / 7), np.sin(x / 12 - y / 5), np.cos(x / 10 + y / 20)]
    picture = np.round(128 + 70 * np.stack(waves, axis=-1)).astype(np.uint8)
    return np.stack([picture[:, count - i : count - i + width] for i in range(count)])


def write_film(path, times=STEADY, frames=None, codec="libx264", pix_fmt="yuv420p", **settings):
    """Make a film of frames that begin at `times` in milliseconds; the last one lasts for 40.

    settings: rotation (degrees), flip, last (milliseconds), options of the encoder, sounds [(codec, texts,
    disposition)], subtitles [(text, begins, ends)], chapters [(title, begins, ends)], texts, format_options; the rest
    are attributes of the codec's context.
    """
    frames = moving(len(times)) if frames is None else frames
    settings = {"colorspace": 6, "color_primaries": 6, "color_trc": 6} | settings
    lasts = dict(zip(times, [*np.diff(times).tolist(), settings.pop("last", 40)], strict=True))
    options = settings.pop("options", {"crf": "4"} if codec == "libx264" else {})
    sounds, subtitles = settings.pop("sounds", ()), settings.pop("subtitles", ())
    turn = {key: settings.pop(key) for key in ("rotation", "flip") if key in settings}
    chapters, texts = settings.pop("chapters", []), settings.pop("texts", {})
    with av.open(str(path), "w", container_options=settings.pop("format_options", {})) as film:
        stream = film.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        stream.codec_context.time_base = TICK
        for key, value in settings.items():
            setattr(stream.codec_context, key, value)
        if turn:
            stream.set_display_rotation(turn.get("rotation", 0), hflip=turn.get("flip", False))
        tracks = [add_sound(film, *sound) for sound in sounds]
        text = film.add_mux_stream("subrip", time_base=TICK) if subtitles else None
        film.metadata.update(texts)
        film.set_chapters(
            [
                {"id": i, "start": a, "end": b, "time_base": TICK, "metadata": {"title": name}}
                for i, (name, a, b) in enumerate(chapters)
            ]
        )
        for words, begins, ends in subtitles:
            packet = av.Packet(words.encode())
            packet.stream, packet.time_base = text, TICK
            packet.pts = packet.dts = begins
            packet.duration = ends - begins
            film.mux(packet)
        for track in tracks:
            for packet in tone(track, (times[-1] + lasts[times[-1]]) / 1000):
                film.mux(packet)
        for time, pixels in zip(times, frames, strict=True):
            picture = picture_of(pixels, stream)
            picture.pts, picture.time_base = time, TICK
            mux(film, stream.encode(picture), lasts)
        mux(film, stream.encode(), lasts)
    return path


def mux(film, packets, lasts):
    for packet in packets:
        packet.duration = lasts[packet.pts]
        film.mux(packet)


def picture_of(pixels, stream):
    """An av.VideoFrame for uint8 or uint16 RGB, in the stream's colours."""
    matrix = {6: 5, 9: 9}.get(stream.codec_context.colorspace, 1)
    pixels = (
        pixels if pixels.dtype == np.uint8 else (pixels / 65535 * 65280).round().astype(np.uint16)
    )  # the scaler's white
    return av.VideoFrame.from_ndarray(pixels, format="rgb24" if pixels.dtype == np.uint8 else "rgb48le").reformat(
        format=stream.pix_fmt,
        dst_colorspace=matrix,
        dst_color_range=stream.codec_context.color_range or 1,
        interpolation=av.video.reformatter.Interpolation.BICUBIC
        | av.video.reformatter.Interpolation.FULL_CHR_H_INT
        | av.video.reformatter.Interpolation.ACCURATE_RND,
    )


def add_sound(film, codec, texts, disposition):
    stream = film.add_stream(codec, rate=48000)
    stream.codec_context.layout = "mono"
    stream.metadata.update(texts)
    stream.disposition = disposition
    return stream


def tone(stream, seconds):
    """Yield the packets of a tone."""
    wave = np.sin(np.arange(int(48000 * seconds)) * 0.06).astype(np.float32)[None]
    name = stream.codec_context.format.name
    wave = wave if name.startswith("flt") else (wave * 2**30).astype(np.int32)
    frame = av.AudioFrame.from_ndarray(wave, format=name, layout="mono")
    frame.sample_rate, frame.pts = 48000, 0
    size = stream.codec_context.frame_size or 1024
    fifo = av.AudioFifo()
    fifo.write(frame)
    while part := fifo.read(size, partial=True):
        yield from stream.encode(part)
    yield from stream.encode()


class Track:
    """What a stream of a film holds: packets' (begin, end) in milliseconds, sorted, and a digest of their bytes."""

    def __init__(self, path, index):
        digest, self.times = hashlib.md5(), []
        with av.open(str(path)) as film:
            stream = film.streams[index]
            self.kind, self.codec = stream.type, stream.codec_context.name if stream.codec_context else ""
            self.texts, self.disposition = dict(stream.metadata), int(stream.disposition)
            if self.kind == "video":
                self.aspect, self.tag = stream.sample_aspect_ratio, stream.codec_context.codec_tag
            for packet in film.demux(stream):
                if packet.size:
                    digest.update(bytes(packet))
                    time = packet.dts if film.format.name == "avi" else packet.pts
                    ends = time + (packet.duration or 0)
                    self.times.append(tuple(float(round(t * packet.time_base * 1000, 2)) for t in (time, ends)))
        self.times.sort()
        self.digest = digest.hexdigest()

    @property
    def begins(self):
        return [begin for begin, _ in self.times]


def tracks_of(path):
    with av.open(str(path)) as film:
        count = len([stream for stream in film.streams if stream.type in ("video", "audio", "subtitle")])
    return [Track(path, i) for i in range(count)]


def pictures_of(path):
    """[av.VideoFrame] of a film."""
    with av.open(str(path)) as film:
        return list(film.decode(video=0))


def pixels_of(path):
    """uint8 or uint16 [frames, h, w, 3] of a film, through the reader that is tested elsewhere here."""
    film = film_reading.look(path)
    return np.stack([frame.pixels for frame in film.frames(film.bits > 8, film.start, film.end)])


def difference(a, b):
    """The mean difference of two films' pixels in levels; b may be of half the size."""
    if a.shape != b.shape:
        b = b.repeat(2, axis=1).repeat(2, axis=2)
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


def upscale(source, target, upscaler=None, **options):
    """(films.Plan, remark) of a film that is upscaled; checks what is said of progress."""
    plan = films.plan(source, target, films.Options(**options), 1)
    done = []
    remark = films.upscale_film(plan, upscaler or Nearest(), done.append)
    width, height = plan.film.size
    assert sum(done) == len(plan.times) * width * height
    return plan, remark


def left(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------------------------------------------------------------
# Times


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
@pytest.mark.parametrize("times", [STEADY, UNEVEN])
def test_frames_keep_their_times(tmp_path, ending, times):
    """Each time and the whole length, at a constant and at a variable rate."""
    codec = {"codec": "libvpx-vp9"} if ending == "webm" else {}
    source = write_film(tmp_path / f"in.{ending}", times, **codec)
    upscale(source, tmp_path / f"out.{ending}")
    (track,) = tracks_of(tmp_path / f"out.{ending}")
    assert track.begins == list(times)
    with av.open(str(tmp_path / f"out.{ending}")) as film:
        assert abs(film.duration / 1000 - (times[-1] + 40)) < 2
    assert left(tmp_path) == [f"in.{ending}", f"out.{ending}"]


def test_a_still_longer_than_a_minute(tmp_path):
    source = write_film(tmp_path / "in.mp4", (0,), last=75_000)
    upscale(source, tmp_path / "out.mp4")
    assert tracks_of(tmp_path / "out.mp4")[0].times == [(0, 75_000)]
    upscale(source, tmp_path / "later.mp4", start=Fraction(0), end=Fraction(62))
    assert tracks_of(tmp_path / "later.mp4")[0].times == [(0, 62_000)]


def test_an_avi_has_a_constant_rate(tmp_path):
    """Its frames lie in the order in which they are shown; a film that changes its rate is refused before the work."""
    source = write_film(tmp_path / "in.mp4", sounds=[("libmp3lame", {}, 0)])
    upscale(source, tmp_path / "out.avi")
    picture, sound = tracks_of(tmp_path / "out.avi")
    assert picture.begins == list(STEADY) and sound.digest == tracks_of(source)[1].digest
    upscale(tmp_path / "out.avi", tmp_path / "again.mp4")
    assert tracks_of(tmp_path / "again.mp4")[0].begins == list(STEADY)
    with pytest.raises(UserError, match="changes its frame rate, which AVI cannot: .* such as .mkv"):
        upscale(write_film(tmp_path / "uneven.mp4", UNEVEN), tmp_path / "no.avi")


def test_part_of_a_film(tmp_path):
    """Frames, sound, subtitles and chapters of the part, from time 0 on."""
    times = tuple(range(0, 4000, 40))
    source = write_film(
        tmp_path / "in.mkv",
        times,
        sounds=[("aac", {}, 0)],
        subtitles=[
            ("before", 0, 500),
            ("across", 800, 1500),
            ("inside", 1600, 1800),
            ("end", 1900, 2600),
            ("no", 3000, 3100),
        ],
        chapters=[("one", 0, 900), ("two", 900, 1500), ("three", 1500, 4000)],
        options={"crf": "20", "g": "10"},
    )
    plan, _ = upscale(source, tmp_path / "out.mkv", start=Fraction(1), end=Fraction(2))
    assert plan.options.suffix == "_from1s_to2s"
    picture, sound, words = tracks_of(tmp_path / "out.mkv")
    assert picture.begins == [time - 1000 for time in times if 1000 <= time < 2000]
    wanted = [begin for begin in tracks_of(source)[1].begins if 1000 <= begin < 2000]
    assert sound.begins == [begin - 1000 for begin in wanted]
    assert words.times == [(0, 500), (600, 800), (900, 1000)]
    with av.open(str(tmp_path / "out.mkv")) as film:
        chapters = [
            (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in film.chapters()
        ]
    assert chapters == [("two", 0, 0.5), ("three", 0.5, 1)]
    assert difference(pixels_of(tmp_path / "out.mkv"), pixels_of(source)[25:50]) < 3
    with pytest.raises(UserError, match="lasts 4.00 s: there is no frame in the part"):
        upscale(source, tmp_path / "no.mkv", start=Fraction(5))


def test_times_of_the_command_line():
    assert [terminal.seconds(text) for text in ("90", "2.5s", "1:30", "1:02:03.5")] == [90, 2.5, 90, 3723.5]
    for text in ("", "x", "1:2:3:4", "-1", "1/2"):
        with pytest.raises(terminal.argparse.ArgumentTypeError, match="takes a time, such as 90"):
            terminal.seconds(text)
    options = films.Options(start=Fraction(62), end=Fraction("70.5"))
    assert options.suffix == "_from62s_to70.5s" and films.Options(end=Fraction(3), preview=True).suffix == "_preview"


@pytest.mark.parametrize(
    ("fps", "rate"), [(25.0, "25"), (29.97, "30000/1001"), (23.98, "24000/1001"), (59.94, "60000/1001"), (12.5, "25/2")]
)
def test_televisions_rates_are_exact(fps, rate):
    assert str(films.frame_rate(fps)) == rate


# ---------------------------------------------------------------------------------------------------------------------
# What goes beside the pictures

SOUNDS = [
    ("aac", {"language": "eng"}, av.stream.Disposition.default),
    ("aac", {"language": "deu", "title": "Kommentar"}, av.stream.Disposition.comment),
]
SUBTITLES = [("Hello", 40, 160), ("<i>General</i>", 200, 360)]
CHAPTERS = [("One", 0, 200), ("Two", 200, 400)]
TEXTS = {"title": "A film", "artist": "Somebody"}


@pytest.fixture
def rich(tmp_path):
    """A film with two sound tracks, subtitles, chapters and texts; MKV."""
    return write_film(tmp_path / "rich.mkv", sounds=SOUNDS, subtitles=SUBTITLES, chapters=CHAPTERS, texts=TEXTS)


def check_rich(path, source):
    picture, *sounds, words = tracks_of(path)
    assert [track.digest for track in sounds] == [track.digest for track in tracks_of(source)[1:3]]
    assert [track.texts["language"] for track in sounds] == ["eng", "deu"]
    assert "Kommentar" in sounds[1].texts.values()
    assert [track.disposition for track in sounds] == [disposition for *_, disposition in SOUNDS]
    with av.open(str(path)) as film:
        assert {key.lower(): text for key, text in film.metadata.items()}.items() >= TEXTS.items()
        chapters = [
            (c["metadata"]["title"], c["start"] * c["time_base"], c["end"] * c["time_base"]) for c in film.chapters()
        ]
        said = [line.dialogue for p in film.demux(subtitles=0) if p.size for line in p.decode() if line.dialogue]
    assert chapters == [(name, a * TICK, b * TICK) for name, a, b in CHAPTERS]
    assert [b"Hello" in said[0], b"General" in said[1]] == [True, True]
    assert [time for time in words.times if time in [(40, 160), (200, 360)]] == [(40, 160), (200, 360)]


def test_what_stands_beside_pictures_is_kept(tmp_path, rich):
    """In the same container, and in another one, whose subtitles are of another kind, and back."""
    upscale(rich, tmp_path / "out.mkv")
    check_rich(tmp_path / "out.mkv", rich)
    plan, _ = upscale(rich, tmp_path / "out.mp4")
    assert plan.notes == ("the subtitles (srt) become mov_text",)
    check_rich(tmp_path / "out.mp4", rich)
    upscale(tmp_path / "out.mp4", tmp_path / "again.mp4")
    check_rich(tmp_path / "again.mp4", rich)
    upscale(tmp_path / "again.mp4", tmp_path / "again.mkv")
    check_rich(tmp_path / "again.mkv", rich)


def test_sound_that_a_container_cannot_hold_is_encoded_anew(tmp_path, rich):
    plan, _ = upscale(rich, tmp_path / "out.webm")
    assert plan.notes == ("the sound (aac) becomes opus",) * 2 + ("the subtitles (srt) become webvtt",)
    picture, *sounds, words = tracks_of(tmp_path / "out.webm")
    assert [track.codec for track in (*sounds, words)] == ["opus", "opus", "webvtt"]
    assert all(abs(track.times[-1][1] - 400) < 30 for track in sounds) and picture.begins == list(STEADY)
    plan, _ = upscale(write_film(tmp_path / "plain.mkv", subtitles=SUBTITLES), tmp_path / "out.avi")
    assert plan.notes == ("the subtitles (srt) cannot be kept",)


def test_a_film_without_sound_and_phones_texts(tmp_path):
    texts = {"com.apple.quicktime.model": "a phone", "title": "A film"}
    source = write_film(tmp_path / "in.mov", texts=texts, format_options={"movflags": "use_metadata_tags"})
    upscale(source, tmp_path / "out.mov")
    assert len(tracks_of(tmp_path / "out.mov")) == 1
    with av.open(str(tmp_path / "out.mov")) as film:
        assert film.metadata.items() >= texts.items()


def test_a_track_of_data_is_told(tmp_path):
    source = write_film(tmp_path / "in.mov", texts={"timecode": "01:00:00:00"})
    plan, _ = upscale(source, tmp_path / "out.mov")
    assert plan.notes == ("a track of data (of an unknown kind) cannot be kept",)
    assert [track.begins for track in tracks_of(tmp_path / "out.mov")] == [list(STEADY)]


def test_a_cover_and_a_font_are_kept(tmp_path):
    """A cover is no film: its picture is copied."""
    source = tmp_path / "in.mkv"
    write_film(tmp_path / "plain.mkv")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "cover.jpg")
    with av.open(str(tmp_path / "plain.mkv")) as plain, av.open(str(source), "w") as film:
        track = film.add_stream_from_template(plain.streams.video[0], opaque=True)
        film.add_attachment("cover.jpg", "image/jpeg", (tmp_path / "cover.jpg").read_bytes())
        film.add_attachment("font.ttf", "font/ttf", b"letters")
        for packet in plain.demux():
            if packet.size:
                packet.stream = track
                film.mux(packet)
    upscale(source, tmp_path / "out.mkv")
    plan, _ = upscale(source, tmp_path / "out.mp4")
    assert plan.notes == ("an attachment (of an unknown kind) cannot be kept",)
    for ending in ("mkv", "mp4"):
        with av.open(str(tmp_path / f"out.{ending}")) as film:
            streams = list(film.streams)
            assert [stream.type for stream in streams[:2]] == ["video", "video"] and film_reading.is_cover(streams[1])
            cover = next(bytes(packet) for packet in film.demux(streams[1]) if packet.size)
            assert cover == (tmp_path / "cover.jpg").read_bytes()
            if ending == "mkv":
                assert streams[2].data == b"letters" and streams[2].name == "font.ttf"


# ---------------------------------------------------------------------------------------------------------------------
# Pictures: turned, wide, odd, their colours


@pytest.mark.parametrize(("rotation", "flip"), [(90, False), (180, False), (-90, False), (0, True), (90, True)])
def test_turned_films_become_upright(tmp_path, rotation, flip):
    """rotation counts against the clock, and a mirror comes behind it; wide pixels turn with them."""
    frames = moving(3)
    wide = {"sample_aspect_ratio": Fraction(4, 3)}
    source = write_film(tmp_path / "in.mp4", (0, 40, 80), frames, rotation=rotation, flip=flip, **wide)
    upscale(source, tmp_path / "out.mp4")
    turned = np.rot90(frames, rotation // 90, axes=(1, 2))
    assert difference(pixels_of(tmp_path / "out.mp4"), turned[:, :, ::-1] if flip else turned) < 3
    (track,) = tracks_of(tmp_path / "out.mp4")
    assert track.aspect == (Fraction(3, 4) if rotation % 180 else Fraction(4, 3))
    assert pictures_of(tmp_path / "out.mp4")[0].rotation == 0


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_the_shape_of_pixels_is_kept(tmp_path, ending):
    source = write_film(tmp_path / "in.mp4", sample_aspect_ratio=Fraction(16, 11))
    upscale(source, tmp_path / f"out.{ending}")
    assert tracks_of(tmp_path / f"out.{ending}")[0].aspect == Fraction(16, 11)


class Thrice(Nearest):
    scale = 3

    def upscale(self, image, progress):
        progress(image.shape[0] * image.shape[1])
        return image.repeat(3, axis=0).repeat(3, axis=1)


def test_odd_sides_become_even_for_browsers(tmp_path):
    source = write_film(tmp_path / "in.mp4", frames=moving(10, 25, 33), pix_fmt="yuv444p")
    _, remark = upscale(source, tmp_path / "out.mp4", Thrice())
    assert "the last column and row are there twice" in remark
    picture = pictures_of(tmp_path / "out.mp4")[0]
    assert (picture.width, picture.height, picture.format.name) == (100, 76, "yuv420p")
    after = pixels_of(tmp_path / "out.mp4")
    assert np.abs(after[:, -1].astype(int) - after[:, -2]).max() < 12
    moov, mdat = ((tmp_path / "out.mp4").read_bytes().index(name) for name in (b"moov", b"mdat"))
    assert moov < mdat  # it plays while it loads


# (matrix, primaries, transfer, full range) as H.273 counts; the luma of red and blue
@pytest.mark.parametrize(
    ("matrix", "primaries", "transfer", "red", "blue"),
    [(1, 1, 1, 0.2126, 0.0722), (6, 6, 6, 0.299, 0.114), (6, 5, 4, 0.299, 0.114)],
)
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_kept(tmp_path, matrix, primaries, transfer, red, blue, full):
    """Y, Cb and Cr of the result against the standards' formulas, and what the file says of them."""
    colour = np.array([200, 60, 30], np.uint8)
    source = write_film(
        tmp_path / "in.mp4",
        (0, 40),
        np.broadcast_to(colour, (2, HEIGHT, WIDTH, 3)).copy(),
        colorspace=matrix,
        color_primaries=primaries,
        color_trc=transfer,
        color_range=2 if full else 1,
    )
    upscale(source, tmp_path / "out.mp4")
    picture = pictures_of(tmp_path / "out.mp4")[0]
    said = (picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range)
    assert said == (matrix, primaries, transfer, 2 if full else 1)
    r, g, b = colour / 255
    y = red * r + (1 - red - blue) * g + blue * b
    expected = [y, (b - y) / 2 / (1 - blue), (r - y) / 2 / (1 - red)]
    scales = [(255, 0), (255, 128), (255, 128)] if full else [(219, 16), (224, 128), (224, 128)]
    for plane, value, (scale, offset) in zip(picture.planes, expected, scales, strict=True):
        assert abs(np.frombuffer(bytes(plane), np.uint8)[: plane.width].mean() - (scale * value + offset)) < 2


def test_what_a_file_does_not_say_is_what_players_take(tmp_path):
    """BT.601's matrix for television's sizes before HD, else BT.709's: the result, which is larger, says it."""
    unsaid = dict.fromkeys(("colorspace", "color_primaries", "color_trc"), 2)
    for height, matrix in {24: 6, 600: 1}.items():
        source = write_film(tmp_path / f"{height}.mp4", (0,), np.full((1, height, 32, 3), 90, np.uint8), **unsaid)
        assert pictures_of(source)[0].colorspace == 2
        upscale(source, tmp_path / "out.mp4")
        assert pictures_of(tmp_path / "out.mp4")[0].colorspace == matrix
        (tmp_path / "out.mp4").unlink()


# ---------------------------------------------------------------------------------------------------------------------
# Ten bits and HDR

LIGHT = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50):max-cll=1000,400"


def hdr_film(path, transfer=PQ, level=0.5081):
    """Frames of one gray in ten bits; 0.5081 is the code of 100 nits in PQ."""
    frames = np.full((3, HEIGHT, WIDTH, 3), round(level * 65535), np.uint16)
    options = {"x265-params": f"log-level=none:crf=4:{LIGHT}"}
    colours = {"colorspace": 9, "color_primaries": 9, "color_trc": transfer, "color_range": 1}
    return write_film(path, (0, 40, 80), frames, "libx265", "yuv420p10le", options=options, **colours)


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "hevc"), ("mov", "hevc"), ("mkv", "hevc"), ("mp4", "av1"), ("webm", "av1")]
)
@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_hdr_is_kept(tmp_path, ending, codec, transfer):
    source = hdr_film(tmp_path / "in.mp4", transfer)
    plan, _ = upscale(source, tmp_path / f"out.{ending}", codec=codec if (ending, codec) == ("mp4", "av1") else None)
    assert plan.codec == codec and not plan.notes
    picture = pictures_of(tmp_path / f"out.{ending}")[0]
    assert picture.format.name == "yuv420p10le"
    assert (picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range) == (9, 9, transfer, 1)
    level = np.frombuffer(bytes(picture.planes[0]), np.uint16).reshape(2 * HEIGHT, -1)[:, : 2 * WIDTH].mean()
    assert abs(level - (64 + 876 * 0.5081)) < 1.5
    light = film_reading.look(tmp_path / f"out.{ending}").light
    assert light["content"] == (1000, 400)
    assert np.allclose(light["display"], [0.68, 0.32, 0.265, 0.69, 0.15, 0.06, 0.3127, 0.329, 0.005, 1000], atol=1e-3)
    if ending != "mkv" and codec == "hevc":
        assert tracks_of(tmp_path / f"out.{ending}")[0].tag == "hvc1"  # else Apple's players show nothing


@pytest.mark.skipif(not os.path.isdir("/proc/self/task") or os.geteuid(), reason="Linux gives root alone such priority")
def test_encoders_do_not_go_before_everything_else(tmp_path):
    colour = film_reading.Colour(1, 1, 1, False)
    rate = Fraction(25)
    coding = film_encoding.Coding("av1", 22, (64, 64), False, 1 / rate, rate, Fraction(1), colour, {}, "mp4")
    before = set(os.listdir("/proc/self/task"))
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        film_encoding.open_encoder(container, coding)
        threads = set(os.listdir("/proc/self/task")) - before
        policies = {os.sched_getscheduler(int(thread)) for thread in threads}
        assert policies and not policies & {os.SCHED_FIFO, os.SCHED_RR}


@pytest.mark.parametrize(
    ("name", "options", "advice"),
    [("out.avi", {}, "give -o with .mp4"), ("out.mp4", {"codec": "h264"}, "--codec hevc")],
)
def test_hdr_that_cannot_be_kept_is_told_and_made_ordinary(tmp_path, name, options, advice):
    source = hdr_film(tmp_path / "in.mp4")
    plan, _ = upscale(source, tmp_path / name, **options)
    assert "its HDR (PQ) becomes ordinary light" in plan.notes[0] and advice in plan.notes[0]
    picture = pictures_of(tmp_path / name)[0]
    assert picture.format.name == "yuv420p"
    assert (picture.colorspace, picture.color_primaries, picture.color_trc) == (1, 1, 1)
    expected = 255 * (100 / 203) ** (1 / 2.2)  # 100 nits, of a white of 203
    assert abs(pixels_of(tmp_path / name).mean() - expected) < 2


def test_ten_bits_that_are_no_hdr(tmp_path):
    frames = np.full((3, HEIGHT, WIDTH, 3), 30000, np.uint16)
    options = {"x265-params": "log-level=none"}
    source = write_film(tmp_path / "in.mp4", (0, 40, 80), frames, "libx265", "yuv420p10le", options=options)
    assert upscale(source, tmp_path / "out.mp4")[0].codec == "hevc"
    assert abs(pixels_of(tmp_path / "out.mp4").mean() - 30000) < 100
    plan, _ = upscale(source, tmp_path / "out.avi")
    assert plan.notes == (
        "its colours get 8 bits, since h264 in .avi has no more here: give -o with .mp4 or .mkv to keep it",
    )
    assert abs(pixels_of(tmp_path / "out.avi").mean() - 30000 / 257) < 1.5


def test_ordinary_light():
    """Levels of the standards' tables: PQ's of 100, 203 and 1000 nits, HLG's 0.75 for white."""
    levels = (np.array([[[0, 0, 0], [0.5081] * 3, [0.5807] * 3, [0.7518] * 3]]) * 65535).round().astype(np.uint16)
    assert np.allclose(hdr.curve("PQ")[levels[0, 1:, 0]], [100, 203, 1000], rtol=2e-3)
    gray = hdr.to_sdr(levels, "PQ")[0]
    assert (gray == gray[:, :1]).all() and list(gray[:, 0]) == sorted(set(gray[:, 0])) and gray[0, 0] == 0
    white = hdr.to_sdr(np.full((1, 1, 3), round(0.75 * 65535), np.uint16), "HLG")[0, 0, 0]
    assert abs(int(white) - int(gray[2, 0])) <= 1 and 225 < white < 245
    red = hdr.to_sdr(np.array([[[30000, 0, 0]]], np.uint16), "PQ")[0, 0]  # outside BT.709: as far as it goes
    assert red[0] > 0 and red[1] == red[2] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Interlaced


def test_interlaced_films(tmp_path):
    """They are told, and --deinterlace makes pictures nearer to those of a camera that takes whole frames."""
    whole = np.full((20, 48, 64, 3), 40, np.uint8)
    for i, frame in enumerate(whole):
        frame[10:40, 2 * i : 2 * i + 20] = 200
    woven = whole[::2].copy()
    woven[:, ::2] = whole[1::2, ::2]  # the lower lines are the earlier ones
    options = {"crf": "4", "x264-params": "bff=1"}
    source = write_film(tmp_path / "in.mp4", STEADY, woven, options=options)
    plan, _ = upscale(source, tmp_path / "out.mp4")
    assert "is interlaced" in plan.notes[0] and "--deinterlace" in plan.notes[0]
    plan, _ = upscale(source, tmp_path / "mended.mp4", deinterlace=True)
    assert not plan.notes and tracks_of(tmp_path / "mended.mp4")[0].begins == list(STEADY)
    combed, mended = (difference(pixels_of(tmp_path / name), whole[::2]) for name in ("out.mp4", "mended.mp4"))
    assert mended < 0.75 * combed


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be read


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_film_cut_in_half_is_told(tmp_path, ending):
    """Before any work; what is there can be asked for."""
    times = tuple(range(0, 4000, 40))
    extra = (
        {"time_base": Fraction(1, 25), "max_b_frames": 0}
        if ending == "avi"
        else {"format_options": {"movflags": "faststart"}}
    )
    if ending == "avi":
        upscale(write_film(tmp_path / "in.mp4", times), tmp_path / "in.avi")
    else:
        write_film(tmp_path / f"in.{ending}", times, **extra)
    content = (tmp_path / f"in.{ending}").read_bytes()
    (tmp_path / f"half.{ending}").write_bytes(content[: len(content) * 6 // 10])
    target = tmp_path / f"out.{ending}"
    with pytest.raises(UserError, match=r"is cut off or damaged: it ends after [123].*--to ([\d.]+) takes") as told:
        upscale(tmp_path / f"half.{ending}", target)
    assert not list(tmp_path.glob("*out*"))
    end = Fraction(str(told.value).split("--to ")[1].split()[0])
    upscale(tmp_path / f"half.{ending}", target, end=end)
    assert 20 < len(tracks_of(target)[0].times) < 80


def test_damage_in_the_middle_is_told(tmp_path):
    source = tmp_path / "in.mkv"
    write_film(tmp_path / "whole.mkv", sounds=[("aac", {}, 0)])
    with av.open(str(tmp_path / "whole.mkv")) as whole, av.open(str(source), "w") as film:
        tracks = [film.add_stream_from_template(stream, opaque=True) for stream in whole.streams]
        for i, packet in enumerate(whole.demux(video=0)):
            if packet.size:
                new = av.Packet(bytes(50) if i == 5 else bytes(packet))
                new.stream, new.time_base, new.pts, new.dts = tracks[0], packet.time_base, packet.pts, packet.dts
                film.mux(new)
    with pytest.raises(UserError, match="is damaged, or no film of a kind that is read"):
        upscale(source, tmp_path / "out.mkv")
    assert left(tmp_path) == ["in.mkv", "whole.mkv"]


def manifests(secret):
    """{name: text of a file that names another one}."""
    dash = f"""<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
    mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1">
    <BaseURL>{secret}</BaseURL></Representation></AdaptationSet></Period></MPD>"""
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"
    return {"dash": dash, "hls": hls, "list": f"ffconcat version 1.0\nfile '{secret.name}'\n"}


@pytest.mark.parametrize("kind", ["dash", "hls", "list"])
def test_manifests_are_refused(tmp_path, kind, monkeypatch):
    """A file that names other files of the machine is no film, whatever it is called; nor as an upload."""
    from web import compare

    secret = write_film(tmp_path / "secret.mp4")
    (tmp_path / "x.mp4").write_text(manifests(secret)[kind])
    for upload in (
        lambda: films.plan(tmp_path / "x.mp4", tmp_path / "out.mp4", films.Options(), 1),
        lambda: compare.read_upload("x.mp4", (tmp_path / "x.mp4").read_bytes(), 4, 1),
    ):
        with pytest.raises(UserError, match="no film of a kind that is read"):
            upload()
    if kind == "list":  # that the whitelist is what refuses it
        monkeypatch.setattr(film_reading, "SAFE", {})
        assert len(films.plan(tmp_path / "x.mp4", tmp_path / "out.mp4", films.Options(), 1).times) == len(STEADY)


def test_what_is_no_film(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mkv").write_text("no video")
    with av.open(str(tmp_path / "sound.mp4"), "w") as film:
        track = add_sound(film, "aac", {}, 0)
        for packet in tone(track, 0.2):
            film.mux(packet)
    for name, words in {
        "empty.mp4": "is empty",
        "text.mkv": "no film of a kind that is read",
        "sound.mp4": "there are no moving pictures in it",
    }.items():
        with pytest.raises(UserError, match=words):
            films.plan(tmp_path / name, tmp_path / "out.mp4", films.Options(), 1)
    source = write_film(tmp_path / "in.mp4")
    with pytest.raises(UserError, match="32×24 pixels a frame, more than --max-megapixels 0.0001"):
        films.plan(source, tmp_path / "out.mp4", films.Options(), 0.0001)
    with pytest.raises((UserError, OSError)):
        upscale(source, tmp_path / "nowhere" / "out.mp4")
    with pytest.raises(FileNotFoundError):
        films.plan(tmp_path / "nothing.mp4", tmp_path / "out.mp4", films.Options(), 1)


def test_frames_that_are_missing_in_the_result_are_told(tmp_path, monkeypatch):
    """By the count of the finished file: it does not appear, and what was done is kept."""
    source = write_film(tmp_path / "in.mp4")
    count = film_reading.count_pictures
    monkeypatch.setattr(film_reading, "count_pictures", lambda path: count(path) - 1)
    with pytest.raises(UserError, match="9 of 10 frames are in it"):
        upscale(source, tmp_path / "out.mp4")
    assert left(tmp_path) == [".out.mp4.parts", "in.mp4"]


# ---------------------------------------------------------------------------------------------------------------------
# Encoders


def test_codecs_and_crf(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (10, HEIGHT, WIDTH, 3)).astype(np.uint8)
    source = write_film(tmp_path / "in.mp4", frames=frames)
    sizes = []
    for crf in (None, 40):
        upscale(source, tmp_path / f"{crf}.mp4", crf=crf)
        sizes.append((tmp_path / f"{crf}.mp4").stat().st_size)
    assert sizes[0] > 2 * sizes[1]
    for codec, name in {"hevc": "hevc", "av1": "libdav1d", "vp9": "vp9"}.items():
        upscale(source, tmp_path / f"{codec}.mkv", codec=codec)
        track, picture = tracks_of(tmp_path / f"{codec}.mkv")[0], pictures_of(tmp_path / f"{codec}.mkv")[0]
        assert track.codec == name and picture.format.name == "yuv420p" and track.begins == list(STEADY)
    with pytest.raises(UserError, match=r"cannot become h264 in .webm, which holds vp9 or av1 here"):
        upscale(source, tmp_path / "no.webm", codec="h264")
    with pytest.raises(UserError, match="its crf ends at 51"):
        upscale(source, tmp_path / "no.mp4", crf=60)


# ---------------------------------------------------------------------------------------------------------------------
# Interrupted


class Stopping(Nearest):
    """Is interrupted behind so many frames; counts them."""

    def __init__(self, after):
        self.after, self.count = after, -1  # the first call is that of the probe

    def upscale(self, image, out=None, alpha=True, progress=None):
        if self.count == self.after:
            raise KeyboardInterrupt
        self.count += 1
        return super().upscale(image, out, alpha, progress)


@pytest.mark.parametrize(("ending", "times"), [("mp4", UNEVEN), ("mkv", UNEVEN), ("avi", STEADY)])
def test_the_next_call_goes_on(tmp_path, ending, times, capsys):
    """Behind the frames that are done; the result has the same frames and times as one without interruptions."""
    source = write_film(tmp_path / "in.mp4", times, sounds=[("libmp3lame", {}, 0)])
    target = tmp_path / f"out.{ending}"
    for after, done in ((3, 3), (4, 7)):
        with pytest.raises(KeyboardInterrupt):
            upscale(source, target, Stopping(after))
        assert f"{done} of 10 frames are kept: the same command goes on" in capsys.readouterr().err
        assert left(tmp_path) == [f".out.{ending}.parts", "in.mp4"]
    last = Stopping(100)
    _, remark = upscale(source, target, last)
    assert last.count == 3 and "7 of 10 frames were there from an earlier call" in remark
    assert left(tmp_path) == ["in.mp4", f"out.{ending}"]
    upscale(source, tmp_path / f"whole.{ending}")
    for name in ("out", "whole"):
        picture, sound = tracks_of(tmp_path / f"{name}.{ending}")
        assert picture.begins == list(times) and sound.digest == tracks_of(source)[1].digest
        with av.open(str(tmp_path / f"{name}.{ending}")) as film:
            order = [packet.dts for packet in film.demux(video=0) if packet.dts is not None]
            assert order == sorted(set(order))
    assert difference(pixels_of(target), pixels_of(tmp_path / f"whole.{ending}")) < 2


def test_a_power_cut_loses_one_segment(tmp_path, monkeypatch):
    """Segments that are finished are kept, what was open is not; other settings, and another network, begin anew."""
    monkeypatch.setattr(film_encoding, "SECONDS", -1)
    monkeypatch.setattr(film_encoding, "LEAST", 4)
    source = write_film(tmp_path / "in.mp4")

    def interrupt(upscaler, **options):
        with monkeypatch.context() as cut:
            cut.setattr(film_encoding.Segments, "finish", cut_power(film_encoding.Segments.finish))
            with pytest.raises(KeyboardInterrupt):
                upscale(source, tmp_path / "out.mp4", upscaler, **options)

    interrupt(Stopping(6))
    assert len(list((tmp_path / ".out.mp4.parts").glob("*_4_*.mp4"))) == 1
    interrupt(second := Stopping(5))
    assert second.count == 5 and len(list((tmp_path / ".out.mp4.parts").glob("*_4_*.mp4"))) == 2
    interrupt(third := Stopping(1), crf=30)
    assert third.count == 1 and not list((tmp_path / ".out.mp4.parts").glob("*_4_*.mp4"))

    class Dark(Nearest):
        count = 0

        def upscale(self, image, out=None, alpha=True, progress=None):
            self.count += 1
            return super().upscale(image, out, alpha, progress) // 2

    interrupt(Stopping(6))
    upscale(source, tmp_path / "out.mp4", dark := Dark())
    assert dark.count == 1 + 10 and pixels_of(tmp_path / "out.mp4").mean() < 0.7 * pixels_of(source).mean()


def cut_power(finish):
    """Segments.finish, except where it is called after an interruption."""
    import sys

    def method(self):
        if sys.exc_info()[0] is not KeyboardInterrupt:
            finish(self)

    return method


# ---------------------------------------------------------------------------------------------------------------------
# Numbered pictures


def test_a_film_becomes_pictures_and_a_film_again(tmp_path):
    source = write_film(tmp_path / "in.mp4")
    (tmp_path / "f").mkdir()
    assert films.is_film(tmp_path / "f" / "%03d.png") and not films.is_film(tmp_path / "f" / "1.png")
    upscale(source, tmp_path / "f" / "%03d.png")
    assert left(tmp_path / "f") == [f"{i:03}.png" for i in range(1, 11)]
    expected = pixels_of(source).repeat(2, axis=1).repeat(2, axis=2)
    shown = np.stack([np.asarray(Image.open(path)) for path in sorted((tmp_path / "f").iterdir())])
    assert np.array_equal(shown, expected)
    with Image.open(tmp_path / "f" / "001.png") as image:
        assert image.getexif()[pictures.PROCESSED_BY] == pictures.MARK
    before = (tmp_path / "f" / "001.png").stat().st_mtime_ns
    (tmp_path / "f" / "004.png").unlink()
    _, remark = upscale(source, tmp_path / "f" / "%03d.png")
    assert "9 of 10 pictures were there before" in remark
    assert (tmp_path / "f" / "001.png").stat().st_mtime_ns == before and (tmp_path / "f" / "004.png").exists()
    upscale(tmp_path / "f" / "%03d.png", tmp_path / "out.mp4", fps=Fraction(30000, 1001))
    (track,) = tracks_of(tmp_path / "out.mp4")
    assert np.allclose(track.begins, [i * 1001 / 30 for i in range(10)], atol=0.01)
    assert difference(pixels_of(tmp_path / "out.mp4"), shown) < 2
    (tmp_path / "f" / "005.png").unlink()
    with pytest.raises(UserError, match="005.png is missing"):
        upscale(tmp_path / "f" / "%03d.png", tmp_path / "no.mp4")


def test_numbered_pictures_of_other_kinds(tmp_path):
    """HDR becomes PNGs that say so, 16 bits a film of ten; one of another size is named."""
    (tmp_path / "f").mkdir()
    upscale(hdr_film(tmp_path / "in.mp4"), tmp_path / "f" / "%d.png")
    content = (tmp_path / "f" / "1.png").read_bytes()
    assert b"cICP" + bytes([9, PQ, 0, 1]) in content and content[24] == 16
    plan, _ = upscale(tmp_path / "f" / "%d.png", tmp_path / "out.mp4", end=Fraction(2, 25))
    assert plan.codec == "hevc" and len(plan.times) == 2
    assert abs(pixels_of(tmp_path / "out.mp4").mean() - 0.5081 * 65535) < 300
    plan, _ = upscale(tmp_path / "f" / "%d.png", tmp_path / "f" / "%d.jpg")
    assert left(tmp_path / "f") == ["1.jpg", "1.png", "2.jpg", "2.png", "3.jpg", "3.png"]
    Image.new("RGB", (9, 8)).save(tmp_path / "f" / "2.png")
    with pytest.raises(UserError, match="2.png has 9×8 pixels, the first picture 64×48"):
        upscale(tmp_path / "f" / "%d.png", tmp_path / "no.mp4")
    assert not list(tmp_path.glob("*no*"))
