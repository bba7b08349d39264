"""Streams: every process and every resumed run sees the batches that one unbroken process sees."""

import gzip
import json
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.forks import run_forked
from tokenizer import build_bpe_tokenizer, build_character_tokenizer, encode_text
from training.command import UserError
from training.data.stream import ROWS, Lane, Stream, StreamedCorpus, count_lanes, find_shards
from training.engine.build import load_texts
from training.engine.recipe import Recipe

DOCUMENTS = 600  # in a shard, which takes three batches of ROWS to read
TOKENIZER = build_character_tokenizer("0123456789.;\n")
EPOCH = 80  # steps of 8 windows of 128 tokens, or a few less


def documents(shard: int, count: int = DOCUMENTS) -> list[str]:
    """Texts whose pieces say where they come from; a few are empty."""
    chance = random.Random(shard)
    return ["".join(f"{shard}.{n}.{i};" for i in range(chance.randint(0, 6))) for n in range(count)]


def write_rows(path, rows: list[str]) -> None:
    """A shard with some documents, or a whole `.txt`."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": rows}), path)
        return
    text = rows[0] if path.suffix == ".txt" else "".join(json.dumps({"text": row}) + "\n" for row in rows)
    opener = {".gz": gzip.open, ".zst": open_zst}.get(path.suffix, open)
    with opener(path, "wb") as file:
        file.write(text.encode())


def open_zst(path, mode):
    return pytest.importorskip("zstandard").open(path, mode)


def write(folder, kind: str, shards: int = 4, count: int = DOCUMENTS):
    folder.mkdir(exist_ok=True)
    for shard in range(shards):
        path, texts = folder / f"{shard}.{kind}", documents(shard, count)
        if kind == "txt":
            path.write_text("".join(text + "\n" for text in texts))
        elif kind == "jsonl":
            path.write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)))
        else:
            pq.write_table(pa.table({"text": texts, "id": range(count)}), path, row_group_size=70)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stream") / "shards", "jsonl")


def stream(folder, **options) -> Stream:
    corpus = StreamedCorpus(str(folder), "text", validation_characters=50)
    return Stream(corpus, TOKENIZER, **{"context": 128, "batch_size": 8, **options})


def windows(batches: Stream, steps: int) -> torch.Tensor:
    """The windows of the next steps, `(steps, batch_size, context + 1)`."""
    found = []
    for _ in range(steps):
        batch = batches.at(batches.step)
        assert torch.equal(batch["input_ids"][:, 1:], batch["labels"][:, :-1])
        found.append(torch.cat((batch["input_ids"], batch["labels"][:, -1:]), dim=1))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_lane_is_its_shards_in_order_with_an_end_after_each_document(tmp_path, kind):
    seen = windows(stream(write(tmp_path / kind, kind), lanes=2), 2 * EPOCH)
    lane = TOKENIZER.decode(seen[:, 1::2, :-1].flatten())  # the rows of shards 1 and 3
    end, last = ("\n", TOKENIZER.eos_token) if kind == "txt" else (TOKENIZER.eos_token, "")
    epoch = "".join("".join(text + end for text in documents(shard)) + last for shard in (1, 3))
    assert DOCUMENTS > 2 * ROWS
    assert len(lane) > 1.5 * len(epoch)
    assert lane == (2 * epoch + epoch)[: len(lane)]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_resumed_stream_continues_like_an_unbroken_one(tmp_path, kind):
    """At every step of more than an epoch, which includes the end of a batch, of a shard and of an epoch."""
    corpus = StreamedCorpus(str(write(tmp_path / kind, kind)), "text", validation_characters=50)
    unbroken, state = Stream(corpus, TOKENIZER, context=128, batch_size=8), None
    for _ in range(EPOCH + 20):
        resumed = Stream(corpus, TOKENIZER, context=128, batch_size=8)
        if state:
            resumed.load_state_dict(pickle.loads(state))
        assert torch.equal(windows(resumed, 1), windows(unbroken, 1))
        state = pickle.dumps(unbroken.state_dict())
    assert len(state) < 100_000


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_a_stream_resumes_at_every_token(tmp_path, kind):
    """With windows of two tokens, one falls between the last document of a shard and the end token after it."""
    corpus = StreamedCorpus(str(write(tmp_path / kind, kind, shards=3, count=4)), "text", validation_characters=5)
    unbroken, resumed = (Stream(corpus, TOKENIZER, context=1, batch_size=1) for _ in range(2))
    for _ in range(300):
        resumed.load_state_dict(pickle.loads(pickle.dumps(unbroken.state_dict())))
        assert torch.equal(windows(resumed, 1), windows(unbroken, 1))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_together_see_the_batches_of_one_and_their_states_fit_any_number(shards, processes, monkeypatch):
    one = stream(shards)
    several = [stream(shards, process=process, processes=processes) for process in range(processes)]
    assert [len(part.lanes) for part in several] == [4 // processes] * processes

    def check(steps):
        expected = windows(one, steps)
        for process, part in enumerate(several):
            rows = windows(part, steps)
            assert torch.equal(rows[:, process::processes], expected[:, process::processes])
            assert int(rows.any(dim=2).sum()) == steps * 8 // processes  # and no other rows

    check(30)
    states = [{lane: reader.state_dict() for lane, reader in part.lanes.items()} for part in several]
    monkeypatch.setattr("training.data.stream.gather_object", lambda own: states)
    state = pickle.loads(pickle.dumps(several[0].state_dict()))
    one = stream(shards)  # from several processes to one ...
    one.load_state_dict(state)
    several = [stream(shards, process=process, processes=processes) for process in range(processes)]
    for part in several:
        part.load_state_dict(state)
    check(30)
    monkeypatch.undo()
    state = one.state_dict()  # ... and from one to several
    several = [stream(shards, process=process, processes=processes) for process in range(processes)]
    for part in several:
        part.load_state_dict(state)
    check(30)


BLANK_LINES = "One line.\n\nAnother,\n\n\n\nafter blank ones\n and a space.\r\n\r\n" * 120


def gpt2_like():
    """A tokenizer from elsewhere: by GPT-2's rules, white space belongs to the token after it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator([BLANK_LINES], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


@pytest.mark.parametrize("section", [10, 100, 100_000])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("build", [lambda: build_bpe_tokenizer(BLANK_LINES, 300), gpt2_like], ids=["ours", "gpt2"])
def test_a_stream_has_the_ids_of_the_text(tmp_path, monkeypatch, kind, section, build):
    """The same as in the validation split, where two line ends are one token; across batches and shards too."""
    monkeypatch.setattr("tokenizer.encode.SECTION", section)
    monkeypatch.setattr("training.data.stream.ROWS", 7)
    tokenizer, texts = build(), [f"{shard} {BLANK_LINES}" for shard in range(2)]
    documents = [[text] if kind == "txt" else [text, "", "\n\n", text[:50]] for text in texts]
    for shard, rows in enumerate(documents):
        write_rows(tmp_path / f"{shard}.{kind}", rows)
    corpus = StreamedCorpus(str(tmp_path), "text", validation_characters=2)
    # Without the held-out row: a line, or a document.
    documents[0] = [texts[0].partition("\n")[2]] if kind == "txt" else documents[0][1:]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    # Line ends of a .txt shard are translated, as `open` does.
    texts = [text.replace("\r\n", "\n") if kind == "txt" else text for rows in documents for text in rows]
    expected = [token for text in texts for token in [*encode_text(tokenizer, text).tolist(), *end]]
    lane = Lane(corpus, [0, 1], tokenizer)
    assert lane.take(len(expected)).tolist() == expected


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_special_token_in_a_document_is_text(tmp_path, kind):
    """Otherwise a document could end in its middle."""
    texts = [f"{n}.<|end|>.<|padding|>" for n in range(9)]
    lines = texts if kind == "txt" else [json.dumps({"text": text}) for text in texts]
    (tmp_path / f"0.{kind}").write_text("".join(line + "\n" for line in lines))
    corpus = StreamedCorpus(str(tmp_path), "text", validation_characters=5)
    seen = windows(Stream(corpus, TOKENIZER, context=16, batch_size=1), 9)[:, 0, :-1].flatten()
    ends = int(torch.isin(seen, torch.tensor(TOKENIZER.all_special_ids)).sum())
    assert ends <= (1 if kind == "txt" else 8)
    assert "1.<|end|>.<|padding|>" in TOKENIZER.decode(seen)


def test_held_out_text_is_never_trained_on(shards):
    corpus = StreamedCorpus(str(shards), "text", validation_characters=300)
    texts = corpus.validation.split("\n\n")
    assert 300 <= len("".join(texts)) < 400
    assert texts == documents(0)[: len(texts)]
    whole = "".join(TOKENIZER.decode(row) for row in windows(stream(shards, lanes=1), EPOCH * 2).flatten(0, 1))
    held_out = StreamedCorpus(str(shards), "text", validation_characters=50).validation.split("\n\n")
    assert not any(text and text in whole for text in held_out)
    assert documents(0)[len(held_out) + 2] in whole


def test_held_out_text_can_span_several_shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for shard in range(4):
        (folder / f"{shard}.jsonl").write_text(json.dumps({"text": str(shard) * 30}) + "\n")
    corpus = StreamedCorpus(str(folder), "text", validation_characters=50)
    assert corpus.validation == "0" * 30 + "\n\n" + "1" * 30
    assert corpus.train == "2" * 30 + "\n\n" + "3" * 30
    batches = Stream(corpus, TOKENIZER, context=4, batch_size=2, lanes=1)
    assert set(TOKENIZER.decode(windows(batches, 20).flatten(), skip_special_tokens=True)) == {"2", "3"}
    with pytest.raises(UserError, match=r"nothing to train on in .*0.jsonl.*stream_lanes"):
        windows(Stream(corpus, TOKENIZER, context=4, batch_size=4, lanes=4), 1)


def test_steps_come_in_order(shards):
    batches = stream(shards)
    with pytest.raises(AssertionError, match="at step 0, not at 3"):
        batches.at(3)


@pytest.mark.parametrize(
    ("numbers", "lanes"),
    [((None, 20, 16, 1), 8), ((None, 5, 12, 1), 4), ((None, 1, 7, 1), 1), ((6, 6, 12, 3), 6), ((None, 9, 16, 8), 8)],
)
def test_lanes_fit_shards_batch_and_processes(numbers, lanes):
    assert count_lanes(*numbers) == lanes


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((5, 4, 10, 1), ["5 stream_lanes", "there are 4"]),
        ((3, 4, 10, 1), ["batch_size (10)", "stream_lanes (3)"]),
        ((None, 3, 12, 2), ["3 lanes", "2 processes", "--stream_lanes"]),
        ((None, 1, 12, 2), ["1 lanes", "there are 1 shards"]),
    ],
)
def test_lanes_that_do_not_fit_are_refused(numbers, words):
    with pytest.raises(UserError) as refusal:
        count_lanes(*numbers)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_shards_are_a_folder_or_a_glob(shards, tmp_path, monkeypatch):
    names = [f"{n}.jsonl" for n in range(4)]
    assert [path.name for path in find_shards(str(shards))] == names
    assert [path.name for path in find_shards(f"{shards}/[12].*")] == names[1:3]
    monkeypatch.chdir(shards.parent)
    assert [path.name for path in find_shards("*/*.jsonl")] == names
    assert StreamedCorpus("shards/*.jsonl", "text", 50).name == "shards"
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.txt").write_text("text")
    (tmp_path / "mixed" / "b.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"several kinds \(\.jsonl, \.txt\)"):
        find_shards(str(tmp_path / "mixed"))
    with pytest.raises(UserError, match=r"no shards were found at .*nowhere.*\.jsonl"):
        find_shards(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["1.jsonl.bz2", "1.txt.gz", "1.json", "1.jsonl.xz", "notes.md"])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path, name):
    """Such files were once skipped silently, and half of a corpus with them."""
    for file in ("0.jsonl", name):
        (tmp_path / file).write_text("")
    (tmp_path / ".hidden").write_text("")
    with pytest.raises(UserError, match=rf"{name}.*\.jsonl\.gz.*\*\.jsonl"):
        find_shards(str(tmp_path))
    assert [path.name for path in find_shards(f"{tmp_path}/*.jsonl")] == ["0.jsonl"]


@pytest.mark.parametrize("kind", ["jsonl.gz", "jsonl.zst"])
def test_compressed_shards_are_read_and_resumed(tmp_path, kind):
    for shard in range(2):
        write_rows(tmp_path / f"{shard}.{kind}", documents(shard))
    corpus = StreamedCorpus(str(tmp_path), "text", validation_characters=50)
    unbroken, resumed = (Stream(corpus, TOKENIZER, context=128, batch_size=8) for _ in range(2))
    windows(unbroken, EPOCH // 4)
    resumed.load_state_dict(pickle.loads(pickle.dumps(unbroken.state_dict())))
    assert torch.equal(windows(resumed, EPOCH), windows(unbroken, EPOCH))
    lane = TOKENIZER.decode(windows(Stream(corpus, TOKENIZER, 128, 8, lanes=2), 9)[:, 1::2, :-1].flatten())
    assert "".join(text + TOKENIZER.eos_token for text in documents(1)).startswith(lane)


def test_the_package_for_zst_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("training.data.stream.available_compressions", lambda: ["gzip"])
    (tmp_path / "0.jsonl.zst").write_bytes(b"")
    with pytest.raises(UserError, match=r"\.zst.*pip install zstandard"):
        find_shards(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("bad.jsonl", b'{"words": "the moon"}\n', "text"),
        ("bad.jsonl", b'{"text": 5}\n', "text"),
        ("bad.jsonl", b"{no json\n", "text"),
        ("bad.parquet", b"PAR1 and no more", "text"),
        ("bad.txt", "Mühe".encode("latin-1"), None),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, name, content, column):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as") as refusal:
        StreamedCorpus(str(tmp_path), "text", 2)
    assert name in str(refusal.value)
    assert ("--text_column" in str(refusal.value)) == (column is not None)


def test_a_missing_column_is_named(tmp_path):
    pq.write_table(pa.table({"words": ["the moon"]}), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match=r"bad\.parquet cannot be read as parquet with a column 'text'.*text_column"):
        StreamedCorpus(str(tmp_path), "text", 2)
    assert StreamedCorpus(str(write(tmp_path / "good", "parquet")), "text", 2).kind == ".parquet"


def test_too_little_text_is_refused(shards):
    with pytest.raises(UserError, match=r"fewer than the 1,000,000,000 characters.*stream_validation"):
        StreamedCorpus(str(shards), "text", 1_000_000_000)


def test_other_tasks_are_refused(shards):
    with pytest.raises(UserError, match="needs the task next_token, and task is masked"):
        load_texts(Recipe(corpus=str(shards), stream=True, task="masked"))


@pytest.mark.slow
def test_the_memory_benchmark_reads_a_stream_and_trains(tmp_path):
    for options in (["--gigabytes", "0.01"], ["--steps", "20"]):
        said = run_forked("-m", "training.benchmarks.memory", *options, "--output", tmp_path / "memory.json").stdout
        figures = json.loads((tmp_path / "memory.json").read_text())
        assert len(figures["measured"]) == 10
        assert figures["growth_mb"] == pytest.approx(
            figures["measured"][-1]["resident_mb"] - figures["measured"][0]["resident_mb"]
        )
        assert "memory grew by" in said
