import math
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace

import pytest
from transformers import GPT2Config

from space import writer
from space.evolution import load_snapshot_of
from space.language import VisitorError, explain
from space.writer import (
    EVOLUTION,
    LONGEST_PROMPT,
    answer,
    check_prompt,
    quatrain_request,
    requested_corpus,
    served_models,
)
from training.command import UserError
from training.data.quatrains import form_of
from training.evaluation.quality import is_chinese


@pytest.mark.parametrize(
    ("prompt", "corpus"),
    [
        ("Write me a poem", "poetry"),
        ("poetry", "poetry"),
        ("Please, could you recite some verse about the sea?", "poetry"),
        ("I would like a sonnet", "poetry"),
        ("Oz!", "oz"),
        ("Tell me a story of Oz", "oz"),
        ("can you tell me about the Wizard?", "oz"),
        ("The Wizard of Oz went home", ""),
        ("The poem was long", ""),
        ("Shall I compare thee", ""),
        ("Tell me, where is fancy bred", ""),
        ("写一首五言绝句", "chinese"),
        ("请写一首七言绝句，题目：月", "chinese"),
        ("七绝《山行》", "chinese"),
        ("春眠不觉晓，", ""),
        ("写作业好难", ""),
        ("", ""),
    ],
)
def test_requests_are_told_from_opening_lines(prompt, corpus):
    assert requested_corpus(prompt) == corpus


@pytest.mark.parametrize(
    "parts", [("please ", "write "), ("can you ", "a "), ("写", "来"), ("题目：", "一"), ("《", "》")]
)
def test_a_long_prompt_is_sorted_quickly(parts):
    """A pattern that backtracks without end would hang the page; here it is found out before it takes minutes."""
    for count in [*range(1, 31), 60, 120, LONGEST_PROMPT]:
        prompt = "".join(part * min(count, LONGEST_PROMPT // 2 // len(part)) for part in parts)
        begun = time.perf_counter()
        requested_corpus(prompt)
        quatrain_request(prompt)
        assert time.perf_counter() - begun < 1, f"{len(prompt)} characters: {prompt[:60]!r} ..."
    assert requested_corpus("please " * 140 + "write " * 140) == ""


def test_the_five_steps_and_the_two_best_are_served():
    assert list(served_models()) == ["english", "chinese", *(f"poetry-{step}" for step in EVOLUTION)]


def test_a_model_is_named_in_both_languages_with_its_size_and_loss():
    for language, name in (("en", "Poetry 4: gpt"), ("zh", "英文诗 4：gpt")):
        shown = dict(map(reversed, writer.choices(writer.inspectable_models(), language)))
        assert re.fullmatch(rf"{name}\W+0\.8\dM\W+(loss|损失) 1\.\d\d", shown["poetry-gpt"])
        assert len(set(shown.values())) == len(writer.inspectable_models())


@pytest.mark.parametrize("key", ["english", *(f"poetry-{step}" for step in EVOLUTION)])
def test_every_served_model_answers_past_its_context(key):
    length = 300 if key == "english" else 150
    *_, text = answer("The moon", key, length=length, seed=3)
    assert text.startswith("The moon")
    assert len(text) > 100
    assert text == list(answer("The moon", key, length=length, seed=3))[-1]


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("写一首五言绝句", "五言绝句：春"),
        ("请写一首七言绝句，题目：月", "七言绝句：月"),
        ("来一首关于秋天的诗", "五言绝句：秋天"),
        ("七绝《山行》", "七言绝句：山行"),
    ],
)
def test_a_quatrain_is_asked_for_as_the_model_learned_it(prompt, subject):
    assert quatrain_request(prompt) == f"\n\n{subject}\n"


def test_chinese_is_answered_by_the_chinese_model():
    *_, poem = answer("写一首七言绝句，题目：月", "english", length=200, seed=5)
    assert form_of(poem) == "七言绝句"  # one, and no more
    *_, line = answer("明月松间", "poetry-gpt", length=20, seed=5)
    assert line.startswith("明月松间")
    assert is_chinese([line])


def test_a_request_is_answered_by_the_model_of_its_corpus():
    *_, poem = answer("Write me a poem", "english", length=60, seed=5)
    *_, same = answer("poetry", "english", length=60, seed=5)
    assert poem == same
    *_, story = answer("Tell me about Oz", "poetry-gpt", length=60, seed=5)
    assert story != poem
    assert story.startswith("Dorothy")
    assert "poem" not in poem[:20]


def test_the_picked_step_writes_the_poem():
    *_, bigram = answer("Write me a poem", "poetry-bigram", length=60, seed=5)
    *_, modern = answer("Write me a poem", "poetry-modern", length=60, seed=5)
    assert bigram != modern


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "opening line"),
        (" \n ", "opening line"),
        ("x" * 100_000, "100,000 characters; give at most 2,000"),
        ("half \ud83d", "half a character"),
        (None, "must be a string, not "),
    ],
)
def test_prompt_that_cannot_be_used(prompt, words):
    with pytest.raises(UserError, match=words):
        check_prompt(prompt)
    with pytest.raises(UserError, match=words):
        next(answer(prompt, "poetry-bigram"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *(({"temperature": bad}, "temperature must be 0 or a number from 0.01 to 2, not") for bad in (-1, 2.1, 1e-40)),
        *(({"temperature": bad}, "temperature must be") for bad in ("hot", math.nan, math.inf, None, True)),
        *(({"top_p": bad}, "top_p must be a number from 0.01 to 1") for bad in (0, 1.5, math.nan, None)),
        *(({"length": bad}, "length must be a whole number from 1 to 1,000") for bad in (0, 1001, 2.5, math.nan, None)),
        *(({"seed": bad}, "seed must be a whole number from 0 to") for bad in (-1, 2**31, 0.5, math.inf, None, [])),
    ],
)
def test_a_setting_out_of_its_range_is_told(settings, words):
    with pytest.raises(VisitorError, match=words) as told:
        next(answer("The moon", "poetry-bigram", **settings))
    assert "必须是" in explain(told.value, "zh")


@pytest.mark.parametrize("settings", [(0, 0.01, 1, 0), (0.01, 1, 1000, 2**31 - 1), (2, 1, 5.0, 7.0)])
def test_settings_at_the_ends_of_their_ranges_are_taken(settings):
    assert next(answer("The moon", "poetry-bigram", *settings)).startswith("The moon")


def test_what_an_answer_begins_with_is_bounded():
    with pytest.raises(UserError, match="at most 8,000"):
        next(answer("The moon", "poetry-gpt", beginning="The moon" * 2000))


def test_longest_prompt_is_answered():
    *_, text = answer("y" * LONGEST_PROMPT, "poetry-gpt", length=10, seed=1)
    assert len(text) <= LONGEST_PROMPT + 10


def test_unknown_model_names_the_known():
    with pytest.raises(UserError, match="poetry-bigram"):
        next(answer("The moon", "gpt-5"))


def test_named_checkpoint_comes_first(trained, monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_MODEL", str(trained / "best"))
    assert next(iter(served_models())) == "named"
    *_, text = answer("The moon", "named", length=10, seed=1)
    assert text.startswith("The moon")


def test_a_named_encoder_can_be_looked_into_and_does_not_write(monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_MODEL", str(writer.CHECKPOINTS / "oz-encoder"))
    assert "named" in writer.inspectable_models()
    assert "named" not in served_models()
    assert writer.default_model() == "english"


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_checkpoint_is_told(trained, tmp_path, monkeypatch, caplog, damage):
    """Visitors see the end of its path, and the log has all of it with the reason."""
    folder = shutil.copytree(trained / "best", tmp_path / "bad")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000]) if damage == "truncated" else weights.unlink()
    monkeypatch.setenv("OZYMANDIAS_MODEL", str(folder))
    with pytest.raises(UserError, match=r"bad cannot be loaded.*pick another") as told:
        next(answer("The moon", "named"))
    assert str(tmp_path) not in str(told.value)
    assert f"{folder} cannot be loaded: " in caplog.text


def test_visitors_see_no_absolute_path(trained, monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_MODEL", str(trained / "best"))
    assert writer.choices(served_models(), "en")[0] == ("trained/best", "named")
    with pytest.raises(UserError, match="no snapshot of step 7") as told:
        load_snapshot_of(trained, 7)
    assert str(trained) not in str(told.value)


def test_revision_is_split_from_the_name(monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_MODEL", "user/name@0123abc")
    named = served_models()["named"]
    assert (named.source, named.revision) == ("user/name", "0123abc")
    assert writer.choices(served_models(), "zh")[0] == ("user/name", "named")


def test_another_kind_of_model_is_told(tmp_path, monkeypatch, caplog):
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    monkeypatch.setenv("OZYMANDIAS_MODEL", str(tmp_path))
    with pytest.raises(UserError, match="cannot be loaded"):
        next(answer("The moon", "named"))
    assert "its model type is gpt2" in caplog.text


def test_answers_are_written_in_turns(monkeypatch):
    """One at a time here, and all of them see words before the first is finished."""
    working, most, events = [], [], []

    def slow_pieces(*_, **__):
        for _ in range(20):
            working.append(1)
            most.append(len(working))
            time.sleep(0.002)
            working.pop()
            yield "a"

    def read(visitor: int) -> None:
        for count, _ in enumerate(answer("The moon", "poetry-bigram")):
            events.append(("begun", visitor)) if count == 0 else None
        events.append(("ended", visitor))

    monkeypatch.setattr(writer, "stream_text", slow_pieces)
    monkeypatch.setattr(writer, "TURN", 0.005)
    monkeypatch.setattr(writer, "WRITERS", ThreadPoolExecutor(1))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, range(4)))
    assert max(most) == 1
    assert [event for event, _ in events] == ["begun"] * 4 + ["ended"] * 4


def test_updates_are_few_enough_to_draw(monkeypatch):
    """Of a model that writes 100 pieces in a second the reader sees some twenty updates, and in them every piece."""
    now = 0.0

    def write_evenly(*_, **__):
        nonlocal now
        for _ in range(200):
            now += 0.01
            yield "a"

    monkeypatch.setattr(writer, "stream_text", write_evenly)
    monkeypatch.setattr(writer, "time", SimpleNamespace(monotonic=lambda: now))
    updates = list(answer("The moon ", "poetry-bigram"))
    assert 20 <= len(updates) <= 50
    assert updates[-1] == "The moon " + 200 * "a"
    assert all(later.startswith(earlier) for earlier, later in pairwise(updates))
