import shutil

import pytest

from space import writer
from space.writer import EVOLUTION, LONGEST_PROMPT, answer, asked_for, check_prompt, served_models
from training.command import UserError


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
        ("", ""),
    ],
)
def test_requests_are_told_from_opening_lines(prompt, corpus):
    assert asked_for(prompt) == corpus


def test_a_long_prompt_is_sorted_quickly():
    """A pattern that backtracks without end would hang the page."""
    assert asked_for("please " * 300 + "write " * 300) == ""


def test_the_five_steps_and_oz_are_served():
    models = served_models()
    assert [f"poetry-{step}" for step in EVOLUTION] == [key for key in models if key.startswith("poetry")]
    assert "oz-modern" in models
    assert "loss" in models["poetry-bigram"].label


@pytest.mark.parametrize("key", [f"poetry-{step}" for step in EVOLUTION] + ["oz-modern"])
def test_every_served_model_answers_past_its_context(key):
    *_, text = answer("The moon", key, length=150, seed=3)
    assert text.startswith("The moon")
    assert 100 < len(text) <= 158
    assert text == list(answer("The moon", key, length=150, seed=3))[-1]


def test_a_request_is_answered_by_the_model_of_its_corpus():
    *_, poem = answer("Write me a poem", "oz-modern", length=60, seed=5)
    *_, same = answer("poetry", "poetry-modern", length=60, seed=5)
    assert poem == same
    *_, story = answer("Tell me about Oz", "poetry-gpt", length=60, seed=5)
    assert story != poem
    assert "poem" not in poem[:20]


def test_the_picked_step_writes_the_poem():
    *_, bigram = answer("Write me a poem", "poetry-bigram", length=60, seed=5)
    *_, modern = answer("Write me a poem", "poetry-modern", length=60, seed=5)
    assert bigram != modern


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("", "opening line"), (" \n ", "opening line"), ("x" * 100_000, "100,000 characters; give at most 2,000")],
)
def test_prompt_that_cannot_be_used(prompt, words):
    assert words in check_prompt(prompt)
    with pytest.raises(UserError, match=words):
        next(answer(prompt, "poetry-bigram"))


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


@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_checkpoint_is_told(trained, tmp_path, monkeypatch, damage):
    folder = shutil.copytree(trained / "best", tmp_path / "bad")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:3000]) if damage == "truncated" else weights.unlink()
    monkeypatch.setenv("OZYMANDIAS_MODEL", str(folder))
    with pytest.raises(UserError, match=r"bad cannot be loaded.*pick another"):
        next(answer("The moon", "named"))


def test_revision_is_split_from_the_name(monkeypatch):
    monkeypatch.setenv("OZYMANDIAS_MODEL", "user/name@0123abc")
    named = served_models()["named"]
    assert (named.source, named.revision, named.label) == ("user/name", "0123abc", "user/name")


def test_updates_are_few_enough_to_draw(monkeypatch):
    monkeypatch.setattr(writer, "BETWEEN_UPDATES", 1000)
    assert len(list(answer("The moon", "poetry-bigram", length=200, seed=1))) == 1
