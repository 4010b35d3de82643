"""What the page makes of an upload: what upscale.py does, refused where that refuses, and stopped when it is told."""

import io
import os
import shutil
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import content_of, photo
from PIL import Image

import upscale
import utils
from images import pictures
from inference.tiles import Upscaler
from runs import store
from utils import UserError
from web import compare, serving
from web.compare import Making, Sessions, on_disk, plain_name, read_upload


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a b-1.png", "a b-1.png"),
        ("../../etc/passwd.png", "_.._etc_passwd.png"),
        ("x\\y\0\n.png", "x_y__.png"),
        (" .png", "upload.png"),
        ("é" * 300 + ".jpg", "é" * 80 + ".jpg"),
        ("..", "upload."),
        ("con.png", "_con.png"),
        ("com1.tar.gz", "_com1.tar.gz"),
    ],
)
def test_a_name_from_a_browser_is_no_path(name, plain):
    assert plain_name(name) == plain
    with on_disk(name, b"x") as source:
        assert source.is_file() and source.parent.name.startswith("srgan-")


@pytest.mark.slow
def test_only_what_is_offered_and_uploaded_is_opened(tmp_path):
    pytest.importorskip("gradio")
    from web.upscaling import Actions

    secret, sessions, request = tmp_path / "secret.png", Sessions(), SimpleNamespace(session_hash="a")
    secret.write_bytes(content_of(np.zeros((24, 24, 3), np.uint8)))
    (tmp_path / "page").mkdir()
    actions = Actions(["offered"], 4, serving.Folder(tmp_path / "page"), 1, sessions)
    for path in (secret, tmp_path / "page" / ".." / "secret.png"):
        assert "the upload was lost" in actions.receive(str(path), request)[1] and secret.is_file()
    sessions.of(request).replace(read_upload("a.png", secret.read_bytes(), 4, 1))
    said = [answer[0] for answer in actions.make([str(tmp_path / "weights")], 1, request, lambda *_: None)]
    assert said == ["Choose at least one method."]


@pytest.mark.slow
def test_two_pages_may_upload_the_same_bytes(tmp_path, rng):
    """Gradio keeps them as one file: the first page must not take it from the second."""
    pytest.importorskip("gradio")
    from web.upscaling import Actions

    actions = Actions([], 4, serving.Folder(tmp_path), 1, Sessions())
    (tmp_path / "a.png").write_bytes(content_of(photo(rng, 24, 30)))
    for page in "ab":
        said = actions.receive(str(tmp_path / "a.png"), SimpleNamespace(session_hash=page))[1]
        assert said == "a.png: 30×24"


def make(upload, methods, folder, share=1, stopped=None, report=lambda share, name: None):
    """A Making that has run."""
    making = Making(upload, 4, 1, folder, stopped or threading.Event(), report)
    making.run(methods, share)
    return making


@pytest.mark.slow
def test_an_upload_becomes_what_upscale_makes(runs_there, rng, tmp_path):
    """With alpha; the same bytes as upscale.py's file."""
    lr = np.dstack([photo(rng, 24, 30), np.full((24, 30), 255, np.uint8)])
    (tmp_path / "a.png").write_bytes(content_of(lr))
    job = upscale.Job(tmp_path / "a.png", tmp_path / "b.png")
    upscale.work_off(job, Upscaler("srgan_x4"), 1, lambda count: None)
    upload = read_upload("a.png", (tmp_path / "a.png").read_bytes(), 4, 1)
    assert upload.about == "a.png: 30×24"
    made = make(upload, ["bicubic", "srgan_x4"], tmp_path)
    assert [file.name for file in made.files] == ["a_x4.png"] and not made.said
    assert made.files[0].read_bytes() == (tmp_path / "b.png").read_bytes()
    assert list(made.views) == ["bicubic", "srgan_x4"]
    assert np.array_equal(made.views["bicubic"], utils.imresize(lr[..., :3], 4))
    assert np.array_equal(made.views["srgan_x4"], pictures.read_image(made.files[0])[..., :3])


@pytest.mark.slow
def test_models_side_by_side_and_the_dial(runs_there, rng, tmp_path):
    upload = read_upload("a.png", content_of(photo(rng, 24, 24)), 4, 1)
    made = make(upload, ["nearest", "srresnet_x4", "srgan_x4"], tmp_path, share=0.5)
    files = ["srgan_x4.zip", "a_srresnet_x4_x4.png", "a_srgan_x4_x4.png"]
    assert [file.name for file in made.files] == files
    assert made.said == ["a_srgan_x4_x4.png: 0.5 of srgan_x4, 0.5 of its SRResNet"]
    smooth = made.views["srresnet_x4"]
    assert np.array_equal(made.views["nearest"], upload.lr.repeat(4, axis=0).repeat(4, axis=1))
    assert np.array_equal(made.views["srgan_x4"], Upscaler("srgan_x4", blend=0.5).upscale(upload.lr))
    assert np.array_equal(smooth, Upscaler("srresnet_x4").upscale(upload.lr))
    assert np.array_equal(make(upload, ["srgan_x4"], tmp_path, share=0).views["srgan_x4"], smooth)
    assert compare.partner_of("srgan_x4") == "srresnet_x4" and compare.partner_of("srresnet_x4") is None


@pytest.mark.slow
def test_weights_that_are_written_anew_are_loaded_anew(place, runs_there, tmp_path, rng):
    shutil.copytree(place / "srgan_x4", tmp_path / "mine")
    upload = read_upload("a.png", content_of(photo(rng, 24, 24)), 4, 1)
    mine = str(tmp_path / "mine")
    before = make(upload, [mine], tmp_path).views[mine]
    shutil.copy(place / "srresnet_x4" / store.WEIGHTS, tmp_path / "mine")
    os.utime(tmp_path / "mine" / store.WEIGHTS)
    after = make(upload, [mine], tmp_path).views[mine]
    assert np.array_equal(after, Upscaler("srresnet_x4").upscale(upload.lr)) and not np.array_equal(before, after)


def test_crops_are_of_one_place(rng):
    image = photo(rng, 300, 400)
    views = {"a": image, "b": 255 - image}
    for x, y, zoom, top, left in ((0, 0, 1, 0, 0), (100, 100, 2, 172, 272), (50, 50, 8, 134, 184)):
        (first, name), (second, _) = compare.crops(views, x, y, zoom)
        side = 256 // zoom
        assert name == "a" and np.array_equal(second, 255 - first)
        assert np.array_equal(first[::zoom, ::zoom], image[top : top + side, left : left + side])
        assert np.array_equal(first, first[::zoom, ::zoom].repeat(zoom, axis=0).repeat(zoom, axis=1))
    assert compare.crops({"small": image[:20, :30]}, 50, 50, 2)[0][0].shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"<svg onload=alert(1)>", "is not a picture"),
        ("a.txt", content_of(np.zeros((8, 8, 3), np.uint8)), "cannot become a.txt"),
        ("a", content_of(np.zeros((8, 8, 3), np.uint8)), "needs an ending, as .png"),
        (".png", content_of(np.zeros((8, 8, 3), np.uint8)), "needs an ending, as .png"),
        ("a.png", content_of(np.zeros((1100, 1000), np.uint8)), r"1000×1100 pixels, more than --max-megapixels 1 "),
        ("a.jpg", content_of(np.zeros((80, 80, 3), np.uint8), "jpeg")[:200], "cannot be read"),
        ("a.mp4", b"\x00\x00\x00 ftypisom", "no film of a kind that is read .error reading header"),
    ],
)
def test_what_upscale_refuses_is_refused_at_the_drop(name, content, words):
    with pytest.raises(UserError, match=words):
        read_upload(name, content, 4, 1)


def gif_of(rng, frames):
    pages = [Image.fromarray(photo(rng, 16, 16)) for _ in range(frames)]
    pages[0].save(buffer := io.BytesIO(), format="gif", save_all=True, append_images=pages[1:], duration=50)
    return buffer.getvalue()


def test_an_animation_is_made_and_not_compared(runs_there, rng, tmp_path, monkeypatch):
    upload = read_upload("a.gif", gif_of(rng, 3), 4, 1)
    assert upload.about == "a.gif: 3 frames of 16×16" and upload.lr is None
    made = make(upload, ["bicubic", "srgan_x4"], tmp_path)
    with Image.open(made.files[0]) as image:
        assert image.n_frames == 3 and image.size == (64, 64)
    assert "not compared" in made.said[-1] and not made.views
    assert made.status.startswith("Done.")
    assert make(upload, ["bicubic"], tmp_path).status == "Of this kind only networks make something: choose one."
    monkeypatch.setattr(compare, "FRAMES", 2)
    with pytest.raises(UserError, match=r"has 3 frames of 16×16, more than this page takes: `python upscale.py`"):
        read_upload("a.gif", gif_of(rng, 3), 4, 0.000_256)


@pytest.mark.slow
def test_a_picture_too_long_for_a_jpeg_is_made(runs_there, tmp_path):
    upload = read_upload("a.png", content_of(np.zeros((1, 16400), np.uint8)), 4, 1)
    made = make(upload, ["bicubic", "srgan_x4"], tmp_path)
    with Image.open(made.files[0]) as image:
        assert image.size == (65600, 4)
    assert "too long a picture" in made.said[0] and not made.views


def test_cmyk_and_16_bits_are_shown(runs_there, rng, tmp_path):
    lr = photo(rng, 24, 24)
    Image.fromarray(lr).convert("CMYK").save(tmp_path / "inks.jpg")
    Image.fromarray(lr[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("inks.jpg", "deep.png"):
        upload = read_upload(name, (tmp_path / name).read_bytes(), 4, 1)
        made = make(upload, ["srgan_x4"], tmp_path)
        assert upload.lr.shape == (24, 24, 3) and made.views["srgan_x4"].shape == (96, 96, 3)
    assert np.array_equal(upload.lr, lr[..., :1].repeat(3, axis=2))


def test_stop_ends_the_work_and_keeps_what_was_done(runs_there, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(compare.tempfile, "tempdir", str(tmp_path))
    upload, reported, stopped = read_upload("a.png", content_of(photo(rng, 24, 24)), 4, 1), [], threading.Event()
    (tmp_path / "out").mkdir()

    def stop_at_the_second(share, method):
        assert list(tmp_path.glob("srgan-*/a.png"))  # on disk while it is worked on
        reported.append((share, method))
        if method == "srresnet_x4":
            stopped.set()

    made = make(upload, ["srgan_x4", "srresnet_x4"], tmp_path / "out", stopped=stopped, report=stop_at_the_second)
    assert reported == [(0, "srgan_x4"), (0.5, "srgan_x4"), (0.5, "srresnet_x4")]
    assert made.status == "Stopped." and list(made.views) == ["srgan_x4"]
    assert made.files == list((tmp_path / "out").iterdir()) and not list(tmp_path.glob("srgan-*"))
    before = list(reported)
    assert make(upload, ["srgan_x4"], tmp_path, stopped=stopped, report=stop_at_the_second).said == ["Stopped."]
    assert reported == [*before, (0, "srgan_x4")]  # stopped while it waited


def test_what_fails_is_said_and_the_rest_kept(runs_there, rng, tmp_path):
    upload = read_upload("a.png", content_of(photo(rng, 24, 24)), 4, 1)
    made = make(upload, ["srgan_x4", "none"], tmp_path)
    assert made.said == [
        "a.png: there are no weights at 'none': give a generator.weights.h5, its directory or a run's name"
    ]
    assert list(made.views) == ["srgan_x4"] and len(made.files) == 1


def test_what_turns_out_longer_than_it_said_ends(runs_there, rng, tmp_path, monkeypatch):
    """As a video without a duration."""
    upload = read_upload("a.gif", gif_of(rng, 4), 4, 1)
    monkeypatch.setattr(compare, "FRAMES", 0.0006)  # megapixels: two of its frames
    made = make(upload, ["srgan_x4"], tmp_path)
    assert made.said == ["a.gif: is longer than this page takes: `python upscale.py` does it"]
    assert not made.files and not list(tmp_path.iterdir())


def test_sessions_end():
    """With another upload, with their page, after half an hour without use."""
    sessions = Sessions()
    first = sessions.of(SimpleNamespace(session_hash="a"))
    assert sessions.of(SimpleNamespace(session_hash="a")) is first
    stopped, first.views = first.stopped, {"bicubic": 1}
    first.replace("an upload")
    assert stopped.is_set() and first.upload == "an upload" and not first.views and not first.stopped.is_set()
    stopped = first.stopped
    first.used -= compare.KEEP + 1
    sessions.drop_idle()
    second = sessions.of(SimpleNamespace(session_hash="b"))
    assert list(sessions) == ["b"] and stopped.is_set() and first.upload is None
    sessions.drop("b")
    sessions.drop("b")
    assert not sessions and second.upload is None


def test_what_is_offered(runs_there, place, tmp_path):
    assert compare.offered(None) == (["srgan_x4", "srresnet_x4"], 4)
    assert compare.offered(["half"]) == (["half"], 2)
    with pytest.raises(UserError, match="models of one factor can be compared, not of 2, 4"):
        compare.offered(["half", "srgan_x4"])
    with pytest.raises(UserError, match="there are no weights at 'none'"):
        compare.offered(["none"])
    shutil.copytree(place / "srgan_x4", tmp_path / "bicubic")
    for names in (["srgan_x4", str(place / "srgan_x4")], [str(tmp_path / "bicubic")]):
        with pytest.raises(UserError, match="told apart by their last names"):
            compare.offered(names)


def test_several_at_once_and_what_is_asked_for(runs_there, rng, tmp_path):
    """All by each network, in a zip, in another format and factor; an animation keeps its format."""
    lr = photo(rng, 20, 30)
    frames = [Image.fromarray(photo(rng, 8, 8)) for _ in range(2)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    others = (
        read_upload("a.png", content_of(lr[:9]), 4, 1),
        read_upload("x.gif", (tmp_path / "x.gif").read_bytes(), 4, 1),
    )
    upload = read_upload("a.png", content_of(lr), 4, 1)._replace(others=others)
    reports = []
    making = Making(
        upload,
        4,
        1,
        tmp_path,
        threading.Event(),
        lambda share, name: reports.append(share),
        compare.How(scale=2, format="webp", engine="tensorflow"),
    )
    making.run(["bicubic", "srgan_x4"], 1)
    assert [path.name for path in making.files] == ["srgan_x2.zip", "a_x2.webp", "a_x2.webp", "x_x2.gif"]
    assert making.views["srgan_x4"].shape == making.views["bicubic"].shape == (40, 60, 3)
    with zipfile.ZipFile(making.files[0]) as file:
        assert file.namelist() == ["a_x2.webp", "2_a_x2.webp", "x_x2.gif"] and not file.testzip()
        sizes = [Image.open(io.BytesIO(file.read(name))).size for name in file.namelist()]
    assert sizes == [(60, 40), (60, 18), (16, 16)]
    assert reports == sorted(reports) and reports[-1] <= 1 and len(reports) > 4


@pytest.mark.slow
def test_a_part_before_the_whole(runs_there, rng):
    lr = photo(rng, 120, 150)
    upload = read_upload("a.png", content_of(lr), 4, 1)
    for x, y, zoom, scale, share in ((50, 50, 1, 4, 1), (0, 100, 2, 4, 0.5), (30, 70, 1, 2, 1)):
        how = compare.How(scale=scale)
        parts = compare.preview(upload, 4, ["bicubic", "srgan_x4"], share, x, y, zoom, how)
        parts = {name: image for image, name in parts}
        assert list(parts) == ["bicubic, preview", "srgan_x4, preview"]
        blend = share if share < 1 else None
        whole = {
            "bicubic": utils.imresize(lr, scale),
            "srgan_x4": Upscaler("srgan_x4", scale=scale, blend=blend).upscale(lr),
        }
        for wanted, name in compare.crops(whole, x, y, zoom):
            assert np.abs(parts[f"{name}, preview"].astype(int) - wanted).max() <= 1
