"""Pictures that other programs made, as rows of the tables: found by name or by pixels, and looked over.

A folder of SR becomes a method like the others. What would make its figures those of something else is said in a
sentence: another size, a shift, another kernel than LR's, cut-off instead of rounded values, swapped channels.
"""

import glob
import re
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data
import utils
from images import hashes, pictures
from scoring import figures, kept, metrics
from utils import LazyModule, UserError

cv2 = LazyModule("cv2")
ndimage = LazyModule("scipy.ndimage")
registration = LazyModule("skimage.registration")

# ---------------------------------------------------------------------------------------------------------------------
# Which file is which image

# What ends a name and says which kind of picture it is, not which image: img_001_SRF_4_HR, 0801x4, baby_GT.
KIND = re.compile(r"([ _.-]*(srf[ _-]?\d|[x×]\d|\d[x×]|hr|gt|lr|sr|modcrop|orig|original))+$", re.IGNORECASE)
ORIGINAL = re.compile(r"[ _.-](hr|gt|lr)$", re.IGNORECASE)  # such files lie beside SR and are not SR
ALIKE = 500  # mean squared difference of two thumbnails of one image, at most


def fields(set_name, image, scale):
    return {"set": glob.escape(set_name), "image": glob.escape(image), "scale": scale}


def check_pattern(pattern):
    """Raise UserError unless `pattern` is one for --match."""
    try:
        pattern.format(**fields("a", "b", 4))
        named = "{image}" in pattern
    except (KeyError, IndexError, ValueError, AttributeError):
        named = False
    if not named:
        raise UserError(
            f"--match takes a pattern with {{image}} in it, as '{{set}}/{{image}}_x{{scale}}*.png', not '{pattern}'"
        )


def files_of(place, set_name):
    """The pictures of a set in the folder `place`: in folders of its name, else all that are in no other set's."""
    paths = utils.list_images(place)
    paths = [path for path in paths if not ORIGINAL.search(path.stem)] or paths
    folders = {path: {part.lower() for part in path.relative_to(place).parts[:-1]} for path in paths}
    others = {name.lower() for name in (*data.TEST_SETS, *data.FURTHER_SETS)}
    own = [path for path in paths if set_name.lower() in folders[path]]
    return own or [path for path in paths if not folders[path] & others]


def named_after(stem, image):
    """How well a file's stem fits an image's name: its length if the name stands in it as a word, 0 if not."""
    stem, name = stem.lower(), (KIND.sub("", image) or image).lower()
    if stem == image.lower():
        return len(image) + 1
    word = rf"{re.escape(name)}(?=$|[^a-z0-9]|[x×]\d)"
    return len(name) if re.match(word, stem) or re.search(rf"(?<![a-z0-9]){word}", stem) else 0


def match_names(paths, names):
    """({image: its file}, the files left over) by the names; each file goes to the image that fits it best.

    Raises UserError if two files fit one image.
    """
    fitting, others = {name: [] for name in names}, []
    for path in paths:
        ranks = {name: rank for name in names if (rank := named_after(path.stem, name))}
        if ranks:
            best = max(ranks, key=ranks.get)
            fitting[best].append((ranks[best], path))
        else:
            others.append(path)
    found = {}
    for name, files in fitting.items():
        best = [path for rank, path in files if rank == max(files)[0]]
        if len(best) > 1:
            raise UserError(
                f"{best[0]} and {best[1].name} could both be {name}: say which by --match, as '{{image}}_SR.png'"
            )
        if best:
            found[name] = best[0]
    return found, others


def thumbnail(image_u8):
    """float [16, 16]: the means of luma over 16×16 parts of uint8 [h, w, 1 or 3]."""
    plane = utils.to_rgb(image_u8).mean(axis=-1)
    rows, columns = (np.linspace(0, length, 16, endpoint=False).astype(int) for length in plane.shape)
    sums = np.add.reduceat(np.add.reduceat(plane, rows, axis=0), columns, axis=1)
    sizes = [np.diff([*starts, length]) for starts, length in zip((rows, columns), plane.shape, strict=True)]
    return sums / np.outer(*sizes)


def match_pixels(paths, images):
    """{image: file} of the pairs that look alike and like nothing else; images: [testsets.Image]."""
    seen = {}
    for path in paths:
        try:
            seen[path] = thumbnail(pictures.read_image(path))
        except UserError:
            continue
    if not seen or not images:
        return {}
    theirs = np.stack(list(seen.values()))
    apart = np.stack([((theirs - thumbnail(image.hr)) ** 2).mean(axis=(1, 2)) for image in images])
    found = {}
    for i, image in enumerate(images):
        j = int(apart[i].argmin())
        if apart[i, j] < ALIKE and apart[:, j].argmin() == i and (apart[i] < 3 * apart[i, j] + 1).sum() == 1:
            found[image.name] = list(seen)[j]
    return found


def find(place, set_name, images, scale, pattern=None):
    """{image: its file} of a set in a folder; fewer than `images`, a list of testsets.Image, if not all are there.

    pattern: of --match, or None. Raises UserError if it is unclear which file is an image's.
    """
    if pattern:
        found = {}
        for image in images:
            wanted = pattern.format(**fields(set_name, image.name, scale))
            paths = sorted(path for path in place.glob(wanted) if path.is_file())
            if len(paths) > 1:
                raise UserError(f"--match '{pattern}' fits {paths[0]} and {paths[1].name}, both for {image.name}")
            if paths:
                found[image.name] = paths[0]
        return found
    found, others = match_names(files_of(place, set_name), [image.name for image in images])
    return found | match_pixels(others, [image for image in images if image.name not in found])


# ---------------------------------------------------------------------------------------------------------------------
# Sizes


def sized(size):
    return f"{size[1]}×{size[0]}"


def fit(sr, image, scale):
    """(SR of HR's size, what was done to it: a clause or None). Raises UserError for a size that cannot be meant.

    sr: uint8 [h, w, 1 or 3]; image: testsets.Image. Larger pictures are cut, as HR is; where rows or columns are
    missing, they are bicubic's, as long as all are in the border that is not scored.
    """
    hr, theirs = image.hr_size, sr.shape[:2]
    if theirs == hr:
        return sr, None
    extra = [have - need for have, need in zip(theirs, hr, strict=True)]
    if max(map(abs, extra)) > 2 * scale:
        factors = [scale * have / need for have, need in zip(theirs, hr, strict=True)]
        factor = round(np.mean(factors), 2)
        why = f", which is ×{factor:g} of its LR" if max(factors) < 1.05 * min(factors) else ""
        why = ", which is LR's size: it was not upscaled" if theirs == image.lr_size else why
        raise UserError(f"is {sized(theirs)} pixels and not {sized(hr)}{why}")
    if theirs == image.uncut:
        return sr[: hr[0], : hr[1]], "of the size of HR before it is cut to multiples of the scale, and cut like it"
    return place(sr, image, scale, extra)


def place(sr, image, scale, extra):
    """fit, where SR has `extra` rows and columns, or lacks some: it is moved to where it agrees best with HR."""
    hr = image.hr
    truth = metrics.luma(hr).astype(float)
    ours = metrics.luma(sr if hr.shape[-1] == 3 else sr.mean(axis=-1, keepdims=True)).astype(float)

    def overlap(start, have, need):  # (slice of SR, slice of HR) if SR begins at `start` of HR
        return slice(max(-start, 0), min(need - start, have)), slice(max(start, 0), min(start + have, need))

    def error(starts):
        cuts = [overlap(*one) for one in zip(starts, sr.shape[:2], hr.shape[:2], strict=True)]
        return np.mean((ours[tuple(mine for mine, _ in cuts)] - truth[tuple(its for _, its in cuts)]) ** 2)

    choices = [range(-more, 1) if more > 0 else range(-more + 1) for more in extra]
    usual = tuple(0 if more >= 0 else -more // 2 for more in extra)
    starts = min(
        ((y, x) for y in choices[0] for x in choices[1]), key=lambda at: error(at) * (1 - 1e-9 * (at == usual))
    )
    after = [max(need - start - have, 0) for start, have, need in zip(starts, sr.shape[:2], hr.shape[:2], strict=True)]
    if max(*starts, *after) > scale:
        raise UserError(
            f"is {sized(sr.shape)} pixels and not {sized(hr.shape)}: more is missing at one side than the {scale} "
            "pixels that are not scored"
        )
    if min(extra) >= 0:
        above, left = (-start for start in starts)
        where = (
            "at the right and below" if starts == (0, 0) else f"{above} rows above and {left} columns at the left first"
        )
        return sr[above : above + hr.shape[0], left : left + hr.shape[1]], f"larger than HR, and cut {where}"
    whole = utils.imresize(image.lr, scale)
    whole = metrics.luma(whole)[..., None] if sr.shape[-1] == 1 else utils.to_rgb(whole)
    cuts = [overlap(*one) for one in zip(starts, sr.shape[:2], hr.shape[:2], strict=True)]
    whole[tuple(its for _, its in cuts)] = sr[tuple(mine for mine, _ in cuts)]
    top, left = (max(start, 0) for start in starts)
    return whole, (
        f"smaller than HR by {top} rows above and {after[0]} below, {left} columns left and {after[1]} right; there "
        "bicubic's stand, in the border that is not scored"
    )


def as_y(sr, hr):
    """(Gray SR of a coloured HR as the Y that is scored, what was done). Its pixels are Y, 16…235, or luma, 0…255.

    sr: uint8 [h, w, 1]; hr: uint8 [h, w, 3]; whichever is nearer to HR's Y is meant.
    """
    y = metrics.luma(hr).astype(float)
    squeezed = utils.round_u8(16 + sr * (219 / 255))
    meant = min((sr, squeezed), key=lambda plane: np.mean((plane[..., 0] - y) ** 2))
    return meant, "gray, and " + ("taken as Y" if meant is sr else "taken as luma from 0 to 255, which becomes Y")


# ---------------------------------------------------------------------------------------------------------------------
# Signs that figures would be those of something else

# {another kernel, in words: how it makes LR}: `image[::4]`, and blur before it, as the literature's "BD".
KERNELS = {
    "OpenCV's INTER_CUBIC, which does not blur before it shrinks": "cubic",
    "OpenCV's INTER_LINEAR": "linear",
    "the mean of squares, OpenCV's INTER_AREA": "area",
    "every pixel taken as it is, nearest neighbour": "nearest",
    "a Gaussian of σ = 1.6, then every pixel taken (BD)": "gauss",
}
SHIFT_GAIN = 0.3  # dB of PSNR-Y that undoing a shift must bring
BELOW_BICUBIC = 2  # dB of LR-PSNR that a picture may have less than bicubic's
CLEARER = 6  # dB by which LR of another kernel must be met better than MATLAB's
TRUNCATED = (-0.65, -0.35)  # grey levels that truncated pictures have less than rounded ones
SMOOTH = 4  # grey levels between neighbours, at most, where the mean of SR is LR


def shrink_by(kernel, image, scale):
    """uint8 [h/scale, w/scale, c] of `image` by a kernel of KERNELS."""
    if kernel == "nearest":
        return image[scale // 2 :: scale, scale // 2 :: scale]
    if kernel == "gauss":
        blurred = ndimage.gaussian_filter(image.astype(float), (1.6, 1.6, 0))
        return utils.round_u8(blurred[scale // 2 :: scale, scale // 2 :: scale])
    size = (image.shape[1] // scale, image.shape[0] // scale)
    flags = {"cubic": cv2.INTER_CUBIC, "linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=flags[kernel])


def shift_of(sr, hr, border):
    """((rows down, columns right) by which SR is moved against HR, dB that PSNR-Y gains without it); whole pixels.

    A window takes away the borders, which do not move with the picture and would hold the correlation at zero.
    """
    ours, truth = (plane.astype(float) for plane in metrics.scored(sr, hr, border))
    window = np.outer(*map(np.hanning, ours.shape))
    planes = (window * (plane - plane.mean()) for plane in (ours, truth))
    move, _, _ = registration.phase_cross_correlation(*planes, normalization=None)
    dy, dx = map(int, move)
    if not (dy or dx) or max(abs(dy), abs(dx)) > min(ours.shape) // 4:
        return (0, 0), 0.0
    inside = tuple(slice(max(d, 0), n + min(d, 0)) for d, n in zip((dy, dx), ours.shape, strict=True))
    moved = tuple(slice(part.start - d, part.stop - d) for part, d in zip(inside, (dy, dx), strict=True))
    gain = metrics.psnr(ours[inside], truth[moved]) - metrics.psnr(ours[inside], truth[inside])
    return ((dy, dx), min(gain, 99.0)) if gain > SHIFT_GAIN else ((0, 0), 0.0)


def bias_of(shrunk, lr):
    """SR shrunk again less LR, in grey levels, in each channel where LR is smooth and not near black or white.

    shrunk, lr: uint8 [h, w, 3]. None where hardly a pixel is so.
    """
    high, low = (of(lr, size=(3, 3, 1)).astype(int) for of in (ndimage.maximum_filter, ndimage.minimum_filter))
    smooth = (high - low <= SMOOTH) & (low > 16) & (high < 239)
    if smooth.sum(axis=(0, 1)).min() < 50:
        return None
    return [float((shrunk[..., c].astype(int) - lr[..., c])[smooth[..., c]].mean()) for c in range(3)]


def signs(sr, image, scale):
    """What a picture looks like: {sign: value}, for `findings`. sr: uint8 [h, w, 1 or 3] of HR's size."""
    hr, lr = utils.to_rgb(image.hr), utils.to_rgb(image.lr)
    shift, gain = shift_of(sr, image.hr, scale)
    found = {"shift": shift, "gain": gain, "gray": sr.shape[-1] < image.hr.shape[-1]}
    if found["gray"]:  # Y alone does not say what LR's channels would be
        return found
    sr = np.roll(utils.to_rgb(sr), (-shift[0], -shift[1]), axis=(0, 1))
    inside = (slice(2, -2), slice(2, -2))  # without what came round the border

    def met(shrunk, lr):
        return min(metrics.psnr(shrunk[inside], lr[inside]), 99.0)

    shrunk = utils.imresize(sr, 1 / scale)
    bicubic = utils.imresize(utils.imresize(lr, scale), 1 / scale)
    found |= {"lr": met(shrunk, lr), "bicubic": met(bicubic, lr), "swapped": met(shrunk[..., ::-1], lr)}
    found["kernels"] = {
        name: met(*(shrink_by(kernel, one, scale) for one in (sr, hr))) for name, kernel in KERNELS.items()
    }
    return found | {"bias": bias_of(shrunk, lr)}


def findings(found):
    """[sentence] of what the signs of a method's pictures on a set say; found: [signs]."""
    sentences = []
    if shift := most_of([tuple(one["shift"]) for one in found if any(one["shift"])], len(found)):
        gain = np.mean([one["gain"] for one in found if tuple(one["shift"]) == shift])
        directions = (("up", "down"), ("left", "right"))
        words = " and ".join(
            f"{abs(n)} pixel{'s' * (abs(n) > 1)} {way[n > 0]}" for n, way in zip(shift, directions, strict=True) if n
        )
        sentences.append(f"shifted by {words} against HR: without that, PSNR-Y would be {gain:.2f} dB higher")
    coloured = [one for one in found if not one["gray"]]
    if not coloured:
        return sentences
    lr, bicubic, swapped = (np.mean([one[name] for one in coloured]) for name in ("lr", "bicubic", "swapped"))
    if swapped > lr + CLEARER:
        return [
            *sentences,
            f"red and blue are swapped: LR is met with {swapped:.1f} dB if they are put back, else {lr:.1f} dB",
        ]
    kernels = {name: np.mean([one["kernels"][name] for one in coloured]) for name in KERNELS}
    best = max(kernels, key=kernels.get)
    if lr < bicubic - BELOW_BICUBIC or kernels[best] > lr + CLEARER:
        sentence = f"shrunk again, it meets LR with {lr:.1f} dB only (bicubic: {bicubic:.1f}): "
        sentence += "it was made of another LR, or does not keep to it"
        if kernels[best] > lr + CLEARER:
            sentence += f"; the kernel of its LR is more like this: {best} ({kernels[best]:.1f} dB)"
        sentences.append(sentence)
    biases = np.array([one["bias"] for one in coloured if one["bias"]])
    if len(biases) and TRUNCATED[0] < biases.mean() < TRUNCATED[1] and np.abs(biases - biases.mean()).mean() < 0.12:
        sentences.append(
            f"darker than LR by {-biases.mean():.2f} grey levels, as where values are cut off and not rounded"
        )
    return sentences


def most_of(values, count):
    """The value that at least half of `count` pictures have, or None."""
    (value, times), *_ = Counter(values).most_common(1) or [(None, 0)]
    return value if 2 * times >= max(count, 1) else None


# ---------------------------------------------------------------------------------------------------------------------
# A folder as a method


class Folder:
    """Pictures of SR in a folder, as a method: its name becomes the name of its row.

    place: the folder; scale: that they were made for; pattern: of --match, or None.
    """

    weights = None

    def __init__(self, name, place, scale, pattern=None):
        self.name, self.place, self.scale, self.pattern = name, place, scale, pattern
        self.files = {}  # {set: {image: file}}
        self.digests = {}  # of the files

    def look_for(self, set_name, members):
        """Find the pictures of a testsets.ImageSet: True, or False if there is none. Raises UserError if some lack."""
        found = find(self.place, set_name, members.images, self.scale, self.pattern)
        if lacking := [image.name for image in members.images if image.name not in found]:
            if not found:
                return False
            names = ", ".join(lacking[:5]) + " …" * (len(lacking) > 5)
            raise UserError(
                f"{self.place} lacks {len(lacking)} of the {len(members.images)} images of {set_name} ({names}): no "
                "other file there is like them by name or pixels; --match says which file is which image"
            )
        self.files[set_name] = found
        return True

    def made_of(self, set_name, image):
        path = self.files[set_name][image.name]
        if path not in self.digests:
            self.digests[path] = hashes.file_digest(path, "sha256")
        return kept.digest_of("file", self.digests[path], image.digest, self.scale)

    def take(self, set_name, image, folder, known):
        """Put one picture into the set's `folder` of the report: ({"pixels": hash, "done": clause or None}, signs).

        image: testsets.Image; known: kept.Kept. Raises UserError.
        """
        files, path = figures.files_of(folder, image.name, self.name), self.files[set_name][image.name]
        note = known.files(self.made_of(set_name, image), *files)
        if not note:
            sr, done = pictures.read_image(path), []
            if sr.shape[-1] < image.hr.shape[-1]:
                sr, words = (
                    as_y(sr, image.hr) if sr.shape == image.hr.shape[:2] + (1,) else (sr, "gray, and taken as Y")
                )
                done.append(words)
            try:
                sr, words = fit(sr, image, self.scale)
            except UserError as error:
                raise UserError(f"{path} {error}") from None
            figures.write_method(folder, image, self.name, sr)
            note = {"pixels": hashes.pixel_hash(sr), "done": "; ".join([*done, *filter(None, [words])])}
            known.add_files(self.made_of(set_name, image), note, *files)

        def compute(_, sr):
            return {"signs": signs(sr, image, self.scale)}

        def read():
            return pictures.read_image(files[0])

        return note, known.compute(["signs"], image, self.scale, note["pixels"], read, compute)["signs"]

    def take_all(self, set_name, members, folder, known, pool):
        """Put the pictures of a set into its `folder` of the report: [sentence], what is to be said of them."""
        answers = pool.map(lambda image: self.take(set_name, image, folder, known), members.images)
        total = len(members.images)
        answers = list(tqdm(answers, total=total, unit="image", desc=self.name, disable=None))
        done = Counter(note["done"] for note, _ in answers if note["done"])
        return [f"{times} of {total} pictures: {words}" for words, times in done.items()] + findings(
            [found for _, found in answers]
        )


def parse(arguments, scale, pattern=None):
    """[Folder] of the texts NAME=DIR of --pictures. Raises UserError."""
    if pattern:
        check_pattern(pattern)
    folders = []
    for text in arguments:
        name, _, place = text.partition("=")
        if not (name and place) or Path(name).name != name or name.startswith("."):
            raise UserError(f"--pictures takes NAME=DIR, as SRResNet=~/results/SRResNet, not '{text}'")
        place = Path(place).expanduser()
        if not place.is_dir():
            raise UserError(f"--pictures {name}={place}: there is no such folder")
        if not utils.list_images(place):
            raise UserError(f"--pictures {name}={place}: the folder holds no pictures")
        folders.append(Folder(name, place, scale, pattern))
    return folders


def look_for(folders, sets, wanted):
    """The sets of which every folder of foreign pictures has the pictures; others are named or, if `wanted`, refused.

    folders: [Folder]; sets: {set: testsets.ImageSet}. Raises UserError.
    """
    lacking = {}
    for folder in folders:
        for name, members in sets.items():
            if not folder.look_for(name, members):
                lacking.setdefault(name, f"{folder.name} ({folder.place})")
    if lacking and (wanted or len(lacking) == len(sets)):
        name, theirs = next(iter(lacking.items()))
        raise UserError(
            f"{theirs} has no picture that is one of {name} by its name or its pixels: --match says which file is which"
        )
    for name, theirs in lacking.items():
        print(f"left out: {name}, of which {theirs} has no pictures")
    return {name: members for name, members in sets.items() if name not in lacking}


def take_in(folders, sets, out, known, pool):
    """Put foreign pictures into the report: {set: {method: [sentence]}}, what is to be said of them; it is printed.

    Arguments as in look_for and work.evaluate.
    """
    notes = {name: {} for name in sets}
    for name, members in sets.items():
        for folder in folders:
            notes[name][folder.name] = folder.take_all(name, members, out / name, known, pool)
            for sentence in notes[name][folder.name]:
                print(f"{folder.name} on {name}: {sentence}")
    return notes
