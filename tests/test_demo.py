"""demo.py: its arguments, and the page that upscales in a real browser, from drop to download; it keeps nothing."""

import contextlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from conftest import PROJECT, content_of, open_page, photo, requested
from PIL import Image

import demo
import utils
from cli import terminal
from images import pictures
from inference.tiles import Upscaler
from web import compare, serving

needs_packages = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, serving.GRADIO)), reason=f"needs {', '.join(serving.GRADIO)}"
)
HOSTILE = "<img src=x onerror=alert(1)> '\"&amp; ..%2f.png"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "none", "--port", "0"], "there are no weights at 'none'"),
        (["--run", "none", "--port", "0"], "there is no run called 'none'"),
        (["--host", ""], "--host takes a name or an address"),
        (["--max-megapixels", "0"], "a number of megapixels above zero"),
        (["--mos", "x", "--password", "a"], "--password is not for --mos"),
        (["--password", ""], "--password takes a word"),
        (["--raters", "2"], "--raters goes with --mos"),
        (["--report"], "--report goes with --mos"),
        (["--run", "a", "--weights", "b"], "--weights is for the page that upscales, not for --run"),
        (["--run", "a", "--mos", "b"], "are two pages"),
        (["--mos", "a", "--max-megapixels=1"], "--max-megapixels is for the page that upscales, not for --mos"),
        (["--mos", "a", "--run=b"], "are two pages"),
        (["--run"], "argument --run: expected one argument"),
    ],
)
def test_wrong_arguments_are_one_sentence(runs_there, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(serving, "check_packages", lambda packages: None)
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    with pytest.raises(SystemExit) as exit_status:
        terminal.run_command(demo.main)
    assert exit_status.value.code == 2 and words in capsys.readouterr().err


def help_of(monkeypatch, capsys, *arguments):
    """The flags in the help of demo.py."""
    monkeypatch.setattr(sys, "argv", ["demo.py", *arguments])
    with pytest.raises(SystemExit) as exit_status:
        demo.parse_arguments()
    assert not exit_status.value.code
    return set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))


def test_each_page_has_its_own_help_and_all_are_shown_together(monkeypatch, capsys):
    serving = {"--host", "--port", "--password"}
    watching = help_of(monkeypatch, capsys, "--run", "a", "--help")
    rating = help_of(monkeypatch, capsys, "--mos", "b", "-h")
    assert watching == {"--run"} | serving
    assert rating == {"--mos", "--report", "--without", "--raters", *demo.NEW_STUDY} | serving
    assert help_of(monkeypatch, capsys, "--help") == {"--weights", "--max-megapixels"} | watching | rating


def test_pages_are_bounded_and_what_they_compare_is_on_disk(tmp_path, monkeypatch):
    """The one that has not been used for longest gives way; its files go with it."""
    monkeypatch.setattr(compare.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(compare, "PAGES", 3)
    sessions = compare.Sessions()
    for i in range(5):
        session = sessions.of(SimpleNamespace(session_hash=f"page {i}"))
        session.keep({"../nearest": np.full((40, 40, 3), i, np.uint8)})
    assert list(sessions) == ["page 2", "page 3", "page 4"]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 3
    view = session.views["../nearest"]
    assert isinstance(view, np.memmap) and (view == 4).all()
    assert compare.crops(session.views, 50, 50, 8)[0][0].shape == (256, 256, 3)
    for name in list(sessions):
        sessions.drop(name)
    assert not list(tmp_path.iterdir())


def test_uploads_in_memory_are_bounded(monkeypatch):
    monkeypatch.setattr(compare, "HELD", 250)
    sessions = compare.Sessions()
    for i in range(5):
        session = sessions.of(SimpleNamespace(session_hash=f"page {i}"))
        session.replace(compare.Upload("a.png", bytes(100), "", None))
        assert sessions.held() <= 250 + 100
    assert list(sessions) == ["page 2", "page 3", "page 4"]


def test_what_pages_compare_is_bounded_together_and_idle_ones_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(compare.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(compare, "STORED", 2 * 300)
    now = 0
    monkeypatch.setattr(compare, "time", SimpleNamespace(monotonic=lambda: now))
    sessions = compare.Sessions()
    for now in range(5):
        sessions.of(SimpleNamespace(session_hash=f"page {now}")).keep({"nearest": np.zeros((10, 10, 3), np.uint8)})
    assert list(sessions) == ["page 2", "page 3", "page 4"] and sessions.stored() == 900
    now = 3 + compare.KEEP
    sessions.drop_idle()
    assert list(sessions) == ["page 3", "page 4"]
    now += compare.KEEP
    sessions.drop_idle()
    assert not sessions and not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux, where a process tells what it maps")
def test_no_view_is_open_while_its_files_are_deleted(tmp_path, monkeypatch):
    """Windows would keep them."""
    deleted = []

    class Folder(tempfile.TemporaryDirectory):
        def cleanup(self):
            assert self.name not in Path("/proc/self/maps").read_text()
            deleted.append(self.name)
            super().cleanup()

    monkeypatch.setattr(compare.tempfile, "TemporaryDirectory", Folder)
    session = compare.Session()
    session.keep({"nearest": np.zeros((40, 40, 3), np.uint8)})
    assert session.folder.name in Path("/proc/self/maps").read_text()
    session.replace(None)
    assert len(deleted) == 1


# ---------------------------------------------------------------------------------------------------------------------
# In a browser


# A Python that reports each connection to another machine.
SPY = """
import socket, sys
connect = socket.socket.connect
def spy(self, address, *rest):
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(("127.", "::1")):
        print("ASKED ELSEWHERE", address, flush=True)
    return connect(self, address, *rest)
socket.socket.connect = spy
find = socket.getaddrinfo
def spy_on_names(host, *rest, **settings):
    if host and not str(host).startswith(("127.", "::1", "localhost")):
        print("ASKED ELSEWHERE", host, flush=True)
    return find(host, *rest, **settings)
socket.getaddrinfo = spy_on_names
"""


class Server:
    """demo.py as its own process, with a folder of its own for temporary files and a spy on its connections."""

    def __init__(self, place, temporary, *arguments, project=PROJECT):
        self.temporary = temporary / "files"
        (temporary / "spy").mkdir()
        self.temporary.mkdir()
        (temporary / "spy" / "sitecustomize.py").write_text(SPY)
        command = [sys.executable, "-B", "-u", project / "demo.py", "--port", "0", *map(str, arguments)]
        settings = {"SRGAN_RUNS": place, "TMPDIR": self.temporary, "PYTHONPATH": temporary / "spy"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": temporary}
        self.process = subprocess.Popen(command, env=os.environ | {k: str(v) for k, v in settings.items()}, **pipes)
        self.printed = self.process.stdout.readline()
        self.address = re.search(r"http://[^\s.]+(\.\d+)+:\d+", self.printed)[0]

    def files(self):
        """Its temporary files, without TensorFlow's."""
        found = [Path(parent, name) for parent, _, names in os.walk(self.temporary) for name in names]
        return [path for path in found if not path.name.startswith("__")]

    def stop(self, number=signal.SIGINT):
        """End it, by Ctrl-C if no other signal is given; what it printed since its first line."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        printed = self.process.communicate(timeout=60)[0]
        assert "ASKED ELSEWHERE" not in printed, printed
        return printed


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
    wait_until(lambda: find(page, "#drop input[type=file]"))[0].send_keys(str(path))
    wait_until(lambda: text_of(page, "about") != before)


def open_demo(browser, server, *size):
    open_page(browser, server.address, *size)
    wait_until(lambda: find(browser, "#go") and text_of(browser, "about") is not None)


def sizes(page, selector):
    """[(width, height)] of the pictures there, once each has arrived."""
    script = (
        "return [...document.querySelectorAll(arguments[0])].map(i => i.complete && [i.naturalWidth, i.naturalHeight])"
    )
    found = page.execute_script(script, selector)
    return found if found and all(found) else None


def sources(page, selector):
    return [image.get_attribute("src") for image in find(page, selector)]


def enter(page, name, text):
    """Write a number into the field of a slider."""
    field = find(page, f"#{name} input[type=number]")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].select()", field)
    field.send_keys(text, "\t")


@needs_packages
def test_from_drop_to_download(server, browser, runs_there, rng, tmp_path):
    lr = photo(rng, 40, 56)
    source = tmp_path / HOSTILE
    source.write_bytes(content_of(lr))
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    open_demo(browser, server)
    drop(browser, source)
    wait_until(lambda: text_of(browser, "status") == "Done.")
    assert "56×40" in text_of(browser, "about")
    assert wait_until(lambda: sizes(browser, "#slider img")) == [[224, 160]] * 2
    assert wait_until(lambda: sizes(browser, "#closer img")) == [[256, 256]] * 2
    assert not find(browser, "img[src=x]")

    link = wait_until(lambda: find(browser, "#files a[download]"))[0]
    browser.execute_script("arguments[0].click()", link)
    made = wait_until(lambda: list(tmp_path.glob("*_x4.png")))[0]
    assert np.array_equal(pictures.read_image(made), Upscaler("srgan_x4").upscale(lr))

    hosts = {urlsplit(address).netloc for address in requested(browser) if not address.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(server.address).netloc}
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert browser.execute_script("return Object.keys(localStorage).concat(Object.keys(sessionStorage)).length") == 0
    browser.get("about:blank")  # the page is closed
    wait_until(lambda: {path.stem for path in server.files()} == {"chelsea", "coffee", "astronaut"})


@needs_packages
def test_the_slider_the_dial_and_the_crops(server, browser, rng, tmp_path):
    from selenium.webdriver import ActionChains

    (tmp_path / "a.png").write_bytes(content_of(utils.imresize(photo(rng, 30, 40), 4)))  # smooth: not like a JPEG
    open_demo(browser, server)
    drop(browser, tmp_path / "a.png")
    wait_until(lambda: text_of(browser, "status") == "Done.")
    wait_until(lambda: sizes(browser, "#slider img"))

    def edge():
        """Where the slider is, in pixels of the page."""
        return browser.execute_script("return document.querySelector('#slider .inner').getBoundingClientRect().x")

    # By pointer, and by the keyboard in a field of its own.
    start = edge()
    ActionChains(browser).drag_and_drop_by_offset(find(browser, "#slider .inner")[0], -150, 0).perform()
    wait_until(lambda: abs(edge() - (start - 150)) < 5)
    enter(browser, "position", "50")
    enter(browser, "position", "100")
    wait_until(lambda: edge() > start + 100)

    # The dial mixes, and Upscale again makes it.
    before = sources(browser, "#slider img")
    enter(browser, "share", "0.5")
    find(browser, "#go")[0].click()
    wait_until(lambda: text_of(browser, "status").endswith("0.5 of srgan_x4, 0.5 of its SRResNet"))
    wait_until(lambda: set(sources(browser, "#slider img")) - set(before))

    # Another side, zoom, and a click into the small picture.
    before = sources(browser, "#slider img")
    field = find(browser, "#left input")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.click()
    wait_until(lambda: [item for item in find(browser, "#left [role=option]") if item.text == "srgan_x4"])[0].click()
    wait_until(lambda: sources(browser, "#slider img")[0] != before[0])
    before = sources(browser, "#closer img")
    enter(browser, "zoom", "8")
    wait_until(lambda: not set(sources(browser, "#closer img")) & set(before))
    before = sources(browser, "#closer img")
    picture = find(browser, "#where img")[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    ActionChains(browser).move_to_element_with_offset(picture, 20, 20).click().perform()
    wait_until(lambda: float(text_of(browser, "x")) > 51 and float(text_of(browser, "y")) > 51)
    wait_until(lambda: not set(sources(browser, "#closer img")) & set(before))

    # Made again, the crops stay where they were.
    bicubic, sr = sources(browser, "#closer img")
    enter(browser, "share", "1")
    find(browser, "#go")[0].click()
    wait_until(lambda: sources(browser, "#closer img")[1] != sr)
    assert sources(browser, "#closer img")[0] == bicubic  # the same bytes have the same name


@needs_packages
def test_the_newest_upload_is_what_is_shown(server, browser, rng, tmp_path):
    for i, width in enumerate((200, 24)):
        (tmp_path / f"{i}.png").write_bytes(content_of(photo(rng, 24, width)))
    open_demo(browser, server)
    drop(browser, tmp_path / "0.png")
    drop(browser, tmp_path / "1.png")
    wait_until(lambda: text_of(browser, "about").startswith("1.png"))
    wait_until(lambda: sizes(browser, "#slider img") == [[96, 96]] * 2)
    assert text_of(browser, "status") == "Done."


def choose(page, name, text):
    """Choose an entry of a dropdown."""
    field = find(page, f"#{name} input")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.click()
    wait_until(lambda: [item for item in find(page, f"#{name} [role=option]") if item.text == text])[0].click()


@needs_packages
def test_several_files_in_another_format_and_size(server, browser, rng, tmp_path):
    """All in a zip; what cannot be read is named, and a part is seen before the whole is there."""
    for name, content in {
        "a.png": content_of(photo(rng, 60, 80)),
        "b.jpg": content_of(photo(rng, 20, 30), "jpeg"),
        "c.png": b"nothing",
    }.items():
        (tmp_path / name).write_bytes(content)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    open_demo(browser, server, 390, 844)
    drop(browser, "\n".join(str(tmp_path / name) for name in ("a.png", "b.jpg", "c.png")))
    said = text_of(browser, "about")
    assert "a.png: 80×60" in said and "b.jpg: 30×20" in said and "c.png: is not a picture" in said
    wait_until(lambda: text_of(browser, "status") == "Done.")
    browser.execute_script("document.querySelector('#more button').click()")
    choose(browser, "factor", "2")
    choose(browser, "format", "webp")
    choose(browser, "engine", "tensorflow")
    find(browser, "#go")[0].click()
    wait_until(lambda: "srgan_x2.zip" in find(browser, "#files a[download]")[0].get_attribute("href"))
    assert wait_until(lambda: sizes(browser, "#slider img")) == [[160, 120]] * 2
    browser.execute_script("arguments[0].click()", find(browser, "#files a[download]")[0])
    made = wait_until(lambda: list(tmp_path.glob("srgan_x2.zip")))[0]
    with zipfile.ZipFile(made) as file:
        assert file.namelist() == ["a_x2.webp", "b_x2.webp"]
        assert Image.open(io.BytesIO(file.read("b_x2.webp"))).size == (60, 40)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390


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
        wait_until(lambda: text_of(browser, "status").startswith("There is nothing to upscale"))
        assert not find(browser, "#go")[0].is_enabled()


@needs_packages
def test_an_example_on_a_phone_by_keyboard(server, browser):
    from selenium.webdriver import Keys

    open_demo(browser, server, 390, 844)
    wait_until(lambda: sizes(browser, "#examples img"))
    assert len(find(browser, "#examples img")) == 3
    assert find(browser, "#hint")[0].is_displayed()
    assert not any(find(browser, name)[0].is_displayed() for name in ("#slider", "#where", "#stop"))
    button = find(browser, "#examples button")[0]
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    wait_until(lambda: text_of(browser, "status") == "Done.")
    assert wait_until(lambda: sizes(browser, "#slider img")) == [[640, 428]] * 2
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    places = [find(browser, name)[0].location["y"] for name in ("#drop", "#status", "#slider", "#closer", "#methods")]
    assert places == sorted(places)  # results come before settings
    assert not find(browser, "#hint")[0].is_displayed() and not find(browser, "#stop")[0].is_displayed()


def call(server, config, i, value, session):
    """What the server says at the end of its i-th action, called with `value` in place of each of its inputs."""
    api = f"{server.address}/gradio_api"
    data = [value] * len(config["dependencies"][i]["inputs"])
    asked = {"data": data, "fn_index": i, "session_hash": session}
    if (status := requests.post(f"{api}/queue/join", json=asked, timeout=20).status_code) != 200:
        return status
    with requests.get(f"{api}/queue/data?session_hash={session}", stream=True, timeout=20) as told:
        assert told.status_code == 200
        for line in told.iter_lines():
            if line.startswith(b"data:") and (message := json.loads(line[5:]))["msg"] == "process_completed":
                return message
    raise AssertionError(f"action {i} did not end")


@pytest.mark.slow
@needs_packages
def test_nobody_gets_other_files_of_the_machine(server, rng, tmp_path):
    """By naming one as if it had been uploaded, in place of each kind of value; nor is another server asked for one."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(content_of(photo(rng, 16, 24)))
    assert requests.get(f"{server.address}/gradio_api/file={secret}", timeout=20).status_code == 403
    config = requests.get(f"{server.address}/config", timeout=20).json()
    kinds = {part["id"]: part["type"] for part in config["components"]}
    actions = [(i, [kinds[part] for part in d["inputs"]]) for i, d in enumerate(config["dependencies"]) if d["inputs"]]
    assert {kind for _, inputs in actions for kind in inputs} == {"file", "checkboxgroup", "slider", "dropdown"}
    for path in (str(secret), "https://example.com/a.png"):
        for i, inputs in actions:
            named = {"path": path, "meta": {"_type": "gradio.FileData"}}
            assert call(server, config, i, named, f"{i}") == call(server, config, i, [named], f"{i}") == 403
            if inputs == ["file"]:  # the path alone
                assert call(server, config, i, path, f"{i}")["success"] is False
    assert "secret.png" not in {path.name for path in server.files()}

    # What was uploaded is taken, by the same way.
    with open(secret, "rb") as file:
        answer = requests.post(f"{server.address}/gradio_api/upload", files={"files": file}, timeout=20)
    named = {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}
    told = call(server, config, next(i for i, inputs in actions if inputs == ["file"]), [named], "uploaded")
    assert told["success"] is True and "secret.png: 24×16" in told["output"]["data"]


@pytest.mark.slow
@needs_packages
def test_foreign_pages_are_not_let_in(server):
    """One whose name was made to point here, and one that asks from the visitor's browser."""
    assert requests.get(server.address, headers={"Host": "evil.example"}, timeout=20).status_code == 400
    answer = requests.get(f"{server.address}/config", headers={"Origin": "https://evil.example"}, timeout=20)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["content-security-policy"] == serving.POLICY
    assert "http" not in serving.POLICY and "*" not in serving.POLICY
    assert requests.get(f"{server.address}/gradio_api/file=https://example.com/a.png", timeout=20).status_code == 403
    assert requests.get(f"{server.address}/gradio_api/runs", timeout=20).status_code == 404


@needs_packages
@pytest.mark.slow
def test_with_a_password_nothing_is_shown_without_it(place, tmp_path):
    served = Server(place, tmp_path, "--password", "open sesame")
    try:
        upload = {"files": {"files": ("a.png", b"x")}, "timeout": 20}
        assert requests.post(f"{served.address}/gradio_api/upload", **upload).status_code == 401
        assert "components" not in requests.get(f"{served.address}/config", timeout=20).json()
        visitor = requests.Session()
        for word, status in (("close", 400), ("open sesame", 200)):
            given = {"username": "srgan", "password": word}
            assert visitor.post(f"{served.address}/login", data=given, timeout=20).status_code == status
        assert visitor.post(f"{served.address}/gradio_api/upload", **upload).status_code == 200
    finally:
        served.stop()


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_nothing_is_left_when_the_server_ends(place, tmp_path, number):
    served = Server(place, tmp_path)
    assert served.printed.startswith("weights: srgan_x4, srgan_x4_photo, srresnet_x4, ")
    assert {path.stem for path in served.files()} == {"chelsea", "coffee", "astronaut"}
    requests.get(served.address, timeout=20)
    assert served.stop(number) == "stopped; what was uploaded and made is deleted\n"
    assert served.process.returncode == 0 and not list(served.temporary.iterdir())
