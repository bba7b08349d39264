"""Works are fetched once, by one process, and every failure is reported in one sentence."""

import dataclasses
import errno
import gzip
import hashlib
import io
import json
import socket
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.forks import run_forked
from training.command import UserError
from training.data import corpora as registry
from training.data.corpora import load_corpus
from training.data.works import CLASSICS, WORKS, Work, chinese_poetry, gutenberg, nltk

BODY = "A Title\n\nThe first line of it.\n\nThe last line.\n"
RAW = (
    "\ufeffThe Project Gutenberg eBook of A Title\r\n\r\n*** START OF THE PROJECT GUTENBERG EBOOK A TITLE ***\r\n\r\n"
    "Produced by somebody.\r\n\r\n" + BODY.replace("\n", "\r\n") + "\r\n\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK A TITLE ***\r\nSmall print.\r\n"
)


def book(sha256: str, number: int = 7) -> Work:
    return Work("A Title", sha256=sha256, file="title.txt", **gutenberg(number, begins="A Title\n\nThe first"))


BOOK = "/www.gutenberg.org/cache/epub/7/pg7.txt"
ARCHIVE = "/raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/gutenberg.zip"
POEMS = "/codeload.github.com/chinese-poetry/chinese-poetry/tar.gz/99ebbef7e1345c0985c44b9fd96a3f9e776f117b"


class Mirror(ThreadingHTTPServer):
    """The hosts of all works, on loopback: `pages` maps paths to contents, `requests` lists the paths requested."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes] = {BOOK: RAW.encode()}
        self.requests: list[str] = []
        self.missing = 0  # bytes that a response promises but does not send
        self.before_answer = lambda: None


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.server.before_answer()
        page = self.server.pages.get(self.path)
        self.send_response(404 if page is None else 200)
        self.send_header("Content-Length", str(len(page or b"") + self.server.missing))
        self.end_headers()
        self.wfile.write(page or b"")

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(monkeypatch, tmp_path):
    """A mirror with one book, and an empty cache."""
    server = Mirror()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.delenv("OZYMANDIAS_CORPORA", raising=False)
    monkeypatch.setenv("OZYMANDIAS_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(registry, "NAMES", (*registry.NAMES, "title", "lost"))
    monkeypatch.setitem(WORKS, "title", book(hashlib.sha256(BODY.encode()).hexdigest()))
    monkeypatch.setitem(WORKS, "lost", book("", number=8))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def texts_in(folder) -> set[str]:
    """The files of a cache without the lock."""
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def archive_of_classics(names=CLASSICS) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"gutenberg/{name}.txt", f"The whole of {name}.\r\n" * 50)
    return raw.getvalue()


def test_a_work_is_fetched_cleaned_and_cached(mirror):
    assert load_corpus("title").text == BODY
    assert load_corpus("title").text == BODY
    assert mirror.requests == [BOOK]  # once


def test_two_processes_with_an_empty_cache_download_an_archive_once(mirror, tmp_path):
    """It becomes all thirteen works, and the process that waits reads the files of the other."""
    mirror.pages[ARCHIVE] = archive_of_classics()
    began, second = tmp_path / "began", threading.Event()
    began.mkdir()

    def hold_the_first() -> None:
        if len(mirror.requests) > 1:
            second.set()
            return
        while len(list(began.iterdir())) < 2:
            time.sleep(0.01)
        second.wait(1)  # the other process now finds an empty cache too

    mirror.before_answer = hold_the_first
    program = f"""
import os
from pathlib import Path
from training.data.corpora import load_corpus
Path({str(began)!r}, os.environ["RANK"]).touch()
assert load_corpus("classics", accept_changed=True).text.count("The whole of") == 13 * 50
"""
    run_forked("-c", program, processes=2)
    assert mirror.requests == [ARCHIVE]
    assert texts_in(tmp_path / "ozymandias") == {f"{name}.txt" for name in CLASSICS}


@pytest.mark.parametrize(
    ("name", "path", "page"),
    [
        ("austen-emma", ARCHIVE, archive_of_classics()[:-200]),
        ("austen-emma", ARCHIVE, archive_of_classics(["blake-poems"])),
        ("chinese-poems", POEMS, gzip.compress(b"0" * 10_000)[:-20]),
        ("chinese-poems", POEMS, b"<html>Sign in</html>"),
        ("title", BOOK, b"\xff\xfe"),
    ],
    ids=["cut zip", "zip without the book", "cut tar", "no tar", "no UTF-8"],
)
def test_a_damaged_download_is_reported_and_not_kept(mirror, tmp_path, name, path, page):
    if name == "chinese-poems":
        pytest.importorskip("opencc")
    mirror.pages[path] = page
    with pytest.raises(UserError, match="is damaged or has changed") as refusal:
        load_corpus(name)
    assert str(refusal.value).count(". ") == 0, "one sentence"
    assert path in str(refusal.value)
    assert texts_in(tmp_path) == set()


def test_a_download_that_breaks_off_is_reported_and_not_kept(mirror, tmp_path):
    mirror.missing = 100
    with pytest.raises(UserError, match=r"pg7\.txt could not be fetched.*broke off.*check the network"):
        load_corpus("title", accept_changed=True)
    assert texts_in(tmp_path) == set()


def test_a_missing_network_is_reported(mirror, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("OZYMANDIAS_MIRROR", f"http://127.0.0.1:{port}")
    with pytest.raises(UserError, match=r"could not be fetched.*check the network.*sampler"):
        load_corpus("title")


def test_a_full_disk_is_reported_and_leaves_no_file(mirror, tmp_path, monkeypatch):
    write = Path.write_text

    def full(path, *args, **options):
        write(path, "half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"could not be written to .*No space left on device.*XDG_CACHE_HOME"):
        load_corpus("title")
    assert texts_in(tmp_path) == set()


def test_a_changed_work_is_reported_and_needs_a_flag(mirror, monkeypatch):
    monkeypatch.setitem(WORKS, "title", book("0" * 64))
    with pytest.raises(UserError, match=r"differs.*remove .*title\.txt to fetch it again.*accept_changed_corpus"):
        load_corpus("title")
    assert load_corpus("title", accept_changed=True).text == BODY


def test_a_work_that_cannot_be_fetched_is_reported(mirror, monkeypatch):
    monkeypatch.setitem(WORKS, "lost", dataclasses.replace(WORKS["lost"], file="lost.txt"))
    with pytest.raises(UserError, match=r"pg8\.txt could not be fetched.*sampler"):
        load_corpus("lost")


def test_an_edition_without_the_marks_is_kept_whole():
    """Its hash then reveals that it is another edition."""
    assert WORKS["oz"].clean(b"Some text.\r\n\r\nMore.\r\n\r\n") == "Some text.\n\nMore.\n"


def test_nltk_selection_is_one_archive_in_latin_1():
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("gutenberg/a-book.txt", "A caf\xe9.\r\n".encode("latin-1"))
    assert nltk("a-book")["clean"](raw.getvalue()) == "A café.\n"


def test_chinese_poems_are_in_order_and_in_simplified_characters():
    pytest.importorskip("opencc")
    poems = {
        "poet.song.0.json": [{"title": "宋", "paragraphs": ["乾坤，"]}],
        "poet.tang.1000.json": [{"title": "後", "paragraphs": ["山谿繞。"]}],
        "poet.tang.0.json": [
            {"title": "前", "paragraphs": ["秦川雄帝宅，", "函谷壯皇居。"]},
            {"title": "空", "paragraphs": []},
        ],
        "authors.tang.json": [{"name": "nobody"}],
    }
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in poems.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(f"chinese-poetry-0123/全唐诗/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    text = chinese_poetry()["clean"](raw.getvalue())
    assert text == "前\n秦川雄帝宅，\n函谷壮皇居。\n\n后\n山谿绕。\n\n宋\n干坤，\n\n"
