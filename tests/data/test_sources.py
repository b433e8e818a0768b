"""Downloads against a server on this machine, and checksums."""

import dataclasses
import hashlib
import http.server
import threading
import time

import pytest

from lrd_jax.data.builders import mnist, sources
from lrd_jax.data.builders.sources import DownloadError, SourceFile, download
from lrd_jax.errors import UserError

BODY = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(BODY).hexdigest()
PAUSE_S = sources._PAUSE_S


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers by the path: what each one does is said in `do_GET`."""

    def do_GET(self):
        server = self.server
        server.requests.append(self.path)
        tries = server.requests.count(self.path)
        if self.path == "/missing":
            return self.send_error(404)
        if self.path == "/busy-twice" and tries < 3:
            return self.send_error(503)
        if self.path in ("/busy", "/failing", "/too-many"):
            return self.send_error({"/busy": 503, "/failing": 500, "/too-many": 429}[self.path])
        self.send_response(200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        cut_off = self.path == "/cut-off" or (self.path == "/cut-off-once" and tries < 2)
        if self.path == "/endless":
            while self.path:  # until the other side has had enough
                try:
                    self.wfile.write(BODY)
                except OSError:
                    return None
        body = BODY[::-1] if self.path == "/corrupt" else BODY
        self.wfile.write(body[:1000] if cut_off else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(sources, "_PAUSE_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def source(server, path):
    host, port = server.server_address
    return SourceFile("file.gz", f"http://{host}:{port}/{path}", SHA256)


@pytest.mark.parametrize(("path", "tries"), [("right", 1), ("busy-twice", 3), ("cut-off-once", 2)])
def test_download(server, tmp_path, path, tries):
    target = download(source(server, path), tmp_path / "new")
    assert target == tmp_path / "new" / "file.gz"
    assert target.read_bytes() == BODY
    assert len(server.requests) == tries
    assert [p.name for p in target.parent.iterdir()] == ["file.gz"]
    download(source(server, path), tmp_path / "new")
    assert len(server.requests) == tries  # it is there


def test_pauses_before_further_attempts_grow(server, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(sources, "_PAUSE_S", PAUSE_S)
    monkeypatch.setattr(sources.time, "sleep", slept.append)
    download(source(server, "busy-twice"), tmp_path)
    assert slept == [PAUSE_S, 2 * PAUSE_S] and PAUSE_S > 0


def test_a_damaged_earlier_download_is_fetched_again(server, tmp_path):
    (tmp_path / "file.gz").write_bytes(BODY[:-1])
    assert download(source(server, "right"), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "error", "message", "tries"),
    [
        (
            "corrupt",
            UserError,
            f"/corrupt has the wrong sha256: expected {SHA256}, "
            f"actual {hashlib.sha256(BODY[::-1]).hexdigest()}",
            1,
        ),
        (
            "cut-off",
            DownloadError,
            f"/cut-off: cut off after 1000 of 256000 bytes, expected sha256 {SHA256}, "
            f"actual {hashlib.sha256(BODY[:1000]).hexdigest()}",
            3,
        ),
        ("missing", DownloadError, "/missing: the server answers 404", 1),
        ("busy", DownloadError, "/busy: the server answers 503", 3),
        ("failing", DownloadError, "/failing: the server answers 500", 3),
        ("too-many", DownloadError, "/too-many: the server answers 429", 3),
    ],
)
def test_bad_answers_leave_nothing(server, tmp_path, path, error, message, tries):
    with pytest.raises(error, match=message) as caught:
        download(source(server, path), tmp_path)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert len(server.requests) == tries
    assert list(tmp_path.iterdir()) == []


def test_an_answer_of_another_size_is_not_taken_to_its_end(server, tmp_path):
    endless = dataclasses.replace(source(server, "endless"), size=len(BODY))
    with pytest.raises(UserError, match="another file, of more than the 256000 bytes"):
        download(endless, tmp_path)
    assert list(tmp_path.iterdir()) == []
    whole = dataclasses.replace(source(server, "right"), size=len(BODY))
    with (tmp_path / "file.gz").open("wb") as file:
        file.truncate(60 * 10**9)  # sparse: not read, but fetched again
    assert download(whole, tmp_path).read_bytes() == BODY


def test_no_server_is_noticed_at_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_PAUSE_S", 60)
    gone = source(server, "right")
    gone = dataclasses.replace(gone, url="http://127.0.0.1:9/right")
    start = time.perf_counter()
    with pytest.raises(DownloadError, match=r"no connection: .*refused"):
        download(gone, tmp_path)
    assert time.perf_counter() - start < 5


def test_an_unknown_host_is_noticed_at_once(tmp_path):
    gone = SourceFile("file.gz", "http://no-such-host.invalid/file.gz", SHA256)
    with pytest.raises(DownloadError, match=r"no-such-host\.invalid/file\.gz: no connection: "):
        download(gone, tmp_path)


def test_labels_of_all_images_are_counted():
    for builder in (mnist.LrdMnist, mnist.LrdFashionMnist):
        counts = {split: sum(each) for split, each in builder.LABEL_COUNTS.items()}
        assert counts == {"train": 60_000, "test": 10_000}


def test_the_sources_are_those_of_tfds():
    # The lists of the stock builders come with the installed package.
    import importlib.resources

    lists = importlib.resources.files("tensorflow_datasets") / "url_checksums"
    for builder, name in ((mnist.LrdMnist, "mnist"), (mnist.LrdFashionMnist, "fashion_mnist")):
        rows = (lists / f"{name}.txt").read_text().split("\n")
        stock = {row.split("\t")[0]: row.split("\t")[2] for row in rows if row}
        assert {s.url: s.sha256 for s in builder.SOURCES} == stock
        sizes = {row.split("\t")[0]: int(row.split("\t")[1]) for row in rows if row}
        assert {s.url: s.size for s in builder.SOURCES} == sizes
