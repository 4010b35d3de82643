"""The test sets: read, recognised by their pixels, and the self-test by bicubic before anything is scored.

A kernel, a rounding, a border or a colour conversion that is slightly wrong costs some tenths of a dB and looks like a
bad model. MATLAB's bicubic has known figures on the three sets; an evaluation that does not reach them is refused.
"""

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

import data
import utils
from images import degradation, hashes, pictures
from scoring import manifests, metrics
from utils import UserError

# What bicubic, down and up, gives over a set at a scale: PSNR-Y in dB, SSIM-Y (Wang), PSNR-RGB in dB and at ×4 the
# paper's SSIM. docs/metrics.md sets them beside published ones.
KNOWN = {
    ("Set5", 2): {"psnr_y": 33.640, "ssim_y": 0.9292, "psnr_rgb": 31.787},
    ("Set5", 3): {"psnr_y": 30.385, "ssim_y": 0.8678, "psnr_rgb": 28.624},
    ("Set5", 4): {"psnr_y": 28.416, "ssim_y": 0.8101, "psnr_rgb": 26.692, "ssim_paper": 0.8201},
    ("Set5", 8): {"psnr_y": 24.389, "ssim_y": 0.6570, "psnr_rgb": 22.738},
    ("Set14", 2): {"psnr_y": 30.218, "ssim_y": 0.8683, "psnr_rgb": 28.518},
    ("Set14", 3): {"psnr_y": 27.530, "ssim_y": 0.7737, "psnr_rgb": 25.944},
    ("Set14", 4): {"psnr_y": 25.990, "ssim_y": 0.7023, "psnr_rgb": 24.462, "ssim_paper": 0.7480},
    ("Set14", 8): {"psnr_y": 23.087, "ssim_y": 0.5633, "psnr_rgb": 21.628},
    ("BSD100", 2): {"psnr_y": 29.547, "ssim_y": 0.8426, "psnr_rgb": 28.230},
    ("BSD100", 3): {"psnr_y": 27.202, "ssim_y": 0.7382, "psnr_rgb": 25.884},
    ("BSD100", 4): {"psnr_y": 25.956, "ssim_y": 0.6672, "psnr_rgb": 24.635, "ssim_paper": 0.6933},
    ("BSD100", 8): {"psnr_y": 23.664, "ssim_y": 0.5435, "psnr_rgb": 22.327},
}
# The first 16 digits of lr_digest of each set's LR images. Set5's are equal to MATLAB's own files, pixel by pixel.
# PSNR is not enough: Pillow's bicubic differs in every sixth pixel, but by only 0.001 dB on Set5.
LR_DIGESTS = {
    ("Set5", 2): "a289c111fb23c024",
    ("Set5", 3): "165d36a48d61865a",
    ("Set5", 4): "ade37504e9e22a2b",
    ("Set5", 8): "e6926ebb0d55ce91",
    ("Set14", 2): "e2d0a4d6523af0f6",
    ("Set14", 3): "fc60b38b8492a16a",
    ("Set14", 4): "a5180d0a3b4e1314",
    ("Set14", 8): "6f929ea0b2bcc3b1",
    ("BSD100", 2): "1e45f7d0f48e3c55",
    ("BSD100", 3): "ec4f137987b236b0",
    ("BSD100", 4): "60f6383044a8cabb",
    ("BSD100", 8): "8f7f7a131a79a88b",
}
# What bicubic is published to give on hashes.COUNTS, whose pixels are not known here. Others round in other places.
PUBLISHED = {
    ("Urban100", 4): {"psnr_y": 23.14, "ssim_y": 0.6577},
    ("Manga109", 4): {"psnr_y": 24.89, "ssim_y": 0.7866},
}
LOOSE = {"psnr_y": 0.02, "ssim_y": 0.001}
TOLERANCE = {"psnr_y": 0.005, "ssim_y": 0.0005, "psnr_rgb": 0.005, "ssim_paper": 0.0005}


class Known(NamedTuple):
    """What bicubic must give on a set at a scale: its scores, their tolerance, and how LR's digest begins, or None."""

    scores: dict
    tolerance: dict
    lr: str | None = None


def known_of(set_name, scale, manifest=None):
    """The Known of a set, None if there is none; manifest: of a set of one's own (manifests.py), or None."""
    if (set_name, scale) in KNOWN:
        return Known(KNOWN[set_name, scale], TOLERANCE, LR_DIGESTS[set_name, scale])
    if (set_name, scale) in PUBLISHED:
        return Known(PUBLISHED[set_name, scale], LOOSE)
    if row := manifest and manifest["bicubic"].get(str(scale)):
        return Known({name: row[name] for name in manifests.MEASURES}, TOLERANCE, row["lr"])
    return None


class Image(NamedTuple):
    """An image to score on: its name, HR uint8 [h, w, 1 or 3] and LR uint8 [h/scale, w/scale, 1 or 3]."""

    name: str
    hr: np.ndarray
    lr: np.ndarray

    @property
    def hr_size(self):
        return self.hr.shape[:2]

    @property
    def lr_size(self):
        return self.lr.shape[:2]

    @property
    def uncut(self):
        return self.hr_size

    @property
    def digest(self):
        return hashes.pixel_hash(self.hr)


KEPT = 2**27  # bytes of decoded images: the three sets whole; all rows of an image are scored one after the other


class Decoded(NamedTuple):
    """A file's pixels: the whole image, HR and LR as an Image has them, and how far a LR of its own is from ours.

    apart: PSNR in dB between a LR file and MATLAB's bicubic of HR, inf if they are equal or there is no file.
    """

    image: np.ndarray
    hr: np.ndarray
    lr: np.ndarray
    apart: float

    @property
    def bytes(self):
        return self.image.nbytes + self.lr.nbytes


class Decoder:
    """From a path to its Decoded pixels at a scale; of those used last, KEPT bytes are kept. Threads may share it."""

    def __init__(self, scale):
        self.scale, self.kept, self.bytes, self.lock = scale, OrderedDict(), 0, threading.Lock()

    def __call__(self, path):
        """The Decoded pixels of a file. Raises UserError if it cannot be used."""
        with self.lock:
            if path in self.kept:
                self.kept.move_to_end(path)
                return self.kept[path]
        decoded = self.decode(path)
        with self.lock:
            if path not in self.kept:
                self.kept[path] = decoded
                self.bytes += decoded.bytes
            while self.bytes > KEPT:
                self.bytes -= self.kept.popitem(last=False)[1].bytes
        return decoded

    def decode(self, path):
        scale = self.scale
        image = pictures.read_image(path)
        smallest = -(-11 // scale) * scale + 2 * scale  # SSIM's window and the border, in whole multiples of the factor
        if min(image.shape[:2]) < smallest:
            raise UserError(f"{path} is smaller than {smallest}×{smallest}")
        hr = utils.mod_crop(image, scale)
        lr = utils.imresize(hr, 1 / scale)
        if not (theirs := lr_file(path, scale)):
            return Decoded(image, hr, lr, math.inf)
        own = utils.to_rgb(pictures.read_image(theirs))[..., : image.shape[-1]]
        if own.shape != lr.shape:
            sizes = " and not ".join(f"{size[1]}×{size[0]}" for size in (own.shape, lr.shape))
            raise UserError(f"{theirs} is {sizes} pixels, as LR of {path.name} at ×{scale} is")
        return Decoded(image, hr, own, metrics.psnr(own, lr))


@dataclass
class ImageFile:
    """An Image whose pixels are read again when they are needed, so that a set takes no memory.

    decode: a Decoder; channels: how many of theirs are its own; hr_size, lr_size: (height,
    width); uncut: HR's before it was cut to multiples of the scale; digest: the hash of HR's pixels, and of LR's where
    that is not MATLAB's bicubic; jpeg: the quality of the JPEG that LR is saved as, or None.
    """

    name: str
    path: Path
    decode: Decoder
    channels: int
    hr_size: tuple
    lr_size: tuple
    uncut: tuple
    digest: str
    jpeg: int | None = None

    @property
    def hr(self):
        return self.decode(self.path).hr[..., : self.channels]

    @property
    def lr(self):
        lr = self.decode(self.path).lr[..., : self.channels]
        return degradation.jpeg(lr, self.jpeg) if self.jpeg else lr


def lr_file(path, scale):
    """The LR that lies beside an HR file, or None: NAME_HR/0801.png has NAME_LR_bicubic/X4/0801x4.png, as in DIV2K."""
    if not data.HR_FOLDER.search(path.parent.name):
        return None
    folder = path.parent.with_name(data.HR_FOLDER.sub(r"\1LR_bicubic", path.parent.name)) / f"X{scale}"
    names = (f"{stem}{suffix}" for stem in (f"{path.stem}x{scale}", path.stem) for suffix in utils.IMAGE_SUFFIXES)
    return next((folder / name for name in names if (folder / name).is_file()), None)


@dataclass
class ImageSet:
    """The images of a set, and why their means cannot be compared with published ones: a clause, or None.

    manifest: of a set of one's own that has one, see manifests.py.
    """

    images: list
    doubt: str | None = None
    manifest: dict | None = None


def read_sets(sets, scale, pool):
    """{set: ImageSet} of {set: paths}; HR is cropped to multiples of the scale, and unusable images are printed.

    A set of testsets.json that is not complete, or has other pixels, gets a doubt. pool: Executor for the reading.
    Raises UserError if a set has no image that can be used.
    """
    decode = Decoder(scale)
    return {name: read_set(name, paths, scale, pool, decode) for name, paths in sets.items()}


def with_jpegs(sets, qualities):
    """{set: ImageSet} and for each quality the same sets as "SET-jpegQUALITY", their LR saved as JPEG."""
    every = dict(sets)
    for quality in qualities:
        for name, members in sets.items():
            images = [replace(image, jpeg=quality, digest=f"{image.digest} jpeg {quality}") for image in members.images]
            every[f"{name}-jpeg{quality}"] = ImageSet(images, members.doubt)
    return every


class Recognised(NamedTuple):
    """An image as it was read: without a name yet, and which image of a known set it is."""

    image: ImageFile
    known_as: str | None  # its name in the known set
    swapped: bool  # whether it is that image with red and blue swapped
    apart: float  # see Decoded


def recognise(image, set_name, scale, manifest=None):
    """(name in the known set or None, whether red and blue are swapped) of uint8 [h, w, 1 or 3], by its pixels.

    manifest: {pixel hash: (set, name, crop)}, None for the sets of testsets.json.
    """
    manifest = hashes.load_manifest() if manifest is None else manifest
    for swapped in (False, True):
        found = manifest.get(hashes.pixel_hash(image[..., ::-1] if swapped else image))
        if found and found[0] == set_name and scale % found[2] == 0:
            return found[1], swapped
    return None, False


def read_and_recognise(path, set_name, scale, decode, entries):
    """The Recognised image of a file. Raises UserError if it cannot be used.

    decode: a Decoder; entries: {name: entry of a manifest} of the set, {} if nothing is known of it.
    """
    image, hr, lr, apart = decode(path)
    known_as, swapped = recognise(image, set_name, scale, hashes.pixels_of({set_name: entries}))
    # A gray original may have been saved as RGB.
    gray = bool(known_as) and entries[known_as]["channels"] == 1
    channels = 1 if gray else image.shape[-1]
    sizes = (hr.shape[:2], lr.shape[:2], image.shape[:2])
    digest = "".join(hashes.pixel_hash(part[..., :channels]) for part in ((hr,) if apart == math.inf else (hr, lr)))
    return Recognised(ImageFile("", path, decode, channels, *sizes, digest), known_as, swapped, apart)


def read_set(set_name: str, paths: Iterable, scale: int, pool: Executor, decode: Decoder | None = None) -> ImageSet:
    """One set of read_sets."""
    decode, entries = decode or Decoder(scale), hashes.read_manifest().get(set_name, {})
    manifest = None if entries else manifests.find(paths)
    entries = manifest["images"] if manifest else entries

    def read(path):
        try:
            return read_and_recognise(path, set_name, scale, decode, entries)
        except UserError as error:
            return error

    images, known, swapped, apart = {}, set(), 0, []
    for path, answer in zip(paths, pool.map(read, paths), strict=True):
        if isinstance(answer, UserError):
            print(f"left out: {answer}")
            continue
        name = os.fsencode(path.stem).decode(errors="replace")  # a file name may hold any bytes
        while name in images:  # in two folders, or in two formats
            name += "_"
        images[name] = replace(answer.image, name=name)
        swapped += answer.swapped
        apart += [answer.apart] * (answer.apart < math.inf)
        if answer.known_as and not answer.swapped:
            known.add(answer.known_as)
    if not images:
        raise UserError(f"none of the {len(paths)} images of {set_name} can be used")
    if apart:
        print(
            f"{set_name}: LR of {len(apart)} of {len(images)} images is another than MATLAB's bicubic of HR (they are "
            f"{np.mean(apart):.1f} dB apart); it is taken as it is"
        )
    doubt = doubt_of(set_name, len(images), known, set(entries), swapped)
    return ImageSet(list(images.values()), doubt, manifest)


def doubt_of(set_name, count, known, expected, swapped):
    """Why `count` images are not the published set, a clause, or None.

    known: names of those that were recognised; expected: names in the published set; swapped: how many have red and
    blue swapped.
    """
    if count != hashes.COUNTS.get(set_name, count):
        return f"it has {hashes.COUNTS[set_name]} images, and these are {count}"
    if not expected or (known == expected and count == len(expected)):
        return None
    found = f"of its {len(expected)} images {len(known)} are known by their pixels"
    others = count - len(known)
    if swapped:
        return f"{found}, and {swapped} would be if red and blue were not swapped (read as BGR)"
    if known == expected:
        return f"{others} more are with them that do not belong to it, or twice"
    if not others:
        missing = sorted(expected - known)
        return f"{found}, missing are {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}"
    return f"{found}; the pixels of {others} others differ, as those of a JPEG copy or of another set do"


def lr_digest(images):
    """SHA-256 over the LR pixels of a list of Image; independent of their order and names."""
    return manifests.lr_digest(image.lr for image in images)


def self_test(set_name, images, scale, pool, scored=None, manifest=None):
    """Compare LR and bicubic's scores with the known ones: what is wrong, in words, or None.

    images: list of Image; pool: Executor; scored: kept.Kept, what the same pixels scored before; manifest: as in
    ImageSet. None too for a set or scale without known figures.
    """
    claim = known_of(set_name, scale, manifest)
    if not claim:
        return None
    if claim.lr and not lr_digest(images).startswith(claim.lr):
        return (
            "LR is not MATLAB's bicubic to the last pixel: its kernel, antialiasing, border or rounding is another one"
        )
    known = claim.scores

    def score(image):
        sr = utils.imresize(image.lr, scale)
        if not scored:
            return list(metrics.measure(known, sr, image.hr, image.lr, scale).values())
        return list(scored.measure(known, image, scale, hashes.pixel_hash(sr), lambda: sr).values())

    means = dict(zip(known, np.mean(list(pool.map(score, images)), axis=0), strict=True))
    wrong = [name for name in known if abs(means[name] - known[name]) > claim.tolerance[name]]
    if not wrong:
        return None
    if not claim.lr:
        reason = "the images, LR, the border or the measures are others"
    elif "psnr_rgb" in wrong:
        reason = "LR is right, so the kernel or rounding of the upscaling, or the border, is another one"
    elif "psnr_y" in wrong:
        reason = "RGB is right, so the colour conversion to Y is another one"
    else:
        reason = "PSNR is right, so the SSIM is another one"
    figures = ", ".join(f"{metrics.COLUMNS[name].title} {means[name]:.4f} and not {known[name]}" for name in wrong)
    return f"the bicubic row reads {figures}: {reason}"


def prove(sets, scale, pool, force=False, scored=None):
    """Check every set before anything is scored: is it the published one, and does it pass the self-test?

    sets: from read_sets; one that fails the self-test gets its doubt. force: only print what is wrong and go on.
    Raises UserError.
    """
    for name, members in sets.items():
        if members.doubt:
            own = bool(members.manifest)
            claim = f"this is not {name} as {'its manifest has it' if own else 'it is published'}: {members.doubt}"
            advice = (
                f"`python data.py {'manifest DIR` says which' if own else f'{name.lower()}` fetches the originals'}"
            )
        elif failure := self_test(name, members.images, scale, pool, scored, members.manifest):
            members.doubt = failure
            claim, advice = f"the evaluation fails its self-test on {name}: {members.doubt}", "nothing was scored"
        else:
            if known_of(name, scale, members.manifest):
                print(f"proven: the bicubic row of {name} ×{scale} is the known one")
            continue
        if not force:
            raise UserError(f"{claim}; {advice}, --force goes on and marks the figures as not comparable")
        print(f"not comparable: {claim}")
