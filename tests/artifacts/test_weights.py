"""`find_weights`: what a name means, and downloads from a real server that behaves and misbehaves."""

from __future__ import annotations

import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trt_yolo.artifacts import weights
from trt_yolo.artifacts.weights import cache_folder, demo_checkpoint, find_weights
from trt_yolo.errors import DownloadError, InputError, TrtYoloError, UnsupportedModelError


def _checkpoint() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(300_000))
    return buffer.getvalue()


_CONTENT = _checkpoint()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answer(self)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """Answers every GET with `behaviour`, a method of its own, and remembers the paths."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.behaviour = "whole"
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        getattr(self, self.behaviour.replace(" ", "_"))(request)

    def whole(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {"Content-Length": str(len(_CONTENT))}, _CONTENT)

    def no_length(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {}, _CONTENT)

    def odd_length(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {"Content-Length": "many"}, _CONTENT)

    def cut_off(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {"Content-Length": str(len(_CONTENT))}, _CONTENT[: len(_CONTENT) // 2])

    def cut_off_chunks(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {"Transfer-Encoding": "chunked"}, b"%x\r\n" % len(_CONTENT) + _CONTENT[:9999])

    def nothing(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {"Content-Length": "0"}, b"")

    def login_page(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {"Content-Type": "text/html"}, b"<html>Please accept our terms</html>")

    def not_found(self, request: BaseHTTPRequestHandler) -> None:
        request.send_error(404)

    def broken(self, request: BaseHTTPRequestHandler) -> None:
        request.send_error(500)

    def no_http(self, request: BaseHTTPRequestHandler) -> None:
        request.wfile.write(b"\x00\x01 this is no HTTP\r\n\r\n")
        request.close_connection = True

    def silent(self, request: BaseHTTPRequestHandler) -> None:
        _send(request, {"Content-Length": str(len(_CONTENT))}, _CONTENT[:1000])
        self.released.wait(30)

    def moved(self, request: BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/elsewhere/"):
            self.whole(request)
        else:
            request.send_response(302)
            request.send_header("Location", f"{self.url}/elsewhere{request.path}")
            request.end_headers()


def _send(request: BaseHTTPRequestHandler, headers: dict[str, str], content: bytes) -> None:
    request.send_response(200)
    for name, value in headers.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(content)
    request.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    """A server that weights are fetched from."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with _Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", running.url)
        yield running
        running.released.set()
        running.shutdown()
        thread.join(10)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a working folder without files that are named like models."""
    monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("behaviour", ["whole", "no length", "moved"])
def test_a_checkpoint_is_downloaded_once_and_kept(behaviour: str, server: _Server, cache: Path) -> None:
    server.behaviour = behaviour
    path = find_weights("yolov8n")
    assert path == cache / "weights" / "yolov8n.pt"
    assert path.read_bytes() == _CONTENT
    first = list(server.asked)
    assert first[0] == "/yolov8n.pt"
    assert find_weights("yolov8n.pt") == path, "the same model under its other name"
    assert server.asked == first, "the second time comes from the cache"
    assert _files(cache) == ["yolov8n.pt"]


@pytest.mark.parametrize(
    ("model", "asked"),
    [("yolov8n", "/yolov8n.pt"), ("yolov8s.pt", "/yolov8s.pt"), ("yolov8x", "/yolov8x.pt"),
     ("yolov8m-oiv7", "/yolov8m-oiv7.pt"), ("yolov8l-oiv7.pt", "/yolov8l-oiv7.pt")],
)  # fmt: skip
def test_names_of_released_models(model: str, asked: str, server: _Server) -> None:
    assert find_weights(model).name == asked.removeprefix("/")
    assert server.asked == [asked]


def test_the_address_may_end_in_a_slash(server: _Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", f"{server.url}/mirror/")
    find_weights("yolov8n")
    assert server.asked == ["/mirror/yolov8n.pt"]


@pytest.mark.parametrize(("behaviour", "total"), [("whole", len(_CONTENT)), ("no length", 0)])
def test_progress_is_told(behaviour: str, total: int, server: _Server) -> None:
    server.behaviour = behaviour
    told: list[tuple[int, int]] = []
    stages: set[str] = set()
    find_weights("yolov8n", progress=lambda stage, done, of: (stages.add(stage), told.append((done, of)))[0])
    assert stages == {"downloading yolov8n"}
    assert len(told) > 1
    assert told == sorted(set(told))
    assert told[-1] == (len(_CONTENT), total)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("not found", "Not Found"),
        ("broken", "Internal Server Error"),
        ("cut off", f"of {len(_CONTENT)} bytes; try again"),
        ("cut off chunks", "cannot download"),
        ("nothing", "yolov8n"),
        ("login page", "yolov8n"),
        ("no http", "cannot download"),
    ],
)
def test_a_failed_download_is_one_error_and_leaves_no_file(
    behaviour: str, message: str, server: _Server, cache: Path
) -> None:
    server.behaviour = behaviour
    with pytest.raises(DownloadError, match=message) as error:
        find_weights("yolov8n")
    assert f"{server.url}/yolov8n.pt" in str(error.value)
    assert _files(cache) == []
    server.behaviour = "whole"
    assert find_weights("yolov8n").read_bytes() == _CONTENT, "the next try starts afresh"


def test_a_length_that_is_no_number_is_no_length(server: _Server) -> None:
    server.behaviour = "odd length"
    assert find_weights("yolov8n").read_bytes() == _CONTENT


def test_a_server_that_falls_silent_is_given_up(
    server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.behaviour = "silent"
    monkeypatch.setattr(weights, "_TIMEOUT_S", 0.3)
    with pytest.raises(DownloadError, match="timed out"):
        find_weights("yolov8n")
    assert _files(cache) == []


def test_an_interrupted_download_leaves_no_file(server: _Server, cache: Path) -> None:
    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_weights("yolov8n", progress=interrupt)
    assert _files(cache) == []


def test_offline_says_where_to_put_the_file(
    server: _Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _Server() as closed:
        url = closed.url
    monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", url)
    with pytest.raises(DownloadError, match="refused") as error:
        find_weights("yolov8n")
    kept = cache / "weights" / "yolov8n.pt"
    assert all(part in str(error.value) for part in (f"{url}/yolov8n.pt", "with no network", str(kept)))
    kept.write_bytes(_CONTENT)
    assert find_weights("yolov8n") == kept, "what it says to do must help"


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1", "file:///etc", "127.0.0.1:80", "", "http://", "http://[::1", "http://127.0.0.1:port",
     "http://127.0.0.1:1/ä", "http://127.0.0.1:1/a b"],
)  # fmt: skip
def test_an_impossible_address_is_one_error(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", url)
    with pytest.raises(TrtYoloError, match=r"yolov8n\.pt"):
        find_weights("yolov8n")
    assert _files(cache) == []


def test_a_cache_that_cannot_be_written_is_named(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(TrtYoloError, match=str(tmp_path / "file")):
        find_weights("yolov8n")
    assert server.asked == []


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        ("yolov8n-seg", UnsupportedModelError, r"another task \(seg\)"),
        ("yolov8s-pose.pt", UnsupportedModelError, r"another task \(pose\)"),
        ("yolov8m-cls", UnsupportedModelError, r"another task \(cls\)"),
        ("yolov8x-obb", UnsupportedModelError, r"another task \(obb\)"),
        ("yolov8s-worldv2", UnsupportedModelError, r"another task \(worldv2\)"),
        ("yolov8", InputError, "no such file"),
        ("yolov9c", InputError, "no such file"),
        ("yolov8n.onnx", InputError, "no such file"),
        ("../yolov8n", InputError, "no such file"),
        ("yolov8n\nyolov8s", InputError, "no such file"),
        ("nonsense", InputError, "yolov8n, yolov8s, yolov8m, yolov8l or yolov8x"),
        ("", InputError, "give the path"),
        ("x" * 5000, InputError, "no such file"),
    ],
)
def test_other_names_are_refused_without_asking_the_net(
    model: str, kind: type[Exception], message: str, server: _Server, cache: Path
) -> None:
    with pytest.raises(kind, match=message) as error:
        find_weights(model)
    assert model in str(error.value)
    assert server.asked == []
    assert not cache.exists()


def test_a_file_comes_before_a_name(server: _Server, tmp_path: Path) -> None:
    (tmp_path / "yolov8n.pt").write_bytes(b"mine")
    assert find_weights("yolov8n.pt") == Path("yolov8n.pt")
    assert server.asked == []


def test_nothing_is_the_demo_checkpoint() -> None:
    assert find_weights(None) == demo_checkpoint()
    assert demo_checkpoint().is_file()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({"TRT_YOLO_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/trt-yolo"),
        ({"TRT_YOLO_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/trt-yolo"),
    ],
)
def test_where_the_cache_is(variables: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRT_YOLO_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(wanted)


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number that is in no list of users."""
    for name in ("TRT_YOLO_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(InputError, match="set TRT_YOLO_CACHE to a folder"):
        cache_folder()
