"""The download code against a real HTTP server on the loopback interface, with the faults that servers have."""

import hashlib
import http.server
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import photo

import utils
from images import download, hashes, pictures
from utils import UserError


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` {path: bytes}; `cut`: send only so many bytes an answer; `ranges`: whether it does ranges."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.requests = {}, None, True, []
        self.daemon_threads = True

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200 if self.path[1:] in self.server.files else 404)
        self.end_headers()

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        content = self.server.files.get(self.path[1:])
        if content is None:
            return self.send_error(404)
        first = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if first >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        rest = content[first:]
        self.wfile.write(rest[: self.server.cut] if self.server.cut else rest)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


def test_download(server, tmp_path):
    server.files["a"] = CONTENT
    path = download.download(server.url("a"), tmp_path / "sub" / "a", DIGEST)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["a"]


def test_cut_connections_are_gone_on_from(server, tmp_path):
    server.files["a"], server.cut = CONTENT, 70_000
    path = download.download(server.url("a"), tmp_path / "a", DIGEST)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == 5
    assert all(later for later in server.requests[1:])  # each asked for the rest alone


def test_an_earlier_attempt_is_gone_on_from(server, tmp_path):
    server.files["a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT[:100_000])
    assert download.download(server.url("a"), tmp_path / "a", DIGEST).read_bytes() == CONTENT
    assert server.requests == ["bytes=100000-"]


def test_a_whole_part_is_taken(server, tmp_path):
    server.files["a"] = CONTENT
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert download.download(server.url("a"), tmp_path / "a", DIGEST).read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(server, tmp_path):
    server.files["a"], server.ranges = CONTENT, False
    (tmp_path / "a.part").write_bytes(b"x" * 1000)
    assert download.download(server.url("a"), tmp_path / "a", DIGEST).read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_deleted(server, tmp_path):
    server.files["a"] = CONTENT[:-1] + b"!"
    with pytest.raises(UserError, match="is a wrong file"):
        download.download(server.url("a"), tmp_path / "a", DIGEST)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(server, tmp_path):
    with pytest.raises(UserError, match="answers 404"):
        download.download(server.url("a"), tmp_path / "a")


def test_a_dead_server_is_named_at_once(tmp_path):
    server = Server()
    server.server_close()
    start = time.perf_counter()
    with pytest.raises(UserError, match="cannot be downloaded"):
        download.download(server.url("a"), tmp_path / "a")
    assert not download.reachable(server.url("a"), seconds=5)
    assert time.perf_counter() - start < 5


@pytest.mark.slow
def test_a_silent_server_does_not_hold_up_the_fallback():
    """A connection that is accepted and never answered: `reachable` gives up in its time."""
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.perf_counter()
        assert not download.reachable(f"http://127.0.0.1:{silent.getsockname()[1]}/", seconds=1)
        assert time.perf_counter() - start < 3


@pytest.fixture
def test_set(tmp_path, rng, monkeypatch):
    """A manifest of two images, and the images: one whole, one that only a cropped copy of is around."""
    a, b = photo(rng, 40, 40), photo(rng, 42, 45)
    manifest = {
        "Set5": {
            name: {"sha256": {str(n): hashes.pixel_hash(utils.mod_crop(image, n)) for n in (1, 4)}}
            for name, image in (("a", a), ("b", b))
        }
    }
    for module in (download, hashes):  # one imports it from the other
        monkeypatch.setattr(module, "read_manifest", lambda: manifest)
    source = tmp_path / "source"
    utils.write_image(source / "deep" / "img_001.png", a)
    utils.write_image(source / "deep" / "other.png", photo(rng, 40, 40))
    utils.write_image(source / "img_002.tif", utils.mod_crop(b, 4))
    (source / "broken.png").write_bytes(b"x")
    return source


@pytest.mark.parametrize("kind", ["folder", "archive", "address"])
def test_a_test_set_is_known_by_its_pixels(test_set, tmp_path, server, kind):
    place = test_set
    if kind != "folder":
        place = shutil.make_archive(tmp_path / "set", "gztar", test_set)
    if kind == "address":
        with open(place, "rb") as file:
            server.files["set.tar.gz"] = file.read()
        place = server.url("set.tar.gz")
    target = download.fetch_test_set("Set5", tmp_path / "root", str(place))
    assert sorted(path.name for path in target.iterdir()) == ["a.png", "b.tif"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["Set5"]  # nothing else is left


@pytest.mark.parametrize("kind", ["gztar", "zip"])
def test_damaged_archives_are_named(test_set, tmp_path, kind):
    path = tmp_path / shutil.make_archive(tmp_path / "set", kind, test_set)
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    path.write_bytes(content[:half] if kind == "gztar" else content[:half] + b"damage!!" + content[half + 8 :])
    with pytest.raises(UserError, match="neither a folder nor a whole archive|not complete"):
        download.fetch_test_set("Set5", tmp_path / "root", str(path))
    assert path.exists()


def test_a_local_file_is_as_good_as_an_address(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert download.download(tmp_path / "a", tmp_path / "b", DIGEST).read_bytes() == CONTENT
    with pytest.raises(UserError, match="neither an address"):
        download.download("ftp://x/a", tmp_path / "c")


def test_images_already_there_are_known_by_their_pixels(test_set, tmp_path, rng):
    """A wrong image under a right name does not count, a right one under another name does."""
    target = tmp_path / "root" / "Set5"
    utils.write_image(target / "a.png", photo(rng, 40, 40))
    shutil.copy(test_set / "img_002.tif", target / "renamed.tif")
    with pytest.raises(UserError, match=r"\(a missing\)"):
        download.fetch_test_set("Set5", tmp_path / "root", str(tmp_path / "root"))
    download.fetch_test_set("Set5", tmp_path / "root", str(test_set))
    assert sorted(download.known_images("Set5", target)) == ["a", "b"]
    assert sorted(path.name for path in target.iterdir()) == ["a.png", "renamed.tif"]


def test_an_incomplete_set_is_named(test_set, tmp_path):
    (test_set / "img_002.tif").unlink()
    with pytest.raises(UserError, match=r"not complete \(b missing\).*--from"):
        download.fetch_test_set("Set5", tmp_path / "root", str(test_set))


def test_mirrors_are_tried_in_turn(test_set, tmp_path, server, monkeypatch):
    with open(shutil.make_archive(tmp_path / "set", "zip", test_set), "rb") as file:
        server.files["set.zip"] = file.read()
    server.files["page.zip"] = b"<html>moved</html>"
    mirrors = [server.url(name) for name in ("gone.zip", "page.zip", "set.zip")]
    monkeypatch.setitem(download.MIRRORS, "Set5", mirrors)
    assert len(list(download.fetch_test_set("Set5", tmp_path / "root").iterdir())) == 2


def test_manifest_knows_119_images():
    manifest = hashes.read_manifest()
    assert {name: len(images) for name, images in manifest.items()} == {"Set5": 5, "Set14": 14, "BSD100": 100}
    assert len({image for image, *_ in (v for v in hashes.load_manifest().values())}) == 3
    assert manifest["Set14"]["bridge"]["channels"] == 1


def test_manifest_knows_the_real_sets(shared):
    manifest = hashes.load_manifest()
    for name in ("Set5", "Set14"):
        for path in utils.list_images(shared / name):
            assert manifest[hashes.pixel_hash(pictures.read_image(path))][:2] == (name, path.stem)


def test_vid4_is_known_by_its_frames(tmp_path, rng, monkeypatch):
    """HR is taken from among LR and others; what is missing is named, and what is there is not fetched again."""
    monkeypatch.setattr(download, "VID4", {"calendar": (2, 24, 16), "walk": (3, 20, 16)})
    source = tmp_path / "copy"
    for part, scale in (("GT", 1), ("BIx4", 4)):
        for name, (count, width, height) in download.VID4.items():
            for i in range(count):
                utils.write_image(
                    source / part / name.title() / f"{i:03}.png", photo(rng, height // scale, width // scale)
                )
    with pytest.raises(UserError, match="vid4 --from"):
        download.fetch_vid4(tmp_path / "root")
    (source / "GT" / "Walk" / "002.png").rename(tmp_path / "002.png")
    with pytest.raises(UserError, match="has no folder walk of 3 pictures of 20×16"):
        download.fetch_vid4(tmp_path / "root", source)
    (tmp_path / "002.png").rename(source / "GT" / "Walk" / "002.png")
    target = download.fetch_vid4(tmp_path / "root", source)
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["Vid4"]
    for name, (count, *_) in download.VID4.items():
        files = sorted(path.name for path in (target / name).iterdir())
        assert files == [f"{i:03}.png" for i in range(count)]
        first = source / "GT" / name.title() / "000.png"
        assert (target / name / "000.png").read_bytes() == first.read_bytes()
    assert download.fetch_vid4(tmp_path / "root") == target


def test_vgg19_is_fetched_and_checked(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "PROJECT", tmp_path)
    monkeypatch.setattr(download, "VGG19_FILES", (tmp_path / "vgg19" / download.VGG19_FILE,))
    monkeypatch.setattr(download, "VGG19_URL", server.url("vgg"))
    monkeypatch.setattr(download, "VGG19_DIGEST", "md5:" + hashlib.md5(CONTENT).hexdigest())
    assert download.find_vgg19() is None  # the server does not have it
    server.files["vgg"] = CONTENT
    assert download.find_vgg19() == tmp_path / "vgg19" / download.VGG19_FILE
    (tmp_path / "vgg19" / download.VGG19_FILE).write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match="damaged"):
        download.find_vgg19()


def test_two_processes_do_not_append_to_one_file(tmp_path, monkeypatch):
    """The second waits and keeps what the first has fetched."""
    fetched, content = [], b"weights"

    def fetch_rest(url, part, timeout):
        fetched.append(url)
        time.sleep(0.2)
        part.write_bytes(content)

    monkeypatch.setattr(download, "fetch_rest", fetch_rest)
    monkeypatch.setattr(download.tempfile, "tempdir", str(tmp_path))
    digest = "md5:" + hashlib.md5(content).hexdigest()
    path = tmp_path / "a" / "file"
    with ThreadPoolExecutor(2) as pool:
        assert (
            list(pool.map(lambda _: download.download("http://localhost/file", path, digest), range(2))) == [path] * 2
        )
    assert len(fetched) == 1 and [file.name for file in path.parent.iterdir()] == ["file"]
