"""Upscaling frame by frame: animated GIF, WebP and PNG by Pillow, videos by imageio-ffmpeg, which includes ffmpeg.

An animation keeps its frames' durations and loops, a video its frame rate and its first sound track, copied unchanged.
ffmpeg applies a video file's rotation.
"""

import importlib.util
import logging
import math
from fractions import Fraction
from pathlib import Path

import numpy as np

import utils
from images import pictures
from utils import LazyModule, UserError

imageio_ffmpeg = LazyModule("imageio_ffmpeg")

logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it warns about every rotated video
# Written into the file: without it, players and ffmpeg guess different colours for large pictures.
COLOURS = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-color_range", "tv"]
COLOURS += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
# {file ending: (encoder, its options)}; at this quality the loss is hardly visible
ENCODERS = dict.fromkeys((".mp4", ".mov", ".mkv", ".avi", ".m4v"), ("libx264", ["-crf", "16", "-preset", "medium"]))
ENCODERS[".webm"] = ("libvpx-vp9", ["-crf", "20", "-b:v", "0"])
SUFFIXES = tuple(ENCODERS)
ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG"}  # {file ending: Pillow's name}


# ---------------------------------------------------------------------------------------------------------------------
# Animations


def frames_of(image, target):
    """The number of frames of an opened Pillow image for the file `target`. Raises UserError if it cannot hold them.

    A PNG's poster, which is shown where animations are not known, is one of them if `target` is a PNG too.
    """
    try:
        frames = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "PNG") else 1
    except Exception as error:  # Pillow raises many kinds, as in pictures.read
        raise pictures.unreadable(error) from error
    ending = target.suffix.lower()
    if frames > 1 and ending not in ANIMATED:
        raise UserError(
            f"is an animation of {frames} frames, which {target.name} cannot hold: take {', '.join(ANIMATED)}"
        )
    return frames - (has_poster(image) and ending != ".png")


def has_poster(image):
    """Whether the first picture of an opened PNG is no frame of its animation."""
    return image.info.get("default_image", False)


def upscale_animation(path, target, upscaler, max_megapixels, progress):
    """Upscale all frames of an animation into `target`; its ending (.gif, .webp or .png) determines the format.

    All frames of the output stay in memory to the end, as Pillow requires. progress: called with the number of LR
    pixels done. Raises UserError.
    """
    with pictures.opened(path, max_megapixels) as image:
        format_name = ANIMATED[target.suffix.lower()]
        try:
            kept = pictures.facts_of(path, image)
            durations, transparent, comments = look_through(image)
        except UserError:
            raise
        except Exception as error:  # Pillow raises many kinds, as in pictures.read
            raise pictures.unreadable(error) from error

        longest = {"WEBP": 16383, "GIF": 65535}.get(format_name, 2**31)
        if upscaler.scale * max(image.size) > longest:
            raise UserError(f"would become larger than {longest} pixels a side, the most of {format_name}")
        poster, first = has_poster(image), 0
        if poster and format_name != "PNG":
            poster, first = False, 1

        def frames():
            for i in range(first, len(durations)):
                pictures.seek(image, i)
                kind = "RGBA" if transparent else "RGB"
                frame = pictures.Picture(image.convert(kind), kind)
                frame = upscaler.upscale(frame, frame.canvas(upscaler.scale), progress=progress).pixels
                if format_name == "GIF" and transparent:  # a GIF's pixels are transparent or not
                    alpha = frame.getchannel("A").point(lambda a: 255 * (a > 127))
                    frame.putalpha(alpha)
                yield frame

        kept, _ = pictures.metadata_for(format_name.lower(), kept, [upscaler.scale * side for side in image.size])
        options = pictures.options_for(format_name.lower(), kept)
        options |= {"loop": image.info["loop"]} if "loop" in image.info else {}
        times = durations[first + poster :]
        if format_name != "PNG" or len(durations) > 1:
            options |= {"duration": times if len(times) > 1 else times[0]}
        if format_name == "PNG":
            options |= {"default_image": poster}
        if format_name == "GIF":
            options |= {"disposal": 2} if transparent else {}
            options |= {"comment": b"\n".join(comments)} if comments else {}
        if format_name == "WEBP":
            options |= {"method": 4}

        def write(temporary):
            start, *rest = frames()
            try:
                start.save(temporary, format=format_name, save_all=True, append_images=rest, **options)
            except (ValueError, TypeError, KeyError) as error:  # durations or colours that the format cannot store
                raise UserError(f"cannot be written as {format_name} ({utils.short(error)})") from error

        utils.write_atomically(target, write)


def look_through(image):
    """([milliseconds of each frame], whether any has transparent parts, [comment]); decodes all frames once."""
    durations, transparent, comments = [], False, {}
    for i in range(getattr(image, "n_frames", 1)):
        pictures.seek(image, i)
        image.load()
        durations.append(image.info.get("duration", 0))
        if image.info.get("comment"):
            comments[image.info["comment"]] = None
        if image.has_transparency_data and not transparent:
            transparent = image.convert("RGBA").getchannel("A").getextrema()[0] < 255
    return durations, transparent, list(comments)


# ---------------------------------------------------------------------------------------------------------------------
# Videos


def check_installed():
    """Raise UserError if imageio-ffmpeg is not installed."""
    if not importlib.util.find_spec("imageio_ffmpeg"):
        raise UserError("videos need imageio-ffmpeg: pip install imageio-ffmpeg")


def describe(path, max_megapixels):
    """(approximate number of frames, (height, width)) of a video. Raises UserError if it is no video or too large."""
    reader, meta = open_reader(path)
    reader.close()
    width, height = meta["size"]
    if width * height > max_megapixels * 1e6:
        raise UserError(f"has {width}×{height} pixels a frame, more than --max-megapixels {max_megapixels:g} allows")
    return max(round(meta["duration"] * meta["fps"]), 1), (height, width)


def open_reader(path):
    """(generator of frames as bytes, imageio-ffmpeg's metadata) of a video. Raises UserError if it is none."""
    check_installed()
    try:
        reader = imageio_ffmpeg.read_frames(path, pix_fmt="rgb24")
        meta = next(reader)
        if not (meta["fps"] > 0 and min(meta["size"]) > 0 and math.isfinite(meta["duration"])):
            raise ValueError("no pictures in it")
        return reader, meta
    except Exception as error:  # imageio-ffmpeg raises many kinds
        raise UserError(f"is not a video that ffmpeg can read ({utils.short(error)})") from error


def frame_rate(fps):
    """The exact Fraction for a rate that ffmpeg prints with two digits: television's 29.97 is 30000/1001."""
    television = Fraction(round(fps * 1.001) * 1000, 1001)
    if not float(fps).is_integer() and abs(float(television) - fps) < 0.006:
        return television
    return Fraction(fps).limit_denominator(1000)


def upscale_video(path, target, upscaler, progress):
    """Upscale a video into `target`, frame by frame. progress: called with LR pixels done. Raises UserError."""
    reader, meta = open_reader(path)
    width, height = meta["size"]
    codec, options = ENCODERS[target.suffix.lower()]
    sizes = (upscaler.scale * width, upscaler.scale * height)
    sound = {"audio_path": str(path), "audio_codec": "copy"} if meta.get("audio_codec") else {}

    def write(temporary):
        writer = imageio_ffmpeg.write_frames(
            temporary,
            sizes,
            fps=frame_rate(meta["fps"]),
            codec=codec,
            quality=None,
            macro_block_size=1,
            pix_fmt_out="yuv444p" if sizes[0] % 2 or sizes[1] % 2 else "yuv420p",
            ffmpeg_log_level="quiet",
            output_params=[*options, *COLOURS],
            **sound,
        )
        writer.send(None)
        count = 0
        try:
            for frame in reader:
                frame = np.frombuffer(frame, np.uint8).reshape(height, width, 3)
                writer.send(upscaler.upscale(frame, progress=progress).tobytes())
                count += 1
        finally:
            writer.close()
        # imageio-ffmpeg does not report whether ffmpeg succeeded.
        if not count:
            raise UserError("has no frame that can be decoded")
        written = imageio_ffmpeg.count_frames_and_secs(temporary)[0] if Path(temporary).is_file() else 0
        if written != count:
            raise UserError(f"{target} cannot be written: ffmpeg wrote {written} of {count} frames")

    try:
        utils.write_atomically(target, write)
    finally:
        reader.close()
