import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.conftest import run
from training import corpora as registry
from training.command import UserError
from training.corpora import SAMPLER, WORKS, Work, clean, load_corpus

BODY = "A Title\n\nThe first line of it.\n\nThe last line.\n"
RAW = (
    "\ufeffThe Project Gutenberg eBook of A Title\r\n\r\n*** START OF THE PROJECT GUTENBERG EBOOK A TITLE ***\r\n\r\n"
    "Produced by somebody.\r\n\r\n" + BODY.replace("\n", "\r\n") + "\r\n\r\n"
    "*** END OF THE PROJECT GUTENBERG EBOOK A TITLE ***\r\nSmall print.\r\n"
)


def test_sampler_is_of_the_promised_size():
    corpus = load_corpus("sampler")
    assert 20_000 <= len(corpus.text) <= 40_000
    assert corpus.text == SAMPLER.read_text(encoding="utf-8")
    assert not [line for line in corpus.text.splitlines() if len(line) > 90]


def test_splits_are_contiguous_and_whole():
    corpus = load_corpus("sampler")
    assert corpus.train + corpus.validation == corpus.text
    assert len(corpus.train) == int(0.9 * len(corpus.text))


@pytest.mark.corpora
@pytest.mark.parametrize(("name", "length"), [("oz", 207_799), ("dickinson", 170_387), ("sonnets", 100_226)])
def test_real_texts_have_their_hash(corpora, name, length):
    corpus = load_corpus(name)
    assert len(corpus.text) == length
    assert corpus.sha256 == WORKS[name].sha256


@pytest.mark.corpora
def test_poetry_is_dickinson_and_the_sonnets(corpora):
    assert load_corpus("poetry").text == load_corpus("dickinson").text + "\n\n" + load_corpus("sonnets").text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty"]),
        (b" \n\n ", ["empty"]),
        (b"\x89PNG\r\n\x1a\n\x00\x00\xff", ["not UTF-8", "byte 0"]),
        (b"text\0text", ["binary"]),
        ("Verlorene Mühe".encode("latin-1"), ["not UTF-8", "iconv"]),
    ],
)
def test_file_that_is_no_text_is_refused(tmp_path, content, words):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as refusal:
        load_corpus(str(path))
    assert all(word in str(refusal.value) for word in [*words, "mine.txt"]), str(refusal.value)


def test_missing_corpus_names_the_known(tmp_path):
    with pytest.raises(UserError, match="sampler, oz"):
        load_corpus(str(tmp_path / "nothing.txt"))
    with pytest.raises(UserError, match="a folder"):
        load_corpus(str(tmp_path))


def test_own_text_is_read_as_it_is(tmp_path):
    text = "  indented\n\n\n诗 “quoted” — text\n" * 100
    (tmp_path / "mine.txt").write_text(text, encoding="utf-8")
    corpus = load_corpus(str(tmp_path / "mine.txt"))
    assert (corpus.name, corpus.text) == ("mine", text)
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_folder_without_the_text_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_CORPORA", str(tmp_path))
    with pytest.raises(UserError, match=r"oz\.txt"):
        load_corpus("oz")


@pytest.fixture
def gutenberg(monkeypatch, tmp_path):
    """Project Gutenberg on loopback, with one work, and an empty cache."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            found = self.path == "/cache/epub/7/pg7.txt"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(RAW.encode() if found else b"")

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.delenv("OZYMANDIAS_CORPORA", raising=False)
    monkeypatch.setenv("OZYMANDIAS_GUTENBERG", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    work = Work("A Title", 7, hashlib.sha256(BODY.encode()).hexdigest(), begins="A Title\n\nThe first")
    monkeypatch.setitem(registry.WORKS, "title", work)
    monkeypatch.setitem(registry.WORKS, "lost", Work("Lost", 8, "", begins=""))
    yield requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_work_is_fetched_cleaned_and_cached(gutenberg):
    assert load_corpus("title").text == BODY
    assert load_corpus("title").text == BODY
    assert gutenberg == ["/cache/epub/7/pg7.txt"]  # once


def test_changed_work_is_told_and_needs_a_flag(gutenberg, monkeypatch):
    monkeypatch.setitem(registry.WORKS, "title", Work("A Title", 7, "0" * 64, begins="A Title"))
    with pytest.raises(UserError, match=r"differs.*accept_changed_corpus"):
        load_corpus("title")
    assert load_corpus("title", accept_changed=True).text == BODY


def test_work_that_cannot_be_fetched_is_told(gutenberg):
    with pytest.raises(UserError, match=r"pg8\.txt could not be fetched.*sampler"):
        load_corpus("lost")


def test_cleaning_leaves_what_it_does_not_find():
    """An edition without the marks or the beginning is kept whole, and its hash tells."""
    assert clean("Some text.\r\n\r\nMore.\r\n\r\n", WORKS["oz"]) == "Some text.\n\nMore.\n"


def test_command_lists_and_loads():
    listed = run("-m", "training.corpora").stdout
    assert all(name in listed for name in registry.NAMES)
    loaded = run("-m", "training.corpora", "sampler").stdout
    assert "27,488 characters" in loaded
    assert load_corpus("sampler").sha256[:16] in loaded
