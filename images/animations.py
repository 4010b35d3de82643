"""Animated GIF, WebP and PNG, upscaled frame by frame by Pillow: the frames' durations, loops and comments are kept."""

import utils
from images import pictures
from utils import UserError

ANIMATED = {".gif": "GIF", ".webp": "WEBP", ".png": "PNG"}  # {file ending: Pillow's name}


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
