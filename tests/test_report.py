"""The report: departures and crops by hand, names that would like to be HTML, and the page itself in a browser."""

import io
import itertools
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import open_page, photo, requested

import utils
from images import pictures
from scoring import figures, metrics, pages, plot, report, tables, testsets

HOSTILE = '"><img src=x onerror=alert(1)>'
ODD = "50% #1 'quoted' <b>é</b>?".replace("/", "|")
SETS = {"Set5": ("plain", HOSTILE), "a b#1%": (ODD, "<!--<script>")}
METHODS = ("nearest", "bicubic", "<i>mine</i>".replace("/", "|"))


def image_of(name, hr, scale=4):
    hr = utils.mod_crop(hr, scale)
    return testsets.Image(name, hr, utils.imresize(hr, 1 / scale))


def upscale(image, method):
    """SR of a method of this file; "mine" is bicubic with a red square that LR knows nothing of."""
    sr = utils.imresize(image.lr, 4, method if method in utils.KERNELS else "bicubic")
    if method not in utils.KERNELS:
        sr[8:16, 8:16] = (255, 0, 0)[: sr.shape[-1]]
    return sr


def write_report(folder, sets, methods=METHODS, names=metrics.USUAL):
    """What evaluate.py does, without a network: the results, and the report below `folder`."""
    with ThreadPoolExecutor(2) as pool:
        focus = figures.write_originals(folder, sets, 4, pool)
    scores = {set_name: {method: {} for method in methods} for set_name in sets}
    for set_name, members in sets.items():
        for image in members.images:
            for method in methods:
                sr = upscale(image, method)
                figures.write_method(folder / set_name, image, method, sr)
                scores[set_name][method][image.name] = metrics.measure(names, sr, image.hr, image.lr, 4)
    results = tables.summarise(scores, {name: members.doubt for name, members in sets.items()})
    report.write(folder, results, sets, focus, 4)
    return results


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder, results) of two sets with names that are hard to carry, moved after it was made; one image is gray."""
    rng = np.random.default_rng(0)
    sets = {name: testsets.ImageSet([]) for name in SETS}
    for i, (set_name, images) in enumerate(SETS.items()):
        for j, name in enumerate(images):
            hr = photo(rng, 120 + 8 * i, 160 + 12 * j)
            sets[set_name].images.append(image_of(name, hr[..., :1] if name == ODD else hr))
    sets["Set5"].doubt = "of its 5 images <none> are known"
    folder = tmp_path_factory.mktemp("report")
    results = write_report(folder / "first place", sets)
    shutil.move(folder / "first place", folder / "second #2")
    return folder / "second #2", results


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def test_departures_by_hand(rng):
    """Against MATLAB's weights written out as a sum for one LR pixel, and the colours at both ends."""
    image = image_of("x", photo(rng, 48, 64))
    sr = rng.integers(0, 256, image.hr.shape, dtype=np.uint8)
    taps = utils.downscale_taps(4)
    levels = metrics.departure(sr, image.lr)
    assert levels.shape == (12, 16)
    row, column = 5, 7
    window = sr[4 * row - 6 : 4 * row + 10, 4 * column - 6 : 4 * column + 10].astype(float)
    first = np.floor(np.einsum("i,ijc->jc", taps, window).clip(0, 255) + 0.5)
    second = np.floor((taps @ first).clip(0, 255) + 0.5)
    assert levels[row, column] == np.abs(second - image.lr[row, column]).max()
    square = np.mean((metrics.shrunk(sr, image.lr).astype(float) - image.lr) ** 2)
    assert metrics.consistency(sr, image.lr) == pytest.approx(10 * math.log10(255**2 / square))
    assert not metrics.departure(image.hr, image.lr).any()
    colours = figures.departure_colours()
    assert colours.shape == (17, 3) and colours[0].max() < 10 and colours[-1].min() > 150


@pytest.mark.parametrize("channels", [1, 3])
def test_a_planted_square_shows_in_the_map_and_nowhere_else(rng, channels):
    image = image_of("x", photo(rng, 96, 96)[..., :channels])
    wrong = image.hr.copy()
    wrong[40:48, 60:68] ^= 128
    levels = metrics.departure(wrong, image.lr)
    assert levels[10:12, 15:17].min() > 30
    levels[8:14, 13:19] = 0  # the kernel is four LR pixels wide
    assert not levels.any()
    black = figures.departure_colours()[0]
    coloured = figures.colour_departure(wrong, image.lr)
    assert (coloured[0, 0] == black).all() and (coloured[10, 15] != black).any()


def test_focus_is_where_detail_is(rng):
    hr = np.full((400, 300, 3), 128, np.uint8)
    hr[250:280, 60:90] = rng.integers(0, 256, (30, 30, 3))
    image = image_of("x", hr)
    x, y = figures.find_focus(image, 4)
    assert abs(x - 75) <= 48 and abs(y - 265) <= 48
    crop = figures.crop_at(image.hr, (x, y))
    assert crop.shape == (96, 96, 3) and np.count_nonzero(crop != 128) > 0.95 * np.count_nonzero(image.hr != 128)
    assert figures.crop_at(hr, (0, 399)).shape == (96, 96, 3) and figures.crop_at(hr[:40], (5, 5)).shape == (
        40,
        96,
        3,
    )


@pytest.mark.slow
def test_figure_shows_the_pixels(made):
    folder, _ = made
    figure = pictures.read_image(folder / "Set5" / "figure.png")
    assert figure.shape == (2 * (192 + 34 + 16) + 8, 4 * 200 + 8, 3)
    for column, path in enumerate((*(f"plain_{name}.png" for name in METHODS), "original/plain.png")):
        crop = figure[8:200:2, 8 + 200 * column : 200 + 200 * column : 2]
        picture = pictures.read_image(folder / "Set5" / path)
        windows = np.lib.stride_tricks.sliding_window_view(picture, (96, 96, 3))[:, :, 0]
        assert (windows == crop).all(axis=(2, 3, 4)).any(), path
    below = figure[200:242, 8:200]
    assert (below < 128).any() and (below[-4:] == 255).all()


@pytest.mark.parametrize(
    ("names", "expected"), [(["psnr_y", "ssim_y"], "inf dB / 0.9500"), (["niqe_own"], "-"), (["ssim_y"], "0.9500")]
)
def test_captions(names, expected):
    values = {"psnr_y": math.inf, "ssim_y": 0.95, "niqe_own": math.nan}
    assert figures.caption(values, names) == expected


# ---------------------------------------------------------------------------------------------------------------------
# The page as text


class Page(HTMLParser):
    """The elements of a page and the addresses that it names."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self.scripts, self.kind = [], "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.kind = tag

    def handle_endtag(self, tag):
        self.kind = None

    def handle_data(self, data):
        if self.kind == "script":
            self.scripts.append(data)
        elif self.kind != "style":
            self.text += data


def test_names_are_text_and_nothing_else(made):
    folder, results = made
    text = (folder / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2
    assert [tag for tag, _ in page.elements].count("img") == 2  # both of the slider
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert not {"i", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert HOSTILE in page.text and METHODS[-1] in page.text and ODD in page.text
    content = json.loads(page.scripts[0])
    assert content["views"] == ["LR", *METHODS, "original"]
    assert {one["name"]: tuple(image["name"] for image in one["images"]) for one in content["sets"]} == SETS
    assert "NOT COMPARABLE with published figures: of its 5 images <none> are known" in page.text
    figures = results["Set5"]["bicubic"].images["plain"]
    assert content["sets"][0]["images"][0]["captions"][2] == f"{figures['psnr_y']:.2f} dB / {figures['ssim_y']:.4f}"


def test_nothing_is_fetched_from_elsewhere(made):
    page = Page((made[0] / "index.html").read_text(encoding="utf-8"))
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; img-src 'self' file:; script-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy
    for _, attributes in page.elements:
        for name in {"src", "href", "action", "srcset"} & set(attributes):
            assert ":" not in attributes[name] and not attributes[name].startswith("/"), attributes


def test_what_cannot_stand_in_a_page_or_an_address(tmp_path):
    template = tmp_path / "page.html"
    template.write_text("{% macro row(name) %}<i>\n{{ name }}</i>{% endmacro %}{{ row(name) }}{{ data|tojson }}")
    text = pages.load(template).render(name="a\x00\n<", data="</script>")
    assert text == '<i>\na\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}&lt;</i>"\\u003c/script\\u003e"'
    with pytest.raises(Exception, match="'name' is undefined"):
        pages.load(template).render(data="")
    assert report.address("a:b", "c?d#e.png") == "a%3Ab/c%3Fd%23e.png"


def test_values_that_are_no_numbers(rng, tmp_path):
    """A small image without NIQE, a perfect one, one method, and no PSNR among the measures."""
    sets = {"x": testsets.ImageSet([image_of("flat", np.full((24, 28, 3), 90, np.uint8))])}
    write_report(tmp_path, sets, methods=("bicubic",))
    page = Page((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert "inf" in page.text and "NaN" not in page.scripts[0] and "svg" in {tag for tag, _ in page.elements}
    assert "p of the paired" not in page.text and "better ↘" not in page.text  # nothing finite to plot
    sets = {"x": testsets.ImageSet([image_of("small", photo(rng, 40, 40))])}
    write_report(tmp_path, sets)
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "LR-PSNR against PSNR-Y" in text and "better ↗" in text  # there is no NIQE of so small an image
    write_report(tmp_path, sets, names=("ssim_y", "niqe_own"))
    text = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "against PSNR-Y" not in text and "Wilcoxon" not in text and "SSIM-Y of each image" in text


def circles(svg, kind):
    """[(x, y)] of the points of a class in a plot."""
    root = ElementTree.fromstring(svg)
    return [
        tuple(float(use.attrib[name]) for name in ("x", "y"))
        for group in root.iter(f"{{{plot.SVG}}}g")
        if group.attrib.get("class") == kind
        for use in group.iter(f"{{{plot.SVG}}}use")
    ]


@pytest.mark.parametrize(
    ("axes", "arrow"),
    [(("psnr_y", "niqe_own"), "better ↘"), (("niqe_own", "ssim_y"), "↖ better"), (("mos", "psnr_y"), "↗")],
)
def test_any_two_measures_and_where_better_is(axes, arrow):
    text = plot.draw({"a": (1.0, 2.0), "b": (2.0, 1.0)}, *(plot.COLUMNS[name] for name in axes))
    assert arrow in text and len(circles(text, "point")) == 2


def test_sweeps_are_curves_and_the_papers_points_are_open():
    """The curve goes through the points in the order of the shares; the paper's points are those of its table."""
    points = {"blend_1": (2.0, 0.2), "other": (5.0, 0.9), "blend_0": (1.0, 0.5), "blend_0.5": (1.5, 0.1)}
    assert plot.curves_of(points) == [["blend_0", "blend_0.5", "blend_1"]] and plot.curves_of({"blend_1": (1, 1)}) == []
    rows = {name: tables.Row(dict(zip(("psnr_y", "ssim_paper"), at, strict=True)), {}) for name, at in points.items()}
    drawn, papers = plot.points_of("Set5", rows, ("psnr_y", "ssim_paper"))
    assert drawn == points and papers["paper: SRGAN"] == (29.40, 0.8472) and len(papers) == 11
    svg = plot.of_set("Set5", rows, ("psnr_y", "ssim_paper"))["svg"]
    assert len(circles(svg, "paper")) == 11
    (curve,) = (group for group in ElementTree.fromstring(svg).iter() if group.attrib.get("class") == "curve")
    (path,) = curve.iter(f"{{{plot.SVG}}}path")
    corners = [float(number) for number in path.attrib["d"].replace("M", "").replace("L", "").split()]
    ours = dict(zip(sorted(points, key=lambda name: -points[name][1]), circles(svg, "point"), strict=True))
    expected = [number for name in ("blend_0", "blend_0.5", "blend_1") for number in ours[name]]
    assert corners == pytest.approx(expected, abs=0.01)


def test_plots_of_what_was_written_before(made, call, tmp_path):
    from conftest import assert_refused

    path = tmp_path / "results.json"
    tables.write_json(path, {"Set5": made[1]["Set5"]})
    command = ("-m", "scoring.plot", path)
    result = call(*command, "--axes=ssim_y,consistency", "--csv", tmp_path / "points.csv")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "Set5_ssim_y_consistency.svg").read_text()
    assert ElementTree.fromstring(text).attrib["width"] and ".point {" in text
    lines = (tmp_path / "points.csv").read_text().splitlines()
    row = made[1]["Set5"]["bicubic"]
    assert lines[0] == "set,method,ssim_y,consistency"
    assert f"Set5,bicubic,{row.means['ssim_y']},{row.means['consistency']}" in lines
    assert_refused(call(*command, "--axes=psnr_y"), "takes two measures")
    assert_refused(call(*command, "--axes=psnr_y,x"), "no measure called 'x'")
    assert_refused(call(*command, "--sets=Set6"), "no set called 'Set6'")
    assert_refused(call("-m", "scoring.plot", tmp_path / "nowhere.json"), "cannot be read")


def test_plot_puts_points_where_they_belong():
    points = {
        "a": (26.0, 10.0),
        "b": (30.0, 6.0),
        "c": (30.0, 6.001),
        "d" * 30: (28.0, 8.0),
        "<e>\x00$中$": (27, 7),
    }
    columns = metrics.COLUMNS["psnr_y"], metrics.COLUMNS["niqe_own"]
    text = plot.draw(points, *columns)
    assert text == plot.draw(points, *columns)
    elements = Page(text).elements
    places = [(float(found["x"]), float(found["y"])) for tag, found in elements if tag == "use"]
    tree = ElementTree.fromstring(text)
    titles = [title.text.split(": ") for title in tree.iter("{http://www.w3.org/2000/svg}title")]
    assert dict(titles)["c"] == "PSNR-Y 30.00, NIQE-own 6.00" and dict(titles)["a"] == "PSNR-Y 26.00, NIQE-own 10.00"
    place = {name: place for (name, _), place in zip(titles, places, strict=True)}
    # To the right and upwards, by as much as the values differ.
    units = (place["b"][0] - place["a"][0]) / 4, (place["b"][1] - place["a"][1]) / 4
    assert units[0] > 50 and units[1] > 40
    for name, (x, y) in points.items():
        expected = (place["a"][0] + units[0] * (x - 26), place["a"][1] + units[1] * (10 - y))
        assert place[name.replace("\x00", "\N{REPLACEMENT CHARACTER}")] == pytest.approx(expected, abs=0.01)
    names = [text for group in tree.iter() if group.get("class") == "name" for text in group]
    lines = {text.text: (float(text.get("x")), float(text.get("y"))) for text in names}
    assert lines["a"] == pytest.approx((place["a"][0] + 9, place["a"][1] + 4)) and "d" * 23 + "…" in lines
    assert abs(lines["b"][1] - lines["c"][1]) >= 13
    # The page's policy forbids style inside; colours come from the page.
    assert not [found for tag, found in elements if "style" in found or tag in ("style", "metadata")]


def test_labels_never_overlap(rng):
    labels = [("x" * 9, *point) for point in rng.uniform((150, 120), (250, 220), (14, 2))]
    placed = [(x, baseline, 9 * plot.LETTER) for _, x, baseline, side in plot.place_labels(labels) if side == "left"]
    assert len(placed) == 14
    pairs = itertools.combinations(placed, 2)
    assert all(plot.apart(one, other) for one, other in pairs)
    assert plot.apart((0, 0, 10), (11, 0, 5)) and plot.apart((0, 0, 10), (0, 13, 10))
    assert not plot.apart((0, 0, 10), (9, 12, 5))
    # Behind this point is no room: the label ends before it.
    assert plot.place_labels([("name", plot.WIDTH - 30, 200)]) == [("name", plot.WIDTH - 39, 196, "right")]


# ---------------------------------------------------------------------------------------------------------------------
# The page in a browser


@pytest.fixture
def page(made, browser):
    """The report, opened; what the browser complains of is an error of the test."""
    open_page(browser, (made[0] / "index.html").as_uri())
    yield browser
    assert browser.get_log("browser") == []


def find(page, selector):
    from selenium.webdriver.common.by import By

    return page.find_element(By.CSS_SELECTOR, selector)


def pixels(page, element):
    """What the browser shows of an element, which it brings into view: uint8 [h, w, 3]."""
    import imageio.v3 as iio

    box = "arguments[0].scrollIntoView({block: 'center'}); return arguments[0].getBoundingClientRect().toJSON()"
    box = {side: round(value) for side, value in page.execute_script(box, element).items()}
    shown = iio.imread(io.BytesIO(page.get_screenshot_as_png()), mode="RGB")
    return shown[box["top"] : box["bottom"], box["left"] : box["right"]]


def wait_until(page, true):
    """Until true(), which a page may need a moment for after a click or a key."""
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(page, 20, poll_frequency=0.05).until(lambda _: true())


def wait_for_pictures(page):
    loaded = "return [...document.images].every((image) => image.loading === 'lazy' || image.complete)"
    wait_until(page, lambda: page.execute_script(loaded))


def wait_for_image(page, name):
    """Until the image of this name is the one that is looked at, in all crops."""

    def shown():
        texts = page.execute_script("return [...document.querySelectorAll('#crops img')].map((image) => image.alt)")
        return len(texts) == 5 and all(text.startswith(f"{name}, enlarged") for text in texts)

    wait_until(page, shown)


def test_all_pictures_load_and_nothing_else(page, made):
    from selenium.webdriver.support.select import Select

    missing = "return [...document.images].filter((image) => !image.naturalWidth).length"
    for set_name, images in SETS.items():
        Select(find(page, "#set")).select_by_visible_text(set_name)
        wait_for_image(page, images[0])
        for i, image in enumerate(images):
            Select(find(page, "#image")).select_by_index(i)
            wait_for_image(page, image)
            wait_until(page, lambda: page.execute_script(missing) == 0)
            assert page.execute_script("return document.images.length") == 2 + 2 + 5 + 3
    addresses = requested(page)
    assert len(set(addresses)) == 1 + 4 * (5 + 3)
    assert all(address.startswith(made[0].as_uri()) for address in addresses)
    assert page.execute_script("return document.title") == "Super-resolution ×4: Set5, a b#1%"


def test_a_missing_picture_and_a_foreign_one_are_noticed(made, browser, tmp_path):
    """What the tests above look for can be seen: a file that is gone, and an address that the policy refuses."""
    shutil.copytree(made[0], tmp_path / "copy")
    (tmp_path / "copy" / "Set5" / "plain_bicubic.png").unlink()

    def complains_of(words):
        wait_until(browser, lambda: any(words in entry["message"] for entry in browser.get_log("browser")))

    open_page(browser, (tmp_path / "copy" / "index.html").as_uri())
    complains_of("plain_bicubic.png")
    for script in ("new Image().src = 'http://localhost:9/x.png'", "fetch('http://localhost:9/').catch(() => {})"):
        browser.execute_script(script)
        complains_of("Content Security Policy")


def test_tables_sort_both_ways_by_mouse_and_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    def column(i):
        rows = "[...document.querySelectorAll('#set0 .pair tbody tr')]"
        return page.execute_script(f"return {rows}.map((row) => row.cells[{i}].textContent)")

    first, psnr = (find(page, f"#set0 .pair th:nth-child({i}) button") for i in (1, 2))
    unsorted = column(1)
    psnr.click()
    falling = column(1)
    assert find(page, "#set0 .pair th:nth-child(2)").get_attribute("aria-sort") == "descending"
    assert [float(text) for text in falling] == sorted(map(float, unsorted), reverse=True)
    psnr.send_keys(Keys.ENTER)
    assert find(page, "#set0 .pair th:nth-child(2)").get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(1)] == sorted(map(float, unsorted))
    first.send_keys(Keys.SPACE)
    assert find(page, "#set0 .pair th:nth-child(2)").get_attribute("aria-sort") is None
    assert column(0)[0] == "<i>mine<|i>" and sorted(column(0)) == sorted(
        [*METHODS, *(f"paper: {name}" for name in tables.PAPER["Set5"])]
    )
    ssim = find(page, "#set0 .pair th:nth-child(3) button")  # the paper's rows have none: last, both ways
    for _ in range(2):
        ssim.click()
        assert [text == "-" for text in column(2)] == [False] * 3 + [True] * 11


def test_the_slider_shows_both_pictures(page, made):
    """Pixels of the screenshot against those of the files, left and right of the divider."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    wait_for_pictures(page)
    above = "document.querySelectorAll('nav, #divider, #frame')"
    page.execute_script(f"{above}.forEach((element) => {{ element.style.visibility = 'hidden'; }})")
    stage, split = find(page, "#stage"), find(page, "#split")
    folder = made[0] / "Set5"
    left, right = (pictures.read_image(folder / f"plain_{name}.png").astype(int) for name in ("bicubic", METHODS[-1]))
    assert np.abs(left - right).max() > 50

    def shown():
        """The stage at one pixel for each of the file's, without the names at the bottom."""
        image = pixels(page, stage)
        enlarged = image.shape[1] // left.shape[1]
        assert enlarged > 1 and image.shape[1] == enlarged * left.shape[1]
        return image[enlarged // 2 :: enlarged, enlarged // 2 :: enlarged][:100].astype(int)

    def expected(share):
        columns = np.arange(left.shape[1])[None, :, None] + 0.5
        return np.where(columns < share * left.shape[1], left, right)[:100]

    assert np.abs(shown() - expected(0.5)).max() <= 1
    split.send_keys(Keys.HOME)
    assert split.get_attribute("value") == "0" and np.abs(shown() - right[:100]).max() <= 1
    split.send_keys(Keys.END)
    assert np.abs(shown() - left[:100]).max() <= 1
    split.send_keys(*[Keys.ARROW_LEFT] * 4)
    assert split.get_attribute("value") == "98"
    ActionChains(page).drag_and_drop_by_offset(stage, -stage.size["width"] // 4, 0).perform()
    assert float(split.get_attribute("value")) == pytest.approx(25, abs=1)
    assert np.abs(shown()[:, 80:] - right[:100, 80:]).max() <= 1


def test_crops_follow_click_and_keys(page):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def moved():
        return page.execute_script(
            "return [...document.querySelectorAll('.crop img')].map((image) => image.style.transform)"
        )

    stage, frame, split = find(page, "#stage"), find(page, "#frame"), find(page, "#split")
    wait_for_pictures(page)
    before, size = moved(), stage.size
    assert len(before) == 5 and len(set(before)) == 1
    ActionChains(page).move_to_element_with_offset(
        stage, size["width"] // 2 - 9, size["height"] // 2 - 9
    ).click().perform()
    corner = moved()
    assert len(set(corner)) == 1 and corner != before and split.get_attribute("value") == "50"
    box = frame.rect
    assert box["x"] + box["width"] == pytest.approx(stage.rect["x"] + size["width"], abs=6)
    frame.send_keys(Keys.ARROW_LEFT)
    assert moved() != corner
    frame.send_keys(Keys.ARROW_RIGHT)
    assert moved() == corner
    crops = [pixels(page, find(page, f"#crops figure:nth-child({i}) .crop")) for i in (2, 5)]
    assert np.abs(crops[0].astype(int) - crops[1]).mean() > 1


def test_choosing_an_image(page):
    from selenium.webdriver.common.keys import Keys

    wait_for_image(page, "plain")
    find(page, "#image").send_keys(Keys.ARROW_DOWN)
    wait_for_image(page, HOSTILE)
    find(page, "#next").click()
    wait_for_image(page, "plain")
    find(page, "#thumbnails a:nth-child(2)").click()
    wait_for_image(page, HOSTILE)
    page.back()
    wait_for_image(page, "plain")
    # From a row of a table of images.
    for details in ("#set1 details", "#set1 details details"):
        find(page, f"{details} > summary").click()
    find(page, "#set1 details details tbody a").click()
    wait_for_image(page, ODD)
    assert find(page, "#set").get_attribute("value") == "a b#1%"
    assert page.execute_script("return document.getElementById('pictures').getBoundingClientRect().top") < 900


@pytest.mark.parametrize("width", [390, 1000])
def test_nothing_sticks_out(made, browser, width):
    open_page(browser, (made[0] / "index.html").as_uri(), width)
    wait_for_pictures(browser)
    browser.execute_script("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert find(browser, "#stage").size["width"] <= width


def test_two_pictures_never_share_a_file():
    figures.check_names(["a", "b_c"], ["c", "d"])
    with pytest.raises(utils.UserError, match="a by b_c and a_b by c would be one file, a_b_c.png"):
        figures.check_names(["a", "a_b"], ["b_c", "c"])
