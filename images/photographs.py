"""The photographs to train on: each is verified once, then kept in memory, packed on disk, or decoded when used.

Use `Photographs`. The pack of `--cache=disk` is in `$SRGAN_CACHE`, else in the project's `cache/`; you may delete it at
any time.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import math
import os
import shutil

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

import utils
from images import pictures
from images.hashes import file_digest, load_manifest, pixel_hash
from utils import UserError

IN_FLIGHT = 2**26  # bytes of decoded images that wait at a time, at most: seven photographs of DIV2K


class Photographs:
    """The usable images of a list of paths: each is decoded once to verify it, and kept as `cache` says.

    paths: image files; minimum: least height and width in pixels; cache: "ram" (decoded in memory, up to `cache_gib`
    GiB; the rest is decoded when used), "disk" (decoded once into a memory-mapped pack), "none" (decoded when used) or
    "auto" (the first of these that fits, which is printed).
    `paths` are the usable files, `sizes` their (height, width), known without decoding; `photographs[i]` is uint8
    [h, w, 3], read-only; `skipped` is a list of (path, reason). Raises UserError if none is usable.

    Host memory holds only the kept images (`cache_gib` at most; a pack is in the operating system's page cache) and 12
    times IN_FLIGHT or the largest image, whichever is more: training decodes up to two images at a time, and a decoder
    needs up to six copies (four-byte pixels of its own, and alpha that is dropped).
    """

    def __init__(self, paths, minimum, cache_gib, cache="auto", progress=True):
        self.minimum, self.manifest = minimum, load_manifest()
        self.paths, self.sizes, self.skipped, self.kept = [], [], [], {}
        decoded_bytes = [3 * math.prod(size) for size in each(pictures.header_size, paths, "reading headers", progress)]
        pack = Pack(paths, decoded_bytes, progress)
        if cache == "auto":
            cache = choose_cache(sum(decoded_bytes), cache_gib, pack)
        records = pack.load() if cache == "disk" else decode_all(paths, decoded_bytes, cache, progress)
        self.collect(paths, records, room={"ram": cache_gib * 2**30, "disk": math.inf, "none": 0}[cache])
        if not self.paths:
            reason = self.skipped[0][1]
            raise UserError(f"none of the {len(paths)} images can be used; the first: {reason}")

    def collect(self, paths, records, room):
        """Sort files into usable and skipped ones, and keep the usable images while `room` bytes last.

        records: what decode() returns for each path.
        """
        for path, (image, digest, reason) in zip(paths, records, strict=True):
            if reason := reason or self.refusal(image.shape, digest):
                self.skipped.append((path, f"{path} {reason}"))
                continue
            if image.nbytes <= room:
                room -= image.nbytes
                self.kept[len(self.paths)] = image
            self.paths.append(path)
            self.sizes.append(image.shape[:2])

    def refusal(self, shape, digest):
        """Why an image of this shape and pixel hash is not trained on, or None if it is."""
        if min(shape[:2]) < self.minimum:
            return f"is too small: {shape[1]}×{shape[0]}, a crop needs {self.minimum}×{self.minimum}"
        if known := self.manifest.get(digest):
            return f"is refused: it is the test image {known[1]} of {known[0]}"
        return None

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        if i in self.kept:
            return self.kept[i]
        image = utils.to_rgb(pictures.read_image(self.paths[i]))
        if image.shape[:2] != self.sizes[i]:
            raise UserError(f"{self.paths[i]} was changed during the training")
        return image

    def fingerprint(self):
        """A digest of the names and file sizes, in order; different data sets have different ones."""
        lines = "\n".join(f"{path.name} {path.stat().st_size}" for path in self.paths)
        return hashlib.sha256(os.fsencode(lines)).hexdigest()[:16]

    def split(self, held_out):
        """(training indices, validation indices): `held_out` of the latter, at most a fifth of all, chosen by name."""
        order = sorted(range(len(self)), key=lambda i: hashlib.sha256(os.fsencode(self.paths[i].name)).digest())
        count = min(held_out, len(self) // 5)
        return sorted(order[count:]), sorted(order[:count])


def decode(path):
    """(uint8 [h, w, 3], its pixel hash, None), or (None, None, why the file cannot be read)."""
    try:
        image = utils.to_rgb(pictures.read_image(path))
    except UserError as error:
        return None, None, str(error).removeprefix(f"{path} ")
    return image, pixel_hash(image), None


def decode_all(paths, decoded_bytes, cache, progress):
    """Yield decode(path) for every path; decoded_bytes: [approximate bytes of each image]."""
    what = "reading photographs" if cache == "ram" else "verifying photographs"
    return each(decode, paths, what, progress, decoded_bytes)


def each(function, paths, what, progress, result_bytes=None):
    """Yield function(path) for every path, in order, computed in parallel, with a progress bar labelled `what`.

    result_bytes: [bytes of each result], or None if they are small. At most 32 results, with at most IN_FLIGHT bytes
    unless one alone is larger, wait at a time.
    """
    result_bytes = result_bytes or [0] * len(paths)
    bar = tqdm(total=len(paths), desc=what, unit="", disable=None if progress else True)
    with bar, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        start = 0
        while start < len(paths):
            stop, room = start + 1, IN_FLIGHT - result_bytes[start]
            while stop < min(start + 32, len(paths)) and result_bytes[stop] <= room:
                room -= result_bytes[stop]
                stop += 1
            for result in pool.map(function, paths[start:stop]):
                bar.update()
                yield result
            start = stop


def choose_cache(decoded, cache_gib, pack):
    """The cache that "auto" means for `decoded` bytes of pixels: "ram", "disk" or "none"; prints the reason."""
    if decoded <= cache_gib * 2**30:
        print(f"cache: ram, {gib(decoded)} of decoded photographs fit into DATA.cache_gib={cache_gib:g}")
        return "ram"
    why = f"{gib(decoded)} of decoded photographs are more than DATA.cache_gib={cache_gib:g}"
    free = free_bytes(pack.folder)
    if free >= 2 * decoded:
        print(f"cache: disk, {why} and {pack.folder} has {gib(free)} free")
        return "disk"
    if pack.read() is not None:
        print(f"cache: disk, {why} and {pack.directory} holds them")
        return "disk"
    print(f"cache: none, {why} and {pack.folder} has {gib(free)} free, which is not twice that")
    return "none"


def gib(count):
    """A number of bytes as text."""
    return f"{count / 2**30:.2f} GiB"


def free_bytes(folder):
    """The bytes that can be written to a folder, which need not exist yet; 0 without permission."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(place).free if os.access(place, os.W_OK) else 0


# ---------------------------------------------------------------------------------------------------------------------
# The pack


class Pack:
    """Photographs decoded into one directory: all pixels in `pixels.bin`, and their places in `index.json`.

    The directory's name is a hash of the files' contents, so a changed file is never read from an old pack. It appears
    whole or not at all, even if the process is killed. It also holds images that are not used (too small, test images).
    paths: image files; decoded_bytes: [approximate bytes of each image].
    """

    def __init__(self, paths, decoded_bytes, progress):
        self.paths, self.decoded_bytes, self.progress = paths, decoded_bytes, progress
        self.folder = utils.cache_folder()

    @functools.cached_property
    def directory(self):
        """The pack's path, named by a hash of the names, sizes and contents of all files; reads every file."""
        digest = hashlib.sha256(b"pack 1\n")  # the version of the layout: raise it when the layout changes
        digests = each(file_sha256, self.paths, "comparing photographs with the cache", self.progress)
        for path, content in zip(self.paths, digests, strict=True):
            digest.update(os.fsencode(f"{path.name} {path.stat().st_size} {content}\n"))
        return self.folder / digest.hexdigest()[:32]

    def load(self):
        """[decode(path)] for all paths, with mapped images; packs them first if necessary.

        Raises UserError if the pack cannot be written.
        """
        if (records := self.read()) is not None:
            return records
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder):
                if self.read() is None:  # no other process has packed them while this one waited
                    self.build()
                return self.read()
        except OSError as error:
            needed = gib(sum(self.decoded_bytes))
            raise UserError(
                f"{self.folder} cannot hold the decoded photographs, {needed} ({error.strerror}): make room, name "
                "another folder with SRGAN_CACHE, or use --cache=none"
            ) from error

    def read(self):
        """[decode(path)] for all paths, with images mapped read-only; None if there is no complete pack."""
        pixels_file = self.directory / "pixels.bin"
        try:
            index = json.loads((self.directory / "index.json").read_text(encoding="utf-8"))
            if pixels_file.stat().st_size != index["bytes"]:
                return None
            # A plain array: slicing a np.memmap is slower. An empty file cannot be mapped.
            pixels = np.asarray(np.memmap(pixels_file, np.uint8, "r")) if index["bytes"] else None
        except (OSError, ValueError):
            return None
        records = []
        for file in index["files"]:
            if "reason" in file:
                records.append((None, None, file["reason"]))
            else:
                image = pixels[file["offset"] : file["offset"] + math.prod(file["shape"])].reshape(file["shape"])
                records.append((image, file["pixel_hash"], None))
        return records

    def build(self):
        """Decode all images and write the directory; the caller holds the folder's lock. Raises OSError."""
        for leftover in self.folder.glob("unfinished-*"):  # a killed process's: only one writes here at a time
            shutil.rmtree(leftover)
        if self.directory.exists():
            print(f"{self.directory} is damaged, pixels.bin and index.json do not agree: packing again")
            shutil.rmtree(self.directory)
        temporary = self.folder / f"unfinished-{self.directory.name}"
        try:
            temporary.mkdir()
            files = []
            with open(temporary / "pixels.bin", "wb") as pixels:
                records = each(decode, self.paths, "packing photographs", self.progress, self.decoded_bytes)
                for path, (image, digest, reason) in zip(self.paths, records, strict=True):
                    if reason:
                        files.append({"name": path.name, "reason": reason})
                        continue
                    facts = {"shape": image.shape, "offset": pixels.tell(), "pixel_hash": digest}
                    files.append({"name": path.name} | facts)
                    pixels.write(np.ascontiguousarray(image))
                size = pixels.tell()
                flush(pixels)
            with open(temporary / "index.json", "w", encoding="utf-8") as index:
                json.dump({"bytes": size, "files": files}, index)
                flush(index)
            os.replace(temporary, self.directory)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def file_sha256(path):
    """SHA-256 of a file's bytes; "unreadable" if it cannot be read: decode() will report that."""
    try:
        return file_digest(path, "sha256")
    except OSError:
        return "unreadable"


def flush(file):
    """Make sure that what was written to an open file is on the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def locked(folder):
    """Hold the folder's lock: one process packs at a time, the others print that they wait."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another process is packing photographs into {folder}: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
