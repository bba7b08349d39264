import dataclasses

import pytest

from training.command import UserError
from training.loop import model_config
from training.recipe import RECIPES, Recipe, add_recipe_options, load_recipe

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def with_fields(**fields: str) -> Recipe:
    return load_recipe("smoke", [(name.replace("__", "."), value) for name, value in fields.items()])


def test_the_promised_recipes_are_there():
    evolution = {f"poetry-{step}" for step in ("bigram", "single-head", "multi-head", "gpt", "modern")}
    assert evolution | {"oz-gpt", "oz-modern", "smoke"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_parses_builds_and_says_what_to_expect(name):
    recipe = load_recipe(name)
    assert model_config(recipe, vocab_size=100).max_position_embeddings == recipe.context
    assert recipe.about
    assert recipe.expected_loss
    assert len(recipe.expected_sample) > 20


def test_fields_are_overridden_in_their_type():
    recipe = with_fields(
        steps="7", learning_rate="1e-3", model__hidden_size="32", trackers="[tensorboard]", corpus="123"
    )
    assert (recipe.steps, recipe.learning_rate, recipe.corpus, recipe.trackers) == (7, 1e-3, "123", ["tensorboard"])
    assert recipe.model == {**load_recipe("smoke").model, "hidden_size": 32}
    assert with_fields(mixed_precision="null").mixed_precision is None
    assert with_fields(mixed_precision="no").mixed_precision == "no"


def test_file_may_say_no(tmp_path):
    """YAML reads `no` as false and 1e-3 as text."""
    (tmp_path / "mine.yaml").write_text("mixed_precision: no\nlearning_rate: 1e-3\nexpected_loss: 2\n")
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert (recipe.mixed_precision, recipe.learning_rate, recipe.expected_loss) == ("no", 1e-3, 2.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"step": "5"}, ["step", "not a field", "steps"]),
        ({"steps": "many"}, ["steps", "whole number", "many"]),
        ({"steps": "1.5"}, ["steps", "whole number"]),
        ({"steps": "true"}, ["steps", "whole number"]),
        ({"steps": "0"}, ["steps", "at least 1"]),
        ({"learning_rate": "fast"}, ["learning_rate", "number", "fast"]),
        ({"accept_changed_corpus": "2"}, ["accept_changed_corpus", "true or false"]),
        ({"optimizer": "sgd"}, ["optimizer", "adamw", "sgd"]),
        ({"decay_share": "0"}, ["decay_share"]),
        ({"sample_prompt": ""}, ["sample_prompt", "character"]),
        ({"steps": "x", "context": "y"}, ["steps", "context"]),  # all that is wrong, at once
    ],
)
def test_wrong_fields_are_refused_by_name(fields, words):
    with pytest.raises(UserError) as refusal:
        with_fields(**fields)
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("steps: 5\nfoo: 1\n", ["foo", "mine.yaml"]), ("- a\n- b\n", ["field: value"]), ("a: [", ["not YAML"])],
)
def test_wrong_file_is_refused(tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as refusal:
        load_recipe(str(path))
    assert all(word in str(refusal.value) for word in words), str(refusal.value)


def test_missing_recipe_names_the_known():
    with pytest.raises(UserError, match="poetry-gpt"):
        load_recipe("poetry-gtp")


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        (Recipe(preset="giant"), "giant"),
        (Recipe(model={"hiden_size": 3}), "hiden_size"),
        (Recipe(model={"hidden_size": "wide"}), "hidden_size"),
        (Recipe(model={"vocab_size": 3}), "vocab_size"),
        (Recipe(model={"num_attention_heads": 7}), "num_attention_heads"),
    ],
)
def test_wrong_model_is_refused_by_name(recipe, word):
    with pytest.raises(UserError, match=word):
        model_config(recipe, vocab_size=10)


def test_every_field_is_explained_in_the_help():
    import argparse

    parser = argparse.ArgumentParser()
    add_recipe_options(parser)
    text = " ".join(parser.format_help().split())
    for field in dataclasses.fields(Recipe):
        assert f"--{field.name}" in text
        assert field.metadata["help"]
