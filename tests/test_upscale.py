"""Tiles that are the whole picture to the last bit; the command with good and bad files."""

import io
import itertools
import math
import os
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import PROJECT, TINY_SETTINGS, assert_refused, photo
from PIL import Image

import upscale
import utils
from cli import terminal
from config import make_config
from images import pictures
from inference import tiles
from inference.tiles import windows
from networks.receptive import receptive_radius
from networks.registry import build_generator
from runs import store
from upscale import Upscaler

# ---------------------------------------------------------------------------------------------------------------------
# Windows and the network's radius


def test_windows_cover_and_hold_what_the_network_needs():
    sizes = [1, 9, 81, 95, 96, 97, 119, 120, 121, 263, 400, 1000]
    for n, tile, halo, (grid, step) in itertools.product(
        sizes, [24, 50, 128], [3, 9, 40, 42], [(1, 1), (tiles.GRID, 1), (1, 4)]
    ):
        parts = windows(n, tile, halo, grid, step)
        assert all(start % step == 0 == (n - stop) % step for (start, stop), _ in parts)
        assert [part.core[0] for part in parts] == [0, *(part.core[1] for part in parts[:-1])]
        assert parts[-1].core[1] == n
        assert len({part.span[1] - part.span[0] for part in parts}) == 1
        for (start, stop), (first, last) in parts:
            assert 0 <= start <= max(first - halo, 0) and min(last + halo, n) <= stop <= n
            most = math.ceil((tile + 2 * halo) / grid) * grid + 2 * (step - 1)
            assert stop - start <= most or grid > 1 and len(parts) == 1
            if len(parts) > 1:
                assert (stop - start) % grid == 0 and last > first


@pytest.mark.parametrize("more", [(), ("MODEL.blocks=3", "MODEL.scale=2"), ("MODEL.scale=8",)])
def test_radius_is_where_the_network_stops_to_see(more):
    """One lit pixel on black, positive weights: it reaches as far as the radius says and no further."""
    config = make_config(overrides=(*TINY_SETTINGS, *more)).MODEL
    network = build_generator(config)
    for layer in network.layers:
        weights = [np.full_like(array, 0.1 if array.ndim == 4 else 0) for array in layer.get_weights()]
        if "_bn" in layer.name:
            weights = [weights[0] + 1, weights[1], weights[2], weights[3] + 1]
        layer.set_weights(weights)
    radius = receptive_radius(config)
    lr = np.zeros((1, 2 * radius + 9, 2 * radius + 9, 3), np.float32)
    lr[0, radius + 4, radius + 4] = 1
    lit = (network(lr, training=False).numpy()[0] > 0).any(axis=-1)
    for axis in (0, 1):
        reached = np.flatnonzero(lit.any(axis=axis)) // config.scale
        assert (reached.min(), reached.max()) == (4, 2 * radius + 4)


# ---------------------------------------------------------------------------------------------------------------------
# Tiles


@pytest.fixture(scope="module")
def tiny(tiny_run):
    return Upscaler(tiny_run, tile=24, exact=True)


def whole_of(upscaler, lr):
    """SR of one call of the network on all of a picture."""
    [part] = upscaler.parts
    return utils.m11_to_u8(part(utils.u8_to_01(lr)[None])[0])


@pytest.mark.slow
def test_tiles_are_the_whole_picture(tiny, rng):
    """Against one call of the network on all of it, and against another tile size, for all kinds of arrays."""
    lr = photo(rng, 168, 144)
    whole = whole_of(tiny, lr)
    assert len(tiny.windows(168)) > 3 and 30 < whole.mean() < 220
    assert np.array_equal(tiny.upscale(lr), whole)
    cases = [(np.uint8, 1), (np.uint8, 2), (np.uint8, 3), (np.uint8, 4), (np.uint16, 3), (np.uint16, 4)]
    for (dtype, channels), shape in zip(cases, itertools.cycle([(61, 90), (131, 83)])):
        lr = rng.integers(0, np.iinfo(dtype).max + 1, (*shape, channels)).astype(dtype)
        results = []
        for tile in (24, 41, 500):
            tiny.tile = tile
            results.append(tiny.upscale(lr))
        tiny.tile = 24
        assert results[0].dtype == dtype and results[0].shape == (4 * shape[0], 4 * shape[1], channels)
        assert all(np.array_equal(results[0], result) for result in results[1:])


@pytest.mark.slow
def test_a_halo_that_is_too_small_shows(tiny, rng, monkeypatch):
    lr = photo(rng, 96, 96)
    whole = tiny.upscale(lr)
    monkeypatch.setattr(tiny, "halo", 4)
    assert not np.array_equal(tiny.upscale(lr), whole)


@pytest.mark.slow
def test_tiles_with_the_bicubic_skip(rng, tmp_path):
    config = make_config(overrides=[*TINY_SETTINGS, "MODEL.skip=bicubic"])
    generator = build_generator(config.MODEL)
    generator.set_weights([w + rng.uniform(0, 0.05, w.shape) for w in generator.get_weights()])
    store.create(run := store.Run(tmp_path / "skip", "srresnet", "slides", config), {})
    store.save_weights(generator, run.directory / store.WEIGHTS)
    upscaler = Upscaler(run.directory, tile=24, exact=True)
    lr = photo(rng, 120, 96)
    whole = whole_of(upscaler, lr)
    assert upscaler.count(120, 96) > 3 and np.array_equal(upscaler.upscale(lr), whole)


@pytest.fixture(scope="module")
def shipped():
    return Upscaler("srresnet_x4", exact=True)


@pytest.mark.slow
def test_tiles_of_the_shipped_network_on_a_photograph(shipped):
    """Real weights, real photograph, two tile sizes and the whole, bit for bit."""
    from skimage.data import chelsea

    lr = chelsea()[60:168, 100:220]
    whole = whole_of(shipped, lr)
    for tile in (40, 57):
        shipped.tile = tile
        assert shipped.count(*lr.shape[:2]) > 1
        assert np.array_equal(shipped.upscale(lr), whole)


def test_gray_and_depth_and_shapes(tiny, rng):
    gray = photo(rng, 30, 40)[..., 0]
    colour = tiny.upscale(np.dstack([gray] * 3)).astype(float)
    assert tiny.upscale(gray).shape == (120, 160)
    assert np.abs(tiny.upscale(gray) - colour.mean(axis=-1)).max() <= 1
    deep = tiny.upscale(gray.astype(np.uint16) * 257)
    assert np.abs(deep / 257 - tiny.upscale(gray)).max() <= 0.51 and (deep % 257).any()
    assert tiny.upscale(gray[:1, :1]).shape == (4, 4)
    for wrong in (gray.astype(np.float32), np.zeros((3, 3, 5), np.uint8), np.zeros((0, 3, 3), np.uint8)):
        with pytest.raises(utils.UserError, match="takes uint8 or uint16"):
            tiny.upscale(wrong)


@pytest.mark.slow
def test_alpha_has_no_dark_fringe(shipped):
    """A light disc on nothing that is stored as black: where anything is seen of the disc, it is light."""
    y, x = np.mgrid[:48, :48]
    inside = (y - 24) ** 2 + (x - 24) ** 2 < 200
    lr = np.zeros((48, 48, 4), np.uint8)
    lr[inside] = (200, 200, 200, 255)
    sr = shipped.upscale(lr)
    assert np.array_equal(sr[..., 3:], utils.imresize(lr[..., 3:], 4))
    seen = sr[..., 3] > 8
    assert sr[seen][:, :3].min() > 190
    flat = shipped.upscale(np.ascontiguousarray(lr[..., :3]))  # what would be without the filling
    assert flat[seen].min() < 150


@pytest.mark.slow
def test_scale_shrinks_by_bicubic(tiny_run, tiny, rng):
    lr = photo(rng, 70, 90)
    large = tiny.upscale(lr)
    for scale in (2, 3):
        for tile in (24, 400):
            smaller = Upscaler(tiny_run, tile=tile, scale=scale, exact=True).upscale(lr)
            assert np.array_equal(smaller, utils.imresize(large, scale / 4))
    with pytest.raises(utils.UserError, match="--scale 8 needs other --weights"):
        Upscaler(tiny_run, scale=8)


@pytest.mark.slow
def test_blend_mixes_the_weights(tiny_run, tiny, rng, tmp_path, monkeypatch):
    about = store.describe_weights(tiny_run)[1]
    other = build_generator(about["config"].MODEL)
    monkeypatch.setenv("SRGAN_RUNS", str(tmp_path))
    monkeypatch.setattr(store, "PROJECT", tmp_path)
    with pytest.raises(utils.UserError, match="there are no weights at 'srresnet_x4'"):
        Upscaler(tiny_run, blend=0.5)
    store.create(run := store.Run(tmp_path / "srresnet_x4", "srresnet", "slides", about["config"]), {})
    store.save_weights(other, run.directory / store.WEIGHTS)
    lr = photo(rng, 20, 20)
    exact = {"exact": True}
    smooth = Upscaler("srresnet_x4", **exact).upscale(lr)
    assert np.array_equal(Upscaler(blend=None, **exact).upscale(lr), smooth)  # the default where there is no srgan_x4
    assert np.array_equal(Upscaler(tiny_run, blend=0, **exact).upscale(lr), smooth)
    assert np.array_equal(Upscaler(tiny_run, blend=1, **exact).upscale(lr), tiny.upscale(lr))
    half = Upscaler(tiny_run, blend=0.5, **exact).upscale(lr)
    assert not np.array_equal(half, smooth) and not np.array_equal(half, tiny.upscale(lr))
    with pytest.raises(utils.UserError, match="is no SRGAN"):
        Upscaler("srresnet_x4", blend=0.5)


@pytest.mark.slow
def test_short_memory_halves_the_tiles(tiny_run, rng, monkeypatch, capsys):
    lr = photo(rng, 200, 100)
    upscaler = Upscaler(tiny_run, tile=200, exact=True)
    whole = upscaler.upscale(lr)
    run, counted = upscaler.run, []

    def run_in_little(lr_01, dtype):
        if lr_01.shape[1] > 80:
            raise MemoryError
        return run(lr_01, dtype)

    monkeypatch.setattr(upscaler, "run", run_in_little)
    assert np.array_equal(upscaler.upscale(lr, progress=counted.append), whole)
    assert upscaler.tile == 50 and sum(counted) == 200 * 100
    assert "memory is short" in capsys.readouterr().err
    monkeypatch.setattr(upscaler, "run", lambda *args: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(utils.UserError, match="not enough memory, even for tiles of"):
        upscaler.upscale(lr)


def test_tile_follows_free_memory(tiny_run, monkeypatch):
    config = store.describe_weights(tiny_run)[1]["config"].MODEL
    for exact, most in ((True, tiles.EXACT_TILE), (False, tiles.TILE)):
        monkeypatch.undo()
        upscaler = Upscaler(tiny_run, exact=exact)
        assert upscaler.tile == most or tiles.free_memory() < 2**30
        monkeypatch.setattr(tiles, "free_memory", lambda: 0)
        assert upscaler.affordable_tile(config) == tiles.LEAST_TILE
        pixel = (tiles.BYTES_WHOLE if exact else upscaler.bytes) * config.width
        for side in (120, 240):
            monkeypatch.setattr(tiles, "free_memory", lambda side=side, pixel=pixel: 2 * pixel * side**2 + 1)
            assert upscaler.affordable_tile(config) == side - 2 * upscaler.halo
    monkeypatch.undo()
    monkeypatch.setattr(tiles, "MOST", pixel * 72**2)
    assert upscaler.affordable_tile(config) == 72 - 2 * upscaler.halo


@pytest.mark.slow
def test_an_engine_gives_its_memory_back_and_goes_on(tiny_run, rng):
    """What a converted engine had loaded is gone after release(), and the next picture is the same."""
    pytest.importorskip("ai_edge_litert")
    lr, upscaler = photo(rng, 20, 30), Upscaler(tiny_run, engine="litert")
    before, part = upscaler.upscale(lr), weakref.ref(upscaler.parts[0])
    upscaler.release()
    assert part() is None
    assert np.array_equal(upscaler.upscale(lr), before)
    other = Upscaler(tiny_run, engine="tensorflow")
    other.release()
    assert other.upscale(lr).shape == before.shape


GIB = 2**30


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("limit", "free"), [(4 * GIB, 3 * GIB), (2**63 - 4096, 20 * GIB), ("max", 20 * GIB)])
def test_what_was_read_is_no_used_memory(tmp_path, version, limit, free):
    """A container of 4 GiB that holds 1 GiB, and 3 GiB of files that it has read: 3 GiB are free."""
    folder = tmp_path / "sys/fs/cgroup" / ("memory" if version == 1 else "")
    folder.mkdir(parents=True)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {20 * 2**20} kB\n")
    assert tiles.free_memory(tmp_path) == 20 * GIB
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    for name, value in zip(names, (limit, 4 * GIB), strict=True):
        (folder / name).write_text(f"{value}\n")
    inactive = f"{'total_' if version == 1 else ''}inactive_file {3 * GIB}\n"
    (folder / "memory.stat").write_text(f"anon {GIB}\n{inactive}active_file 7\n")
    assert tiles.free_memory(tmp_path) == free


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def command(tiny_run, monkeypatch, capsys):
    """command("a.png", …) → (exit status, standard output, standard error), with the tiny network, in this process."""

    def run_command(*arguments):
        monkeypatch.setattr(sys, "argv", ["upscale.py", "--weights", str(tiny_run), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            terminal.run_command(upscale.main)
        return end.value.code or 0, *capsys.readouterr()

    return run_command


@pytest.fixture
def album(tmp_path, rng):
    """A folder with pictures of several kinds, one in a folder in it."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(photo(rng, 20, 30)).save(folder / "a.png")
    Image.fromarray(photo(rng, 20, 30)).save(folder / "b.JPG", format="JPEG")
    Image.fromarray(photo(rng, 20, 30)[..., 0]).save(folder / "deep" / "c.bmp")
    (folder / "notes.txt").write_text("not for us")
    (folder / ".hidden.png").write_text("nor this")
    return folder


def names(folder):
    return [str(path.relative_to(folder)) for path in utils.list_files(folder)]


@pytest.mark.slow
def test_folders_keep_their_structure_and_finished_files_are_skipped(command, album, tmp_path):
    out = tmp_path / "out"
    status, printed, _ = command(album, "-o", out)
    assert status == 0 and names(out) == ["a.png", "b.JPG", "deep/c.bmp"]
    assert printed.count("(30×20 → 120×80, 1 tile, ") == 3 and "engine: tensorflow, tiles of " in printed
    assert pictures.read(out / "deep" / "c.bmp", 1).shape == (80, 120, 1)
    before = (out / "a.png").stat().st_mtime_ns
    (out / "b.JPG").unlink()
    status, printed, _ = command(album, "-o", out)
    assert status == 0 and "skipped: 2" in printed and printed.count(", 1 tile,") == 1
    assert (out / "a.png").stat().st_mtime_ns == before
    assert command(album, "-o", out, "--overwrite")[1].count(", 1 tile,") == 3
    assert (out / "a.png").stat().st_mtime_ns > before


@pytest.mark.slow
def test_beside_the_input_and_again(command, album):
    """Outputs of the first run are no inputs of the second, whatever its factor."""
    assert command(album)[0] == 0
    first = names(album)
    assert {"a_x4.png", "b_x4.JPG", "deep/c_x4.bmp"} < set(first)
    status, printed, _ = command(album)
    assert status == 0 and names(album) == first and "skipped: 3" in printed and printed.count("left out") == 3
    assert command(album, "--scale", 2)[0] == 0
    status, printed, _ = command(album)
    assert status == 0 and printed.count("left out") == 6
    assert names(album) == sorted([*first, "a_x2.png", "b_x2.JPG", "deep/c_x2.bmp"])


@pytest.mark.slow
def test_what_was_made_here_is_known_by_itself(command, album, tmp_path, rng):
    """Also under another name and elsewhere; a photograph that is only called so is taken, and what is named alone."""
    assert command(album / "a.png", "-o", album / "large.png")[0] == 0
    (album / "large.png").rename(album / "deep" / "other.png")
    Image.fromarray(photo(rng, 20, 30)).save(album / "photo_x4.png")
    status, printed, _ = command(album, "-o", tmp_path / "out")
    assert status == 0 and names(tmp_path / "out") == ["a.png", "b.JPG", "deep/c.bmp", "photo_x4.png"]
    assert printed.count("left out") == 1 and "other.png, it was made here" in printed
    assert command(album / "deep" / "other.png", "-o", tmp_path / "again.png")[0] == 0
    with Image.open(tmp_path / "again.png") as image:
        assert image.size == (480, 320)
    status, _, errors = command(album / "large.png", tmp_path / "out")
    assert status == 2 and "there is nothing to upscale" in errors


def test_no_target_is_an_input(command, album, tmp_path, rng):
    """By another input's name, a link, or a name that its folder takes for the same."""
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(photo(rng, 20, 30)).save(other / "a.png")
    before = (other / "a.png").read_bytes()
    status, _, errors = command(album / "a.png", other / "a.png", "-o", other, "--overwrite")
    assert status == 1 and (other / "a.png").read_bytes() == before
    assert f"its output would be the input {other / 'a.png'}" in errors and "its output would be itself" in errors
    (tmp_path / "link").symlink_to(other)
    os.link(other / "a.png", tmp_path / "hard.png")
    for source, out in [
        (album / "a.png", tmp_path / "link"),
        (album / "a.png", tmp_path / "link" / "a.png"),
        (album / "a.png", tmp_path / "hard.png"),
    ]:
        args = SimpleNamespace(out=out, suffix=None, format=None, overwrite=True)
        failures = upscale.Failures()
        found = {source: Path(source.name), other / "a.png": Path("b.png")}
        jobs = upscale.plan(args, found, 4, failures)
        assert source not in [job.source for job in jobs] and failures.count


def test_two_names_that_a_folder_takes_for_one(command, album, tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(album / "A.PNG")
    out = tmp_path / "out"
    monkeypatch.setattr(upscale, "ignores_case", lambda folder: True)
    status, _, errors = command(album / "a.png", album / "A.PNG", "-o", out)
    assert status == 2 and "would both become" in errors and not out.exists()
    monkeypatch.undo()
    assert not upscale.ignores_case(tmp_path / "Nowhere" / "yet")
    (tmp_path / "CASE").symlink_to(tmp_path / "case")
    (tmp_path / "case").mkdir()
    assert upscale.ignores_case(tmp_path / "case" / "new")


@pytest.mark.slow
def test_what_o_names_is_what_is_written(command, album, tmp_path):
    for out, more, words in [
        ("b.jpg", ("--format", "png"), "is no png, as --format has it"),
        ("b.heic", (), "is of a kind that is not written; there are .png, .jpg"),
        ("b.psd", (), "is of a kind that is not written"),
        ("b.wmv", (), "is of a kind that is not written"),
    ]:
        status, _, errors = command(album / "a.png", "-o", tmp_path / out, *more)
        assert status == 2 and words in errors and not (tmp_path / out).exists()
    for suffix in ("a:b", "a/b", "?"):  # the first and last are no part of a name on Windows
        status, _, errors = command(album / "a.png", "--suffix", suffix)
        assert status == 2 and "a part of a file's name" in errors
    assert command(album / "a.png", "-o", tmp_path / "b.jpeg", "--format", "jpg")[0] == 0
    assert command(album / "a.png", "-o", tmp_path / "version.2")[0] == 0
    assert names(tmp_path / "version.2") == ["a.png"]


@pytest.mark.slow
def test_names_that_are_not_utf_8(command, album, tmp_path, monkeypatch):
    strange = os.fsdecode(b"caf\xe9.png")
    (album / "a.png").rename(album / strange)
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    assert command(album, "-o", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / strange).is_file()
    stream.flush()
    assert rb"caf\udce9.png" in stream.buffer.getvalue()


@pytest.mark.slow
def test_output_inside_the_input_and_globs_and_formats(command, album, tmp_path):
    out = album / "out"
    for _ in range(2):
        assert command(album, "-o", out)[0] == 0
        assert names(out) == ["a.png", "b.JPG", "deep/c.bmp"]
    other = tmp_path / "other"
    assert command(str(album / "*.[pJ]*"), "-o", other, "--format", "webp", "--suffix=-big")[0] == 0
    assert names(other) == ["a-big.webp", "b-big.webp"]
    assert command(album / "a.png", "-o", tmp_path / "one.jpg")[0] == 0
    with Image.open(tmp_path / "one.jpg") as image:
        assert image.format == "JPEG" and image.size == (120, 80)


def test_the_python_way_and_the_command_agree(command, album, tiny, tmp_path):
    command(album / "a.png", "-o", tmp_path / "a.png", "--exact")
    with Image.open(album / "a.png") as image:
        assert np.array_equal(pictures.read_image(tmp_path / "a.png"), tiny.upscale(np.asarray(image)))


def test_inks_are_upscaled_as_they_are(command, tiny, rng, tmp_path):
    inks = np.dstack([photo(rng, 30, 40), photo(rng, 30, 40)[..., :1]])
    Image.frombytes("CMYK", (40, 30), inks.tobytes()).save(tmp_path / "c.tif")
    assert command(tmp_path / "c.tif", "--exact")[0] == 0
    with Image.open(tmp_path / "c_x4.tif") as image:
        result = np.asarray(image)
    assert np.array_equal(result[..., :3], 255 - tiny.upscale(255 - inks[..., :3]))
    assert np.array_equal(result[..., 3:], 255 - tiny.upscale(255 - inks[..., 3:]))


@pytest.mark.slow
def test_bad_files_do_not_stop_the_others(command, album, tmp_path):
    (album / "empty.png").write_bytes(b"")
    (album / "cut.jpg").write_bytes((album / "b.JPG").read_bytes()[:300])
    (album / "film.mp4").write_text("no video")
    out = tmp_path / "out"
    status, _, errors = command(album, album / "nothing.png", "-o", out)
    assert status == 1 and names(out) == ["a.png", "b.JPG", "deep/c.bmp"]
    for name, words in {
        "empty.png": "is empty",
        "cut.jpg": "cannot be read",
        "film.mp4": "no film of a kind that is read",
        "nothing.png": "there is no such file",
    }.items():
        assert sum(name in line and words in line for line in errors.splitlines()) == 1
    assert "4 of the inputs could not be upscaled" in errors and "Traceback" not in errors


def test_a_full_disk_and_a_folder_that_cannot_be_read(command, album, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device", str(path))

    replace, walk = os.replace, os.scandir

    def closed(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return walk(path)

    monkeypatch.setattr(os, "scandir", closed)
    monkeypatch.setattr(os, "replace", lambda a, b: full(b) if str(b).endswith(".png") else replace(a, b))
    out = tmp_path / "out"
    status, _, errors = command(album, "-o", out)
    assert status == 1 and names(out) == ["b.JPG"]
    assert "No space left on device" in errors and "deep: Permission denied" in errors


def test_what_is_refused_before_anything_is_done(command, album, tmp_path):
    for arguments, words in {
        (tmp_path / "no_folder",): "there is nothing to upscale",
        (album, "-o", album / "a.png"): "-o",
        (album / "a.png", album, "--format", "png", "-o", tmp_path, "--weights", "nowhere"): "there are no weights at",
        (album / "a.png", "--outscale", "20"): "a factor from 1 to 16",
    }.items():
        status, _, errors = command(*arguments)
        assert status == 2 and words in errors and "Traceback" not in errors
    Image.new("L", (4, 4)).save(album / "a.jpg")
    status, _, errors = command(album, "-o", tmp_path / "out", "--format", "png")
    assert status == 2 and "would both become" in errors and not (tmp_path / "out").exists()
    status, _, errors = command(album / "a.png", "-o", album)
    assert status == 1 and "its output would be itself" in errors
    status, _, errors = command(album / "a.png", "-o", tmp_path / "out", "--max-megapixels", "0.0001")
    assert status == 1 and "30×20 pixels, more than --max-megapixels" in errors
    status, _, errors = command(album / "a.png", "-o", tmp_path / "still.gif")  # a GIF's 256 colours are for animations
    assert status == 1 and "cannot become still.gif: give a --format" in errors


def test_globs_of_folders_and_turned_photographs(command, tmp_path):
    """A folder that a glob has found is gone into; the size told is that of the upright picture."""
    folder = tmp_path / "in" / "some.png"
    folder.mkdir(parents=True)
    turned = Image.Exif()
    turned[274] = 6
    Image.new("RGB", (20, 30), "red").save(folder / "x.png", exif=turned)
    status, printed, errors = command(str(tmp_path / "in" / "*.png"), "-o", tmp_path / "out")
    assert status == 0 and not errors.strip().startswith("upscale.py"), errors
    assert "(30×20 → 120×80" in printed
    with Image.open(tmp_path / "out" / "x.png") as image:
        assert image.size == (120, 80)


def test_an_animation_goes_through_the_network(command, tmp_path, rng):
    frames = [Image.fromarray(photo(rng, 20, 24)) for _ in range(3)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=70, loop=0)
    assert command(tmp_path / "x.gif")[0] == 0
    with Image.open(tmp_path / "x_x4.gif") as image:
        assert image.n_frames == 3 and image.size == (96, 80)
    status, _, errors = command(tmp_path / "x.gif", "--format", "jpg")
    assert status == 1 and "is an animation of 3 frames" in errors


def test_a_single_pixel_goes_through_the_network(command, tmp_path):
    Image.new("RGB", (1, 1), "red").save(tmp_path / "a.png")
    status, printed, _ = command(tmp_path / "a.png", "-o", tmp_path / "out")
    assert status == 0 and "1×1 → 4×4" in printed


def test_arguments_are_checked(call, clone):
    for arguments, words in {
        ("a.png", "--tile", "3"): "24 or more",
        ("a.png", "--blend", "2"): "from 0 to 1",
        ("a.png", "--engine", "best"): "invalid choice: 'best'",
        ("a.png", "--exact", "--half"): "exclude each other",
        ("a.png", "--exact", "--engine", "litert"): "--exact needs --engine tensorflow, not litert",
        ("a.png", "--suffix", "/x"): "part of a file's name",
        ("a.png",): "there are no weights",
    }.items():
        assert_refused(call("upscale.py", *arguments), words)
    assert "exit status" in " ".join(call("upscale.py", "--help").stdout.split())


@pytest.mark.slow
def test_the_shipped_network_as_a_command(run, clone, shipped):
    """A fresh process, the shipped weights, a real photograph in, its ×4 out."""
    import shutil

    from skimage.data import chelsea

    shutil.copytree(PROJECT / "checkpoint" / "srresnet_x4", clone / "checkpoint" / "srresnet_x4")
    Image.fromarray(chelsea()[100:148, 100:172]).save(clone / "cat.png")
    result = run("upscale.py", "cat.png", "--exact")
    assert result.returncode == 0, result.stderr
    assert "srresnet_x4, ×4" in result.stdout and "cat.png → cat_x4.png" in result.stdout
    sr = pictures.read_image(clone / "cat_x4.png")
    assert np.array_equal(sr, shipped.upscale(chelsea()[100:148, 100:172]))
