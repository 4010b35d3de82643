"""The training photographs: which are used, what is kept where, and packs that outlive kills and cuts."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest
from conftest import PROJECT, photo, read_photographs
from filelock import FileLock
from PIL import Image

import data
import utils
from images import hashes, photographs, pictures
from utils import UserError

pytestmark = pytest.mark.usefixtures("packs")


def refuse_to_decode(monkeypatch):
    def read_image(path):
        raise AssertionError(f"{path} is decoded")

    monkeypatch.setattr(pictures, "read_image", read_image)


def in_process(folder, preparation, **settings):
    """Start a Python that runs `preparation`, then packs the photographs of a folder and says "done"."""
    code = (
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\nimport utils\n"
        f"from images import photographs, pictures\n{preparation}\n"
        f"photographs.Photographs(utils.list_images({str(folder)!r}), 32, 0.0, 'disk', False)\nprint('done')"
    )
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-B", "-c", code], stdout=pipe, stderr=pipe, text=True, **settings)


def only_pack(packs):
    (pack,) = [path for path in packs.iterdir() if path.is_dir()]
    return pack


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
def test_unusable_images_are_named_and_skipped(folder, rng, monkeypatch, cache):
    """Nothing of that is in a pack: it is read again with another minimum and another list of test images."""
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    utils.write_image(folder / "small.png", photo(rng, 31, 64))
    test_image = photo(rng, 64, 64)
    utils.write_image(folder / "leak.png", test_image)
    manifest = {hashes.pixel_hash(test_image): ("Set5", "baby", 1)}
    for known, minimum, count in [(manifest, 32, 7), ({}, 31, 9)]:
        monkeypatch.setattr(photographs, "load_manifest", lambda known=known: known)
        photos = read_photographs(folder, minimum=minimum, cache=cache)
        reasons = {path.name: reason for path, reason in photos.skipped}
        assert len(photos) == count and len(reasons) == 10 - count
        assert f"{folder / 'broken.jpg'} is not a picture" in reasons["broken.jpg"]
        if known:
            assert "is too small: 64×31, a crop needs 32×32" in reasons["small.png"]
            assert "is refused: it is the test image baby of Set5" in reasons["leak.png"]


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_names_may_hold_any_bytes(folder, cache):
    """A name that is not UTF-8 is one like others; the names of before are digested as before."""
    before = read_photographs(folder, cache=cache)
    lines = "\n".join(f"{path.name} {path.stat().st_size}" for path in before.paths)
    assert (known := before.fingerprint()) == hashlib.sha256(lines.encode()).hexdigest()[:16]
    (folder / "a" / "photo1.png").rename(folder / "a" / os.fsdecode(b"caf\xe9.png"))
    photos = read_photographs(folder, cache=cache)
    assert len(photos) == 7 and photos.fingerprint() != known
    training, held_out = photos.split(1)
    assert len(training) == 6 and len(held_out) == 1


def test_real_test_images_are_refused(shared, tmp_path):
    """Set5's woman, also cropped and in another file format."""
    woman = pictures.read_image(shared / "Set5" / "woman.bmp")
    utils.write_image(tmp_path / "a.png", woman)
    utils.write_image(tmp_path / "b.tif", utils.mod_crop(woman, 8))
    with pytest.raises(UserError, match="none of the 2 images can be used.*woman of Set5"):
        read_photographs(tmp_path)


def test_kept_photographs_stay_within_cache_gib(folder):
    sizes = [image.nbytes for image in read_photographs(folder).kept.values()]
    assert len(sizes) == 7
    bound = sum(sizes[:3]) + 1
    photos = read_photographs(folder, cache_gib=bound / 2**30, cache="ram")
    assert 0 < sum(image.nbytes for image in photos.kept.values()) <= bound
    assert len([photos[i] for i in range(7)]) == 7


def test_validation_is_held_out_by_name(folder, rng):
    photos = read_photographs(folder)
    training, held_out = photos.split(8)
    assert sorted(training + held_out) == list(range(7)) and len(held_out) == 1
    assert photos.split(0) == (list(range(7)), [])
    (folder / "a").rename(folder / "z")  # other paths, in another order
    again = read_photographs(folder)
    assert [p.name for p in again.paths] != [p.name for p in photos.paths]
    assert [again.paths[i].name for i in again.split(8)[1]] == [photos.paths[i].name for i in held_out]


@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
def test_every_cache_gives_the_decoded_pixels(folder, rng, cache):
    """Also of a gray file and of one that is turned upright, whose pixels do not lie in a row."""
    utils.write_image(folder / "gray.png", photo(rng, 40, 50)[..., :1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo(rng, 40, 70)).save(folder / "turned.jpg", exif=exif)
    photos = read_photographs(folder, cache=cache)
    assert photos.sizes[[path.name for path in photos.paths].index("turned.jpg")] == (70, 40)
    for _ in range(2):  # packed, then read
        assert len(photos) == 9
        for i, path in enumerate(photos.paths):
            expected = utils.to_rgb(pictures.read_image(path))
            np.testing.assert_array_equal(photos[i], expected)
            assert photos.sizes[i] == expected.shape[:2]
        photos = read_photographs(folder, cache=cache)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_after_the_start_nothing_is_decoded_again(folder, monkeypatch, cache):
    photos = read_photographs(folder, cache=cache)
    refuse_to_decode(monkeypatch)
    assert all(photos[i].shape == (*photos.sizes[i], 3) for i in range(7))
    if cache == "disk":  # and at the next start not even once
        assert len(read_photographs(folder, cache=cache)) == 7
        with pytest.raises(ValueError, match="read-only"):
            photos[0][:] = 0


def test_without_a_cache_nothing_is_kept(folder):
    photos = read_photographs(folder, cache="none")
    assert not photos.kept
    utils.write_image(photos.paths[2], np.zeros((33, 33, 3), np.uint8))
    with pytest.raises(UserError, match="photo5.png was changed during the training"):
        photos[2]


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    ("cache_gib", "free", "packed", "sentence"),
    [
        (1.0, 0, False, "cache: ram, 0.00 GiB of decoded photographs fit into DATA.cache_gib=1"),
        (0.0, 2, False, "cache: disk, 0.00 GiB of decoded photographs are more than DATA.cache_gib=0 and"),
        (0.0, 1.9, False, "cache: none, 0.00 GiB of decoded photographs are more than DATA.cache_gib=0 and"),
        (0.0, 1.9, True, "cache: disk, 0.00 GiB of decoded photographs are more than DATA.cache_gib=0 and"),
    ],
)
def test_auto_takes_the_first_that_fits(folder, packs, monkeypatch, capsys, cache_gib, free, packed, sentence):
    """Memory, then a disk with twice the room or the pack already on it, then nothing; and says so in one line."""
    decoded = sum(pictures.read_image(path).size for path in utils.list_images(folder))
    if packed:
        read_photographs(folder, cache="disk")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10 * decoded, 0, int(free * decoded)))
    photos = read_photographs(folder, cache_gib=cache_gib)
    printed = capsys.readouterr().out
    assert printed.startswith(sentence) and printed.count("\n") == 1
    assert packs.exists() == ("disk" in sentence)
    assert len(photos.kept) == (0 if "none" in sentence else 7)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["ram", "disk", "none"])
def test_host_memory_is_bounded(tmp_path, rng, monkeypatch, cache):
    """While loading and while training: what may be kept, and twelve times what may wait or the largest photograph."""
    for i in range(48):
        utils.write_image(tmp_path / f"{i}.jpg", photo(rng, 300 + i, 400))
    largest, cache_gib = 3 * 347 * 400, 4e6 / 2**30
    monkeypatch.setattr(photographs, "IN_FLIGHT", largest)
    bound = 12 * largest + (4e6 if cache == "ram" else 0)
    assert bound < 0.6 * 48 * 3 * 300 * 400  # keeping all would be noticed
    tracemalloc.start()  # NumPy and Pillow's copies report to it
    try:
        photos = read_photographs(tmp_path, cache=cache, cache_gib=cache_gib)
        for _ in data.Batches(photos, range(48), 16, 32, 4, seed=0).stream(1, 6):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < bound
    assert len(photos.kept) == {"ram": 10, "disk": 48, "none": 0}[cache]


@pytest.mark.slow
def test_no_more_results_wait_than_may(monkeypatch):
    """A consumer slower than the decoders, as a disk may be: they stop at 32 results, or at so many bytes."""
    monkeypatch.setattr(photographs, "IN_FLIGHT", 35)
    for result_bytes, may_wait in [([10] * 50, 3), ([100] * 5, 1), ([0] * 50, 32)]:
        made, numbers = [], range(len(result_bytes))
        for taken, result in enumerate(photographs.each(made.append, numbers, "", False, result_bytes)):
            time.sleep(0.01)
            assert result is None and len(made) - taken <= may_wait
        assert sorted(made) == list(numbers)


# ---------------------------------------------------------------------------------------------------------------------
# The pack


def test_changed_files_never_meet_an_old_pack(folder, packs, rng):
    paths = utils.list_images(folder)
    read_photographs(folder, cache="disk")
    stat = paths[0].stat()
    content = bytearray(paths[1].read_bytes())
    pixels = photo(rng, 50, 61)
    utils.write_image(paths[0], pixels)
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    np.testing.assert_array_equal(read_photographs(folder, cache="disk")[0], pixels)
    content[len(content) // 2] ^= 1  # one bit, of the same size
    paths[1].write_bytes(content)
    assert [path for path, _ in read_photographs(folder, cache="disk").skipped] == [paths[1]]
    assert len([path for path in packs.iterdir() if path.is_dir()]) == 3
    (folder / "a").rename(folder / "c")  # the same files in the same order elsewhere: the same pack
    (folder / "b").rename(folder / "d")
    assert [path.parent.name for path in read_photographs(folder, cache="disk").paths] == ["c"] * 2 + ["d"] * 4
    assert len([path for path in packs.iterdir() if path.is_dir()]) == 3


def test_a_killed_build_leaves_nothing_that_is_used(folder, packs):
    """kill -9 at the fifth image, with some pixels written; another set's build removes what is left."""
    kill = (
        "import os, signal; photographs.IN_FLIGHT = 1; read = pictures.read_image\n"
        "def die(path): os.kill(os.getpid(), signal.SIGKILL)\n"
        "pictures.read_image = lambda path: (die if 'photo2' in path.name else read)(path)"
    )
    process = in_process(folder, kill)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert only_pack(packs).name.startswith("unfinished-") and (only_pack(packs) / "pixels.bin").exists()
    (folder / "a" / "photo1.png").unlink()
    assert len(read_photographs(folder, cache="disk")) == 6
    assert len(only_pack(packs).name) == 32


@pytest.mark.parametrize("name", ["pixels.bin", "index.json"])
def test_a_cut_pack_is_packed_again(folder, packs, capsys, name):
    expected = [image.copy() for image in map(read_photographs(folder, cache="disk").__getitem__, range(7))]
    assert "damaged" not in capsys.readouterr().out
    os.truncate(only_pack(packs) / name, (only_pack(packs) / name).stat().st_size - 1)
    photos = read_photographs(folder, cache="disk")
    assert f"{only_pack(packs)} is damaged" in capsys.readouterr().out
    for i in range(7):
        np.testing.assert_array_equal(photos[i], expected[i])
    read_photographs(folder, cache="disk")
    assert "damaged" not in capsys.readouterr().out


def test_a_full_disk_is_said_in_one_sentence(folder, packs):
    """Here the largest file that may be written is smaller than the pack, which is refused as a full disk is."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))"
    output, error = in_process(folder, limit).communicate()
    assert "UserError" in error and "done" not in output
    sentence = error.strip().splitlines()[-1]
    for words in (f"{packs} cannot hold the decoded photographs, 0.00 GiB", "SRGAN_CACHE", "--cache=none"):
        assert words in sentence
    assert not any(path.is_dir() for path in packs.iterdir())


def test_a_cache_that_cannot_be_written_is_named(folder, packs):
    packs.write_text("a file")
    with pytest.raises(UserError, match=r"\.cache cannot hold the decoded photographs.*SRGAN_CACHE.*--cache=none"):
        read_photographs(folder, cache="disk")


def test_two_processes_pack_once(folder, packs):
    """The second says that it waits, and takes what the first has packed."""
    read_photographs(folder, cache="disk")
    pack = only_pack(packs)
    pack.rename(packs / "elsewhere")
    refuse = "def refuse(path): raise SystemExit('decoded again')\npictures.read_image = refuse"
    with FileLock(packs / "lock"):
        process = in_process(folder, refuse)
        assert process.stdout.readline().startswith(f"another process is packing photographs into {packs}: waiting")
        (packs / "elsewhere").rename(pack)
    output, error = process.communicate()
    assert (output, error, process.returncode) == ("done\n", "", 0)


def test_packs_lie_beside_the_scripts_unless_told(monkeypatch, packs):
    assert photographs.Pack([], [], False).folder == packs
    monkeypatch.delenv("SRGAN_CACHE")
    assert photographs.Pack([], [], False).folder == PROJECT / "cache"
