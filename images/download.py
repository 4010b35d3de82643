"""Download image sets and weights, and check them by hash. The command is `python data.py NAME`.

Test images are recognised by their decoded pixels, see hashes.py.
"""

import os
import re
import shutil
import tempfile
import threading
import zlib
from pathlib import Path

import requests
from filelock import FileLock
from tqdm import tqdm

import utils
from images import pictures
from images.hashes import COUNTS, file_digest, load_manifest, pixel_hash, read_manifest
from utils import PROJECT, UserError

# ---------------------------------------------------------------------------------------------------------------------
# Downloads that survive a cut connection

ATTEMPTS = 5  # in a row without a single new byte, before a download is abandoned


def reachable(url, seconds):
    """Whether `url` answers within so many seconds, including the name look-up, which has no time limit of its own."""
    answers = []

    def ask():
        try:
            answers.append(requests.head(url, timeout=seconds, allow_redirects=True).ok)
        except requests.RequestException:
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return any(answers)


def download(url, path, digest=None, timeout=20):
    """Fetch `url`, an address or a local file, to `path` with a progress bar; return `path`.

    An earlier attempt's `path`.part is continued, and a file at `path` with the right digest is kept.
    digest: "md5:…" or "sha256:…" of the whole file. Raises UserError if the server cannot be reached, if the
    connection is cut again and again without progress, or if the digest is wrong (the file is deleted then).
    """
    lock = Path(tempfile.gettempdir(), f"srgan-{zlib.crc32(os.fsencode(path.resolve()))}.lock")
    with FileLock(lock):  # if two workers of a machine fetch a file, the second waits and finds it
        return download_locked(url, path, digest, timeout)


def download_locked(url, path, digest, timeout):
    """download, while this process holds the lock of `path`."""
    if digest and path.exists() and file_digest(path, digest.partition(":")[0]) == digest.partition(":")[2]:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    failures = 0
    local = not str(url).startswith(("http://", "https://"))
    if local and not Path(url).is_file():
        raise UserError(f"{url} is neither an address (http:// or https://) nor a file")
    if local:
        shutil.copy(url, part)
    while not local:
        before = part.stat().st_size if part.exists() else 0
        try:
            fetch_rest(url, part, timeout)
            break
        except requests.HTTPError as error:
            raise UserError(f"{url} answers {error.response.status_code} {error.response.reason}") from None
        except requests.RequestException as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            if failures == ATTEMPTS or (after == 0 and isinstance(error, requests.ConnectionError)):
                kept = f"; the {after:,} bytes so far are kept: run the command again to continue" if after else ""
                raise UserError(f"{url} cannot be downloaded ({type(error).__name__}){kept}") from None
    if digest:
        algorithm, _, expected = digest.partition(":")
        found = file_digest(part, algorithm)
        if found != expected:
            part.unlink()
            raise UserError(f"{url} is a wrong file ({algorithm} {found}, expected {expected}) and was not kept")
    part.replace(path)
    return path


def fetch_rest(url, part, timeout):
    """Append to `part` what is missing of `url`; start over if the server does not support ranges."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {"Accept-Encoding": "identity"}
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if answer.status_code == 416:  # nothing is missing, or the file behind the address is another one now
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            return fetch_rest(url, part, timeout)
        answer.raise_for_status()
        if answer.status_code != 206:
            have = 0
        total = int(answer.headers["Content-Length"]) + have if "Content-Length" in answer.headers else None
        with (
            open(part, "ab" if have else "wb") as file,
            tqdm(total=total, initial=have, unit="B", unit_scale=True, desc=part.stem[:30], disable=None) as bar,
        ):
            for block in answer.iter_content(1 << 16):
                file.write(block)
                bar.update(len(block))
    if total is not None and part.stat().st_size < total:
        raise requests.exceptions.ChunkedEncodingError("the connection was cut")


# ---------------------------------------------------------------------------------------------------------------------
# Sets and weights

VGG19_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
VGG19_DIGEST = "md5:253f8cb515780f3b799900260a226db6"  # Keras's own
VGG19_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{VGG19_FILE}"
VGG19_FILES = (  # where the weights are searched for: Keras's file, machrisaa's, and Keras's cache
    PROJECT / "vgg19" / VGG19_FILE,
    PROJECT / "vgg19" / "vgg19.npy",
    Path.home() / ".keras" / "models" / VGG19_FILE,
)
DIV2K_URL = "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip"
DIV2K_DIGEST = "md5:bdc2d9338d4e574fe81bf7d158758658"
BERKELEY = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision"
MIRRORS = {  # archives that had the originals when this was written; --from names another place
    "Set5": ("https://huggingface.co/datasets/eugenesiow/Set5/resolve/main/data/Set5_HR.tar.gz",),
    "Set14": ("https://huggingface.co/datasets/eugenesiow/Set14/resolve/main/data/Set14_HR.tar.gz",),
    "BSD100": (
        f"{BERKELEY}/grouping/segbench/BSDS300-images.tgz",
        f"{BERKELEY}/bsds/BSDS300-images.tgz",
        "https://huggingface.co/datasets/eugenesiow/BSD100/resolve/main/data/BSD100_HR.tar.gz",
    ),
    "Urban100": ("https://huggingface.co/datasets/eugenesiow/Urban100/resolve/main/data/Urban100_HR.tar.gz",),
    "Manga109": (),  # manga109.org gives it away on request only
}

VID4 = {  # number of frames, width and height of its films
    "calendar": (41, 720, 576),
    "city": (34, 704, 576),
    "foliage": (49, 720, 480),
    "walk": (47, 720, 480),
}

HR_ENDING = re.compile(r"(_SRF_\d)?_HR$")  # img_001_SRF_4_HR, as SelfExSR's archives have it


def known_images(name, folder):
    """{image name: (crop, path)} of the images of test set `name` in a folder and below, found by their pixels."""
    manifest, found = load_manifest(), {}
    for path in tqdm(utils.list_images(folder), desc=f"looking for {name}", unit="", leave=False, disable=None):
        try:
            known = manifest.get(pixel_hash(pictures.read_image(path)))
        except UserError:
            continue
        # Prefer a whole image to a cropped copy.
        if known and known[0] == name and known[2] < found.get(known[1], (99,))[0]:
            found[known[1]] = (known[2], path)
    return found


def fetch_test_set(name, root, source=None):
    """Fill root/<name> from the mirrors, or from `source`: the address or file of an archive, or a folder.

    Images are recognised by their pixels, whole or cropped to a multiple of a scale, under any file name; other files
    are ignored. Raises UserError with the names of missing images.
    """
    target, reasons = root / name, []
    wanted = set(read_manifest()[name])
    missing = wanted - set(known_images(name, target))
    if not missing:
        print(f"{name} is there already, nothing is fetched")
    for place in [source] if source else MIRRORS[name]:
        if not missing:
            break
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as folder:
            try:
                found = known_images(name, unpack(place, Path(folder), root / ".downloads"))
            except UserError as error:
                reasons.append(str(error))
                continue
            target.mkdir(exist_ok=True)
            for image in missing & set(found):
                path = found[image][1]
                shutil.move(shutil.copy(path, folder + "/found"), target / (image + path.suffix.lower()))
            missing -= set(found)
            if missing:
                reasons.append(f"{place} lacks {len(missing)} of the {len(wanted)} images, or their pixels differ")
    if missing:
        raise UserError(
            f"{name} is not complete ({', '.join(sorted(missing)[:5])}{' …' if len(missing) > 5 else ''} missing): "
            f"{'; '.join(reasons)}; any copy will do: python data.py {name.lower()} --from FOLDER_OR_ADDRESS"
        )
    return target


def fetch_counted(name, root, source=None):
    """Fill root/<name> with the originals of a set of hashes.COUNTS, from its mirrors or from `source`; as above.

    Its pixels are not known here: of what is found, that folder is taken which has as many images, or as many HR among
    LR and SR of many methods. Raises UserError.
    """
    target, count, reasons = root / name, COUNTS[name], []
    if len(utils.list_images(target)) == count:
        print(f"{name} is there already, nothing is fetched")
        return target
    for place in [source] if source else MIRRORS[name]:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as folder:
            try:
                paths = originals_of(unpack(place, Path(folder), root / ".downloads"), count)
            except UserError as error:
                reasons.append(str(error))
                continue
            if paths:
                copy = Path(folder) / name
                copy.mkdir()
                for path in paths:
                    shutil.copy(path, copy / (HR_ENDING.sub("", path.stem) + path.suffix.lower()))
                utils.write_folder_atomically(target, copy.rename)
                return target
            reasons.append(f"{place} has no folder of {count} images, and none with {count} called _HR")
    reasons = "; ".join(reasons) or "manga109.org gives it for research to those who ask"
    raise UserError(f"{name} is not there: {reasons}; any copy will do: python data.py {name.lower()} --from FOLDER")


def originals_of(folder, count):
    """The `count` HR images of one folder below `folder`, [] if there is none; the largest, if there are several."""
    choices = []
    for place in sorted({path.parent for path in utils.list_images(folder)}):
        paths = [path for path in utils.list_images(place) if path.parent == place]
        marked = [path for path in paths if HR_ENDING.search(path.stem)]
        for found in (marked, paths):
            if len(found) == count:
                choices.append((sum(map(os.path.getsize, found)), found))
                break
    return max(choices)[1] if choices else []


def fetch_vid4(root, source=None):
    """Fill root/Vid4 with a folder of pictures for each film, from `source`: an archive, its address, or a folder.

    A film is known by its name in the path, its number of frames and their size, so that HR is taken and not LR or SR
    beside it. Raises UserError.
    """
    target = root / "Vid4"
    if all(is_vid4(target / name, name) for name in VID4):
        print("Vid4 is there already, nothing is fetched")
        return target
    if source is None:
        raise UserError("Vid4 has no place that lasts: python data.py vid4 --from FOLDER_OR_ADDRESS, any copy will do")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as folder:
        place = unpack(source, Path(folder), root / ".downloads")
        folders = sorted({path.parent for path in utils.list_images(place)})
        found = {name: next((path for path in folders if is_vid4(path, name)), None) for name in VID4}
        if missing := [name for name, path in found.items() if path is None]:
            words = "; ".join("{} of {} pictures of {}×{}".format(name, *VID4[name]) for name in missing)
            raise UserError(f"{source} has no folder {words}")
        copy = Path(folder) / "Vid4"
        for name, path in found.items():
            (copy / name).mkdir(parents=True)
            for file in utils.list_images(path):
                shutil.copy(file, copy / name / file.name)
        utils.write_folder_atomically(target, copy.rename)
    return target


def is_vid4(folder, name):
    """Whether a folder holds the HR frames of Vid4's film `name`, as pictures."""
    count, *size = VID4[name]
    if name not in [part.lower() for part in folder.parts[-2:]] or not folder.is_dir():
        return False
    paths = utils.list_images(folder)
    return len(paths) == count and list(pictures.read_image(paths[0]).shape[1::-1]) == size


def unpack(place, folder, downloads):
    """The folder of images at `place`: itself if it is a folder, else the archive, unpacked into `folder`.

    Downloads stay in `downloads` until they are unpacked, so that an interrupted one can be continued.
    """
    if Path(place).is_dir():
        return Path(place)
    archive = download(place, downloads / Path(place).name)
    try:
        # Some Python versions refuse the filter for zip archives, which cannot leave their folder anyway.
        safely = {} if archive.suffix == ".zip" else {"filter": "data"}
        shutil.unpack_archive(archive, folder, **safely)
    except Exception as error:  # every compression raises its own errors for a damaged file
        raise UserError(f"{place} is neither a folder nor a whole archive ({utils.short(error)})") from None
    finally:
        archive.unlink()
        if not any(downloads.iterdir()):
            downloads.rmdir()
    return folder


def fetch_div2k(root, source=None):
    """DIV2K's 800 training photographs into root/train/DIV2K (3.5 GB)."""
    target, archive = root / "train" / "DIV2K", root / ".downloads" / "DIV2K_train_HR.zip"
    if not target.is_dir():
        download(source or DIV2K_URL, archive, DIV2K_DIGEST)
        print("unpacking")
        with tempfile.TemporaryDirectory(dir=root, prefix=".incoming-") as folder:
            shutil.unpack_archive(archive, folder)
            (root / "train").mkdir(exist_ok=True)
            os.replace(Path(folder) / "DIV2K_train_HR", target)
        archive.unlink()
    return target


def fetch_vgg19(source=None):
    """VGG19's ImageNet weights, without the classifier, into vgg19/ (80 MB), checked by Keras's hash."""
    return download(source or VGG19_URL, PROJECT / "vgg19" / VGG19_FILE, VGG19_DIGEST)


def find_vgg19():
    """The path of VGG19's weights, downloaded if possible, or None. Raises UserError for a damaged file."""
    for path in VGG19_FILES:
        if path.exists():
            if path.suffix == ".h5" and "md5:" + file_digest(path, "md5") != VGG19_DIGEST:
                raise UserError(f"{path} is damaged: delete it, then `python data.py vgg19` fetches it again")
            return path
    try:
        return fetch_vgg19() if reachable(VGG19_URL, seconds=6) else None
    except UserError as error:
        print(error)
        return None
