"""The rating study as it is served: what it tells and refuses, that nothing is lost, and a session in a browser."""

import contextlib
import http.client
import importlib.util
import json
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from conftest import PROJECT, open_page, requested, write_evaluation

import demo
import utils
from cli import terminal
from images import pictures
from utils import UserError
from web import serving
from web.study import plans, server, stimuli
from web.study.plans import Study

needs_packages = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, server.PACKAGES)), reason=f"needs {', '.join(server.PACKAGES)}"
)
# Names of a set, images and a method that would like to be HTML, an address, a query or the end of the script.
HOSTILE = "<script>alert(1)<|script>"
SETS = {"a b#1%": ("50% '1' &amp;", HOSTILE, "plain"), "Set5": ("..", "?x=1", '"quoted"')}
METHODS = ("nearest", "%2e%2e \N{SNOWMAN}")


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    write_evaluation(folder, np.random.default_rng(0), SETS, METHODS)
    return folder


class Server:
    """demo.py as its own process, on a port that stays the same when it is started again."""

    def __init__(self, folder, *arguments):
        self.command = [sys.executable, "-B", "-u", PROJECT / "demo.py", "--mos", folder, *map(str, arguments)]
        self.port = 0
        self.start()
        self.opened = Study(folder)

    def start(self):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen([*self.command, "--port", str(self.port)], **pipes)
        self.printed = self.process.stdout.readline()
        raters = 2 if "--raters" in self.command else 1
        self.printed += "".join(self.process.stdout.readline() for _ in range(raters))
        self.links = re.findall(r"http://\S+", self.printed)
        assert len(self.links) == raters, self.printed
        self.port = urlsplit(self.links[0]).port

    def kill(self):
        self.process.kill()
        self.process.communicate()

    def close(self):
        self.kill()
        self.opened.close()


@pytest.fixture
def fresh(evaluation, tmp_path):
    served = Server(tmp_path / "a study", "--pictures", evaluation, "--raters", 2, "--repeats", 4)
    yield served
    served.close()


@pytest.fixture(scope="module")
def lasting(evaluation, tmp_path_factory):
    """A server that tests share; none of them rates a thing. Its links, and so its plans, are always the same."""
    folder = tmp_path_factory.mktemp("mos") / "study"
    stimuli.make(folder, evaluation)
    opened, tokens = Study(folder), iter(("first-of-the-two-links", "second-of-both-links--"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans.secrets, "token_urlsafe", lambda size: next(tokens))
        opened.add_raters(2)
    opened.close()
    served = Server(folder, "--raters", 2)
    yield served
    served.close()


def rate(link, position, rating, answer=None):
    content = {"rating": rating, "milliseconds": 10, "answer": answer or f"{position} {rating}"}
    return requests.post(f"{link}/{position}", json=content, timeout=20)


# ---------------------------------------------------------------------------------------------------------------------
# What is told, and what is refused


@pytest.mark.slow
@needs_packages
def test_nothing_tells_what_a_picture_is(lasting):
    link, opened = lasting.links[0], lasting.opened
    headers = {"server", "etag", "last-modified", "content-disposition", "accept-ranges"}
    plan = [opened.showing(1, position) for position in range(opened.progress(1)["count"])]
    answers = [requests.get(link, timeout=20)]
    answers += [requests.get(f"{link}/{position}", timeout=20) for position in range(len(plan))]
    told = answers[0].text + "".join(f"{answer.url} {answer.headers}" for answer in answers)
    for picture in opened.pictures + opened.examples:
        for name in (picture.set, picture.image, picture.sha256, picture.sha256[:8]):
            assert name in ("..", "plain", "Set5") or name not in told
    for word in ("nearest", "bicubic", "original/", *METHODS, "Set5", str(opened.folder)):
        assert word not in told.replace("some originals", "")
    data = json.loads(re.search(r'id="data">(.*?)</script>', answers[0].text)[1])
    assert data == {"address": urlsplit(link).path} | opened.progress(1)
    assert data["ratings"] == [] and len(data["worth"]) == 20
    for (_, picture), answer in zip(plan, answers[1:], strict=True):
        path = opened.folder / "pictures" / f"{picture.sha256}.png"
        assert answer.content == path.read_bytes() and not re.search(rb"tEXt|iTXt|zTXt|eXIf", answer.content)
        assert not headers & {name.lower() for name in answer.headers}
        assert answer.headers["cache-control"] == "no-store" and answer.headers["content-type"] == "image/png"
    # A repeat looks like its first showing, and not like having been there before.
    i = next(i for i, (kind, _) in enumerate(plan) if kind == "repeat")
    first = next(j for j, (_, picture) in enumerate(plan) if picture is plan[i][1])
    same = [{k: v for k, v in answers[1 + j].headers.items() if k != "date"} for j in (i, first)]
    assert same[0] == same[1]


@pytest.mark.slow
@needs_packages
def test_the_policy_allows_only_the_page_itself(lasting):
    policy = requests.get(lasting.links[0], timeout=20).headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src 'self'; connect-src 'self'; frame-ancestors 'none'; script")
    assert "script-src 'sha256-" in policy and "unsafe" not in policy and "http" not in policy
    page = server.PAGE.read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|https?://|style=", page)


@pytest.mark.slow
@needs_packages
def test_only_what_is_meant_is_served(lasting):
    """Addresses as they are, which a client library would tidy up."""
    token = lasting.links[0].rsplit("/", 1)[1]
    digest = lasting.opened.pictures[0].sha256
    ways = ("..", "%2e%2e", "..%2f..", "%2e%2e%2f%2e%2e%2f%2e%2e", "....//", "..%5c..", "%00", "0%00.png")
    paths = [f"/r/{token}/{way}/{name}" for way in ways for name in ("study.json", "ratings.sqlite", "0")]
    paths += [f"/{way}/study.json" for way in ways] + [f"/r/{way}/0" for way in ways]
    paths += ["/", "/r/", "/r", "/study.json", "/ratings.sqlite", f"/pictures/{digest}.png", f"/r/{token}/{digest}.png"]
    paths += [f"/r/{token}/{position}" for position in (-1, 1.0, 999, 2**63, 10**40, "1e0", "0x1", " 1", "")]
    paths += [
        f"/r/{token}/",
        f"/r/{token}/0/",
        f"/r/{token}x",
        f"/r/{token[:-1]}",
        f"/r/{token}/0/0",
        "/r/' OR 1=1 --/0",
    ]
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", lasting.port, timeout=20)) as connection:
        for path in paths:
            connection.request("GET", path.replace(" ", "%20"))
            response = connection.getresponse()
            assert (response.status, response.read()[:21]) == (404, b"There is nothing here"), path


@needs_packages
def test_nonsense_is_refused_and_nothing_stored(lasting):
    link = lasting.links[0]
    worth = lasting.opened.progress(1)["worth"]
    good = {"rating": worth[0], "milliseconds": 10, "answer": "a"}
    for change in (
        {"rating": 0},
        {"rating": 6},
        {"rating": "1"},
        {"rating": 6 - worth[0]},
        {"milliseconds": -1},
        {"answer": 1},
    ):
        response = requests.post(f"{link}/0", json=good | change, timeout=20)
        assert response.status_code == 400 and response.json()["error"]
    for body in (
        b"",
        b"x",
        b"[]",
        b"7",
        b"{}",
        b'{"rating": 1}',
        b"\xff\xfe",
        b"[" * 900,
        b'{"rating": NaN}',
        b'"\\ud800"',
    ):
        assert requests.post(f"{link}/0", data=body, timeout=20).status_code == 400
    assert "too long" in requests.post(f"{link}/0", data=b" " * 1001, timeout=20).json()["error"]
    assert requests.post(f"{link}/0", data=iter([b"x"]), timeout=20).status_code == 411  # of no told length
    for position in (1, 999, 2**63, 10**40):
        assert rate(link, position, 1).status_code == 400
    assert rate(link + "x", 0, worth[0]).status_code == 404
    assert requests.put(f"{link}/0", json=good, timeout=20).status_code == 405
    assert [done for _, _, done, _ in lasting.opened.raters()] == [0, 0]


@needs_packages
def test_only_this_machine_can_connect(lasting):
    """A server on all addresses would answer on 127.0.0.2 too, where Linux has it."""
    assert all(link.startswith("http://127.0.0.1:") for link in lasting.links)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", lasting.port), timeout=5)


@needs_packages
def test_one_server_a_study_and_one_port_a_server(lasting):
    with pytest.raises(UserError, match="another server has .* open"):
        server.serve(lasting.opened, "127.0.0.1", 0, 1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = SimpleNamespace(folder=lasting.opened.folder / "pictures")
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had .*: choose another --port"):
            server.serve(other, "127.0.0.1", port, 1)
    with pytest.raises(UserError, match="cannot be had"):
        server.serve(other, "no such host", 0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.slow
@needs_packages
def test_a_killed_server_loses_nothing_that_was_answered_for(fresh):
    """Two raters in turns; the server dies between two answers, and in the middle of one."""
    counts, sent = [0, 0], [[], []]
    plans = [fresh.opened.progress(rater) for rater in (1, 2)]
    total = plans[0]["count"]
    assert total == 20 + 18 + 4
    for turn in range(2 * total):
        i = turn % 2
        worth = plans[i]["worth"]
        value = worth[counts[i]] if counts[i] < 20 else 1 + (7 * turn) % 5
        assert rate(fresh.links[i], counts[i], value).json() == {"saved": True}
        assert rate(fresh.links[i], counts[i], value).json() == {"saved": True}  # sent again: counts once
        sent[i].append(value)
        counts[i] += 1
        if turn in (9, 50):
            links = fresh.links
            fresh.kill()
            assert [fresh.opened.progress(rater)["ratings"] for rater in (1, 2)] == sent
            fresh.start()
            assert fresh.links == links
            for j in range(2):
                page = requests.get(links[j], timeout=20).text
                assert json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["ratings"] == sent[j]
    assert fresh.opened.query("SELECT COUNT(*) FROM ratings") == [(2 * total,)]
    assert "42 of 42" not in fresh.printed
    fresh.process.send_signal(signal.SIGINT)
    assert "stopped; every rating is saved" in fresh.process.communicate(timeout=30)[0]
    assert fresh.process.returncode == 0


def run_demo(monkeypatch, capsys, *arguments):
    """(exit status, what was printed) of demo.py, in this process."""
    monkeypatch.setattr(sys, "argv", ["demo.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_status:
        terminal.run_command(demo.main)
    printed = capsys.readouterr()
    return exit_status.value.code, printed.out + printed.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--raters", 0], "--raters must be at least 1"),
        (["--images", 0], "--images must be at least 1"),
        (["--port", 70000], "--port takes a number from"),
        (["--sets", ","], "argument --sets: names nothing"),
        (["--report", "--without", "1,x"], "--without: takes numbers of raters, not '1,x'"),
        (["--without", "1"], "--without goes with --report"),
        (["--report"], "there is no study in"),
        (["--pictures", "nowhere"], "holds no results.json: run `python evaluate.py` first"),
    ],
)
def test_wrong_arguments_are_one_sentence(tmp_path, monkeypatch, capsys, arguments, words):
    status, printed = run_demo(monkeypatch, capsys, "--mos", tmp_path / "study", *arguments)
    assert status == 2 and words in printed and "Traceback" not in printed
    assert not (tmp_path / "study").exists()


def test_a_study_keeps_its_settings(evaluation, tmp_path, monkeypatch, capsys):
    stimuli.make(tmp_path / "study", evaluation, images=1, seed=3)
    monkeypatch.setattr(server, "serve", lambda *arguments: print(arguments[1:]))
    monkeypatch.setattr(serving, "check_packages", lambda packages: None)
    same = ["--mos", tmp_path / "study", "--pictures", evaluation, "--images", 1, "--seed", 3]
    assert run_demo(monkeypatch, capsys, *same, "--raters", 4, "--port", 0) == (None, "('127.0.0.1', 0, 4)\n")
    assert run_demo(monkeypatch, capsys, *same[:2], "--host", "::1")[1] == "('::1', 7860, 1)\n"
    for flag, value in (("--seed", 4), ("--images", 2), ("--sets", "Set5"), ("--pictures", tmp_path)):
        status, printed = run_demo(monkeypatch, capsys, *same[:2], flag, value)
        assert status == 2 and f"was made with another {flag}: a study cannot be changed" in printed
    status, printed = run_demo(monkeypatch, capsys, *same[:2], "--report")
    assert status == 2 and "nobody has rated" in printed


# ---------------------------------------------------------------------------------------------------------------------
# In a browser


def find(page, name):
    from selenium.webdriver.common.by import By

    return page.find_element(By.ID, name)


def wait_until(page, true):
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(page, 30, poll_frequency=0.02).until(lambda _: true())


def wait_for(page, position):
    """Until the picture at this position can be rated."""
    wait_until(page, lambda: page.execute_script("return position === arguments[0] && since !== null", position))


def press(page, keys):
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(keys).perform()


def give(page, position, rating, by_key):
    wait_for(page, position)
    if by_key:
        press(page, str(rating))
    else:
        page.execute_script("arguments[0].click()", find(page, "scale").find_elements("tag name", "button")[rating - 1])


@needs_packages
def test_a_whole_session(fresh, browser):
    """Examples, ratings by key and click, a double click, a correction, a reload, the server killed, thanks."""
    from selenium.webdriver.common.keys import Keys

    link, opened = fresh.links[0], fresh.opened
    open_page(browser, link)
    assert "20 examples" in find(browser, "text").text and "22 pictures" in find(browser, "text").text
    press(browser, "3")  # nothing is shown yet
    press(browser, Keys.ENTER)
    worth = opened.progress(1)["worth"]
    for i in range(20):
        wait_for(browser, i)
        assert find(browser, "words").text.startswith(f"This is a {worth[i]}: ")
        enabled = [key.is_enabled() for key in find(browser, "scale").find_elements("tag name", "button")]
        assert enabled == [value == worth[i] for value in range(1, 6)]
        press(browser, str(6 - worth[i]))
        give(browser, i, worth[i], by_key=i % 2)
        if i == 10:
            wait_for(browser, 11)
            browser.refresh()
    wait_until(browser, lambda: find(browser, "title").text == "Now it is your turn")
    browser.refresh()
    wait_until(browser, lambda: find(browser, "title").text == "Now it is your turn")
    find(browser, "go").click()
    wanted = [1 + (3 * i) % 5 for i in range(22)]
    for i in range(22):
        wait_for(browser, 20 + i)
        assert (
            find(browser, "count").text == f"{i + 1} of 22"
            and find(browser, "words").text == "How good is this picture?"
        )
        if i == 3:  # twice, as fast as can be
            browser.execute_script(
                "for (let n = 0; n < 3; n += 1) document.getElementById('scale').children[0].click()"
            )
            wait_for(browser, 24)
            press(browser, Keys.BACKSPACE)
            wait_for(browser, 23)
            pressed = find(browser, "scale").find_elements("css selector", "[aria-pressed]")
            assert [key.get_attribute("value") for key in pressed] == ["1"]
        if i == 7:
            browser.refresh()
        if i == 12:
            fresh.kill()
            press(browser, str(wanted[i]))
            wait_until(browser, lambda: "server does not answer" in find(browser, "words").text)
            assert len(opened.progress(1)["ratings"]) == 32
            fresh.start()
            continue
        give(browser, 20 + i, wanted[i], by_key=i % 3)
    wait_until(browser, lambda: find(browser, "title").text == "Thank you!")
    assert opened.progress(1)["ratings"] == worth + wanted and opened.progress(2)["ratings"] == []
    assert [r.rating for r in opened.ratings()] == wanted
    assert opened.query("SELECT rating FROM ratings WHERE position = 23 ORDER BY id") == [(1,), (wanted[3],)]
    assert opened.query("SELECT COUNT(*) FROM ratings") == [(43,)]
    assert all(0 <= r.milliseconds < 60_000 for r in opened.ratings())
    assert {urlsplit(address).netloc for address in requested(browser)} == {f"127.0.0.1:{fresh.port}"}
    refused = [entry["message"] for entry in browser.get_log("browser")]
    assert refused and all("ERR_CONNECTION_REFUSED" in message for message in refused)  # while it was dead


@needs_packages
@pytest.mark.parametrize(("width", "height", "density"), [(390, 760, 3), (390, 760, 2.6), (1280, 800, 1)])
def test_pixels_are_shown_as_they_are(lasting, browser, width, height, density):
    """Each pixel of the file is one square of the screen: read back from a screenshot."""
    import imageio.v3 as iio

    open_page(browser, lasting.links[0], width, height)
    metrics = {"width": width, "height": height, "deviceScaleFactor": density, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.execute_script("arguments[0].click()", find(browser, "go"))
    wait_for(browser, 0)
    box = browser.execute_script("const b = picture.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]")
    left, top, shown_width, _ = (value * density for value in box)
    expected = utils.to_rgb(iio.imread(lasting.opened.read_picture(1, 0)).reshape(*picture_size(lasting), -1))
    enlarged = round(shown_width / expected.shape[1])
    assert enlarged == int(density) and shown_width == pytest.approx(enlarged * expected.shape[1], abs=0.1)
    if left >= 0 and float(density).is_integer():
        first = max(0, round(100 * density - top) // enlarged)  # a picture larger than the window begins above it
        rows, columns = (int(np.floor(start + 0.5)) + enlarged // 2 + enlarged * np.arange(20) for start in (top, left))
        rows += enlarged * first

        def is_shown():  # the browser paints when it likes
            shown = iio.imread(browser.get_screenshot_as_png())[..., :3]
            return np.abs(shown[np.ix_(rows, columns)].astype(int) - expected[first : first + 20, :20]).max() <= 1

        wait_until(browser, is_shown)
    assert browser.execute_script("return getComputedStyle(picture).imageRendering") == "pixelated"
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for key in find(browser, "scale").find_elements("tag name", "button"):
        assert key.size["height"] >= 44 and key.size["width"] >= 44
        assert key.rect["y"] + key.size["height"] <= height and key.rect["x"] + key.size["width"] <= width
    # What does not fit can be moved, and that is said.
    wider = expected.shape[1] * enlarged / density > width
    taller = box[3] > browser.execute_script("return document.getElementById('stage').clientHeight")
    assert find(browser, "note").is_displayed() == (wider or taller)
    if wider:
        moved = "const s = document.getElementById('stage'); s.scrollTo(9999, 0); return s.scrollLeft + s.clientWidth"
        assert browser.execute_script(moved) == pytest.approx(shown_width / density, abs=1)
    assert browser.get_log("browser") == []


def picture_size(served):
    path = served.opened.folder / "pictures" / f"{served.opened.showing(1, 0)[1].sha256}.png"
    return pictures.header_size(path)


@needs_packages
def test_the_browser_refuses_what_is_elsewhere(lasting, browser):
    """What the sessions above look for would be seen: a request that leaves, and a script that is not the page's."""
    open_page(browser, lasting.links[1])
    for script in (
        "fetch('http://127.0.0.2:9/').catch(() => {})",
        "new Image().src = 'http://127.0.0.2:9/x.png'",
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.planted = 1'}))",
    ):
        browser.execute_script(script)
        wait_until(browser, lambda: any("Content Security Policy" in e["message"] for e in browser.get_log("browser")))
    assert browser.execute_script("return window.planted") is None
