"""The page that upscales: it does what upscale.py does, refuses what that refuses, and keeps nothing."""

import contextlib
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from conftest import PROJECT, open_page, photo, requested
from PIL import Image

import demo
import demo_upscale
import runs
import serving
import upscale
import utils
from demo_upscale import Session
from tiles import Upscaler
from utils import UserError

needs_packages = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, serving.GRADIO)), reason=f"needs {', '.join(serving.GRADIO)}"
)
HOSTILE = "<img src=x onerror=alert(1)> '\"&amp; ..%2f.png"


@pytest.fixture(scope="module")
def place(tiny_run, tmp_path_factory):
    """A folder of runs: a tiny SRGAN and the SRResNet that it can be mixed with, and one of another factor."""
    import keras

    import model
    from config import make_config

    folder = tmp_path_factory.mktemp("place")
    about = runs.describe_weights(tiny_run)[1]
    other = make_config("srresnet", overrides=["MODEL.blocks=1", "MODEL.width=8", "MODEL.scale=2"])
    for name, mode, config in (
        ("srgan_x4", "srgan", about["config"]),
        ("srresnet_x4", "srresnet", about["config"]),
        ("half", "srresnet", other),
    ):
        runs.create(run := runs.Run(folder / name, mode, "slides", config), {})
        keras.utils.set_random_seed(len(name))
        runs.save_weights(model.build_generator(config.MODEL), run.directory / runs.WEIGHTS)
    return folder


@pytest.fixture
def runs_there(place, monkeypatch):
    monkeypatch.setenv("SRGAN_RUNS", str(place))
    monkeypatch.setattr(runs, "HERE", place)
    demo_upscale.upscaler_of.cache_clear()


def content_of(image, name="png", **options):
    Image.fromarray(image).save(buffer := io.BytesIO(), format=name, **options)
    return buffer.getvalue()


def nothing(share, method):
    pass


# ---------------------------------------------------------------------------------------------------------------------
# Without a browser


def test_an_upload_becomes_what_upscale_makes(runs_there, rng, tmp_path):
    """With alpha and a text beside the pixels; the same bytes as upscale.py's file."""
    lr = np.dstack([photo(rng, 24, 30), np.full((24, 30), 255, np.uint8)])
    (tmp_path / "a.png").write_bytes(content_of(lr))
    job = upscale.Job(tmp_path / "a.png", tmp_path / "b.png")
    upscale.work_off(job, Upscaler("srgan_x4"), 1, lambda count: None)
    session = Session()
    assert session.take("a.png", (tmp_path / "a.png").read_bytes(), 4, 1) == "a.png: 30×24, to be 120×96"
    files, said = session.make(["bicubic", "srgan_x4"], 1, 1, tmp_path, nothing)
    assert [file.name for file in files] == ["a_x4.png"] and not said
    assert files[0].read_bytes() == (tmp_path / "b.png").read_bytes()
    assert list(session.views) == ["bicubic", "srgan_x4"]
    assert np.array_equal(session.views["bicubic"], utils.imresize(lr[..., :3], 4))
    assert np.array_equal(session.views["srgan_x4"], utils.read_image(files[0])[..., :3])


def test_models_side_by_side_and_the_dial(runs_there, rng, tmp_path):
    session = Session()
    session.take("a.png", content_of(photo(rng, 24, 24)), 4, 1)
    files, _ = session.make(["nearest", "srresnet_x4", "srgan_x4"], 0.5, 1, tmp_path, nothing)
    assert [file.name for file in files] == ["a_srresnet_x4_x4.png", "a_srgan_x4_x4.png"]
    half, smooth = session.views["srgan_x4"], session.views["srresnet_x4"]
    assert np.array_equal(session.views["nearest"], session.lr.repeat(4, axis=0).repeat(4, axis=1))
    assert np.array_equal(half, Upscaler("srgan_x4", blend=0.5).upscale(session.lr))
    assert np.array_equal(smooth, Upscaler("srresnet_x4").upscale(session.lr))
    session.make(["srgan_x4"], 0, 1, tmp_path / "..", nothing)
    assert np.array_equal(session.views["srgan_x4"], smooth)
    assert demo_upscale.can_blend("srgan_x4") and not demo_upscale.can_blend("srresnet_x4")


def test_crops_are_of_one_place(rng):
    session = Session()
    image = photo(rng, 300, 400)
    session.views = {"a": image, "b": 255 - image}
    for x, y, zoom, top, left in ((0, 0, 1, 0, 0), (100, 100, 2, 172, 272), (50, 50, 8, 134, 184)):
        (first, name), (second, _) = session.crops(x, y, zoom)
        side = 256 // zoom
        assert name == "a" and np.array_equal(second, 255 - first)
        assert np.array_equal(first[::zoom, ::zoom], image[top : top + side, left : left + side])
        assert np.array_equal(first, first[::zoom, ::zoom].repeat(zoom, axis=0).repeat(zoom, axis=1))
    session.views = {"small": image[:20, :30]}
    assert session.crops(50, 50, 2)[0][0].shape == (40, 60, 3)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # ffmpeg's
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"", "is empty"),
        ("a.png", b"<svg onload=alert(1)>", "is not a picture"),
        ("a.txt", content_of(np.zeros((8, 8, 3), np.uint8)), "cannot become a.txt"),
        ("a.png", content_of(np.zeros((1100, 1000), np.uint8)), r"1000×1100 pixels, more than --max-megapixels 1 "),
        ("a.jpg", content_of(np.zeros((80, 80, 3), np.uint8), "jpeg")[:200], "cannot be read"),
        ("a.mp4", b"\x00\x00\x00 ftypisom", "is not a video that ffmpeg can read"),
    ],
)
def test_what_upscale_refuses_is_refused_at_the_drop(name, content, words, rng):
    session = Session()
    session.take("good.png", content_of(photo(rng, 8, 8)), 4, 1)
    with pytest.raises(UserError, match=words):
        session.take(name, content, 4, 1)
    assert not session.name and not session.content and session.lr is None  # nor is the one before left


def test_an_animation_is_made_and_not_compared(runs_there, rng, tmp_path):
    frames = [Image.fromarray(photo(rng, 16, 16)) for _ in range(3)]
    frames[0].save(buffer := io.BytesIO(), format="gif", save_all=True, append_images=frames[1:], duration=50)
    session = Session()
    assert session.take("a.gif", buffer.getvalue(), 4, 1) == "a.gif: 3 frames of 16×16, to be 64×64"
    files, said = session.make(["bicubic", "srgan_x4"], 1, 1, tmp_path, nothing)
    with Image.open(files[0]) as made:
        assert made.n_frames == 3 and made.size == (64, 64)
    assert "not compared" in said[-1] and not session.views


def test_cmyk_and_16_bits_are_shown(runs_there, rng, tmp_path):
    lr = photo(rng, 24, 24)
    Image.fromarray(lr).convert("CMYK").save(tmp_path / "inks.jpg")
    Image.fromarray(lr[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for name in ("inks.jpg", "deep.png"):
        session = Session()
        session.take(name, (tmp_path / name).read_bytes(), 4, 1)
        session.make(["srgan_x4"], 1, 1, tmp_path, nothing)
        assert session.lr.shape == (24, 24, 3) and session.views["srgan_x4"].shape == (96, 96, 3)
    assert np.array_equal(session.lr, lr[..., :1].repeat(3, axis=2))


def test_stop_ends_the_work_and_leaves_no_file(runs_there, rng, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(demo_upscale.tempfile, "tempdir", None)
    session, reported = Session(), []
    session.take("a.png", content_of(photo(rng, 24, 24)), 4, 1)

    def stop_at_work(share, method):
        assert list(tmp_path.glob("srgan-*/a.png"))  # on disk while it is worked on
        reported.append(share)
        session.stopped.set()

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        session.make(["srgan_x4", "srresnet_x4"], 1, 1, tmp_path / "out", stop_at_work)
    assert reported == [0, 0.5] and not list(tmp_path.glob("srgan-*")) and not list((tmp_path / "out").iterdir())


def test_what_is_offered(runs_there, place):
    assert demo_upscale.offered(None) == (["srgan_x4", "srresnet_x4"], 4)
    assert demo_upscale.offered(["half"]) == (["half"], 2)
    with pytest.raises(UserError, match="models of one factor can be compared, not of 2, 4"):
        demo_upscale.offered(["half", "srgan_x4"])
    with pytest.raises(UserError, match="there are no weights at 'none'"):
        demo_upscale.offered(["none"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "none", "--port", "0"], "there are no weights at 'none'"),
        (["--run", "none", "--port", "0"], "there is no run called 'none'"),
        (["--max-megapixels", "0"], "a number of megapixels above zero"),
        (["--raters", "2"], "--raters goes with --mos"),
        (["--report"], "--report goes with --mos"),
        (["--run", "a", "--weights", "b"], "--weights is of the page that upscales, not of --run"),
        (["--run", "a", "--mos", "b"], "pages of their own"),
    ],
)
def test_wrong_arguments_are_one_sentence(runs_there, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(serving, "check_packages", lambda packages: None)
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    with pytest.raises(SystemExit) as exit_status:
        utils.run_command(demo.main)
    assert exit_status.value.code == 2 and words in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# In a browser


class Server:
    """demo.py as its own process, with a folder of its own for temporary files."""

    def __init__(self, place, temporary, *arguments, project=PROJECT):
        self.temporary = temporary
        command = [sys.executable, "-B", "-u", project / "demo.py", "--port", "0", *map(str, arguments)]
        settings = {"SRGAN_RUNS": str(place), "TMPDIR": str(temporary)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=os.environ | settings, **pipes)
        self.printed = self.process.stdout.readline()
        self.address = re.search(r"http://[^\s.]+(\.\d+)+:\d+", self.printed)[0]

    def files(self):
        """Its temporary files, without TensorFlow's."""
        return [path for path in self.temporary.rglob("*") if path.is_file() and not path.name.startswith("__")]

    def stop(self):
        """End it by Ctrl-C; what it printed since its first line."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=60)[0]


@pytest.fixture(scope="module")
def server(place, tmp_path_factory):
    served = Server(place, tmp_path_factory.mktemp("demo"), "--max-megapixels", 0.05)
    yield served
    served.stop()


def find(page, selector):
    return page.find_elements("css selector", selector)


def text_of(page, name):
    return find(page, f"#{name} textarea, #{name} input")[0].get_property("value")


def wait_until(happens, seconds=90):
    from selenium.common.exceptions import WebDriverException

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(IndexError, WebDriverException):  # not there yet, or just replaced
            if value := happens():
                return value
        time.sleep(0.1)
    raise AssertionError("it did not happen")


def drop(page, path):
    before = text_of(page, "about")
    find(page, "#drop input[type=file]")[0].send_keys(str(path))
    wait_until(lambda: text_of(page, "about") != before)


def open_demo(browser, server, *size):
    open_page(browser, server.address, *size)
    wait_until(lambda: find(browser, "#go"))


def sizes(page, selector):
    """[(width, height)] of the pictures there, once each has arrived."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map(i => i.complete && [i.naturalWidth, i.naturalHeight])"
    )
    found = page.execute_script(script, selector)
    return found if found and all(found) else None


@needs_packages
def test_from_drop_to_download(server, browser, runs_there, rng, tmp_path):
    lr = photo(rng, 40, 56)
    source = tmp_path / HOSTILE
    source.write_bytes(content_of(lr))
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    open_demo(browser, server)
    drop(browser, source)
    wait_until(lambda: text_of(browser, "status") == "Done.")
    assert "56×40, to be 224×160" in text_of(browser, "about")
    assert wait_until(lambda: sizes(browser, "#slider img")) == [[224, 160]] * 2
    assert wait_until(lambda: sizes(browser, "#closer img")) == [[256, 256]] * 2
    assert not find(browser, "img[src=x]")
    assert not [path for path in server.temporary.rglob("*") if "onerror" in path.name and "_x4" not in path.name]

    link = wait_until(lambda: find(browser, "#files a[download]"))[0]
    browser.execute_script("arguments[0].click()", link)
    made = wait_until(lambda: [path for path in tmp_path.glob("*_x4.png")])[0]
    assert np.array_equal(utils.read_image(made), Upscaler("srgan_x4").upscale(lr))

    # The slider follows the arrow keys or the pointer, and shows what is chosen.
    first, second = (image.get_attribute("src") for image in find(browser, "#slider img"))
    from selenium.webdriver import ActionChains

    shown = browser.get_screenshot_as_png()
    handle = find(browser, "#slider .inner")[0]
    ActionChains(browser).drag_and_drop_by_offset(handle, -150, 0).perform()
    wait_until(lambda: browser.get_screenshot_as_png() != shown)

    # Zoom, and a click into the small picture.
    before = find(browser, "#closer img")[0].get_attribute("src")
    find(browser, "#where img")[0].click()
    wait_until(lambda: text_of(browser, "x") in ("49", "50", "51"))
    field = find(browser, "#zoom input[type=number]")[0]
    browser.execute_script("arguments[0].scrollIntoView()", field)
    field.send_keys("\b8\t")
    wait_until(lambda: find(browser, "#closer img")[0].get_attribute("src") != before)

    hosts = {urlsplit(address).netloc for address in requested(browser) if not address.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(server.address).netloc}
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert first != second
    browser.get("about:blank")  # the page is closed
    wait_until(lambda: {path.stem for path in server.files()} == {"chelsea", "coffee", "china"})


@needs_packages
def test_what_is_refused_is_said_in_the_page(server, browser, rng, tmp_path):
    open_demo(browser, server)
    for name, content, words in (
        ("page.html", b"<script>alert(1)</script>", "is not a picture"),
        ("large.png", content_of(photo(rng, 240, 240)), "240×240 pixels, more than --max-megapixels 0.05"),
        ("cut.jpg", content_of(photo(rng, 40, 40), "jpeg")[:300], "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        drop(browser, tmp_path / name)
        assert text_of(browser, "about").startswith(f"{name}: ") and words in text_of(browser, "about")
        assert not find(browser, "#go")[0].is_enabled() and not text_of(browser, "status")
        assert not list(server.temporary.rglob(name))


@needs_packages
def test_an_example_on_a_phone_by_keyboard(server, browser):
    from selenium.webdriver import Keys

    open_demo(browser, server, 390, 844)
    wait_until(lambda: sizes(browser, "#examples img"))
    assert len(find(browser, "#examples img")) == 3
    button = find(browser, "#examples button")[0]
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    wait_until(lambda: text_of(browser, "status") == "Done.")
    assert wait_until(lambda: sizes(browser, "#slider img")) == [[640, 428]] * 2
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


@needs_packages
def test_a_foreign_name_is_not_let_in(server):
    """As a page elsewhere would have it whose name was made to point here."""
    response = requests.get(server.address, headers={"Host": "evil.example"}, timeout=20)
    assert response.status_code == 400
    policy = requests.get(server.address, timeout=20).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ") and "http" not in policy and "*" not in policy


@needs_packages
def test_nothing_is_left_when_the_server_ends(place, tmp_path):
    served = Server(place, tmp_path)
    assert served.printed.startswith("weights: srgan_x4, srresnet_x4") and {path.stem for path in served.files()} == {
        "chelsea",
        "coffee",
        "china",
    }
    requests.get(served.address, timeout=20)
    assert "stopped; what was uploaded and made is deleted" in served.stop()
    assert served.process.returncode == 0 and not list(tmp_path.iterdir())
