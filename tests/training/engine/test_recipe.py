import typing

import pytest

from modeling import PRESETS, preset_config
from training.command import UserError
from training.engine.loop import model_config
from training.engine.recipe import FIELDS, RECIPES, TYPES, Recipe, add_recipe_options, check_heads, load_recipe

NOT_TRAINED_YET = {"library-base"}
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
    if name not in NOT_TRAINED_YET:
        assert recipe.expected_loss
        assert len(recipe.expected_sample) > 20


def test_fields_are_overridden_in_their_type():
    fields = {"steps": "7", "learning_rate": "1e-3", "model__hidden_size": "32", "trackers": "[tensorboard]"}
    recipe = with_fields(**fields, corpus="123", start_from="1984")
    assert (recipe.steps, recipe.learning_rate, recipe.corpus, recipe.trackers) == (7, 1e-3, "123", ["tensorboard"])
    assert recipe.start_from == "1984"
    assert with_fields(start_from="null").start_from is None
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
        ({"steps": "many"}, ["steps (on the command line)", "integer", "many"]),
        ({"steps": "1.5"}, ["steps", "integer"]),
        ({"steps": "true"}, ["steps", "integer"]),
        ({"steps": "0"}, ["steps", "greater than or equal to 1"]),
        ({"learning_rate": "fast"}, ["learning_rate", "number", "fast"]),
        ({"learning_rate": ".nan"}, ["learning_rate", "finite"]),
        ({"matrix_learning_rate": "inf"}, ["matrix_learning_rate", "finite"]),
        ({"beta1": "5"}, ["beta1", "less than 1", "5"]),
        ({"seed": "-1"}, ["seed", "greater than or equal to 0"]),
        ({"snapshots": "[0, ten]"}, ["snapshots", "integer", "ten"]),
        ({"accept_changed_corpus": "2"}, ["accept_changed_corpus", "boolean"]),
        ({"preset": "moder"}, ["preset", "'modern'", "moder"]),
        ({"model__num_attention_heads": "3"}, ["num_attention_heads 3", "hidden_size 64"]),
        ({"evaluate_evry": "3"}, ["evaluate_evry", "did you mean evaluate_every?"]),
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
    for name, field in FIELDS.items():
        assert f"--{name}" in text
        assert field.description
    assert "steps between evaluations on the validation split (default 250)" in text


def test_the_presets_and_sizes_that_are_known_without_torch_are_the_models():
    """A recipe is checked before the model's code is imported, which takes seconds."""
    assert typing.get_args(TYPES["preset"]) == tuple(PRESETS)
    for name in PRESETS:
        config = preset_config(name)
        assert config.hidden_size == 128
        refused = check_heads(Recipe(preset=name, model={"hidden_size": 127}), {})
        assert bool(refused) == (127 % config.num_attention_heads > 0)


def test_a_misspelled_field_names_the_nearest_and_not_all():
    with pytest.raises(UserError) as refusal:
        with_fields(lerning_rate="1e-3")
    assert "did you mean learning_rate?" in str(refusal.value)
    assert "checkpoint_every" not in str(refusal.value)
    assert len(str(refusal.value)) < 120


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        *((fields, True) for fields in ({}, {"seed": "2"}, {"log_every": "5"}, {"corpus": "sampler"})),
        *((fields, False) for fields in ({"steps": "4"}, {"corpus": "mine.txt"}, {"model__hidden_size": "32"})),
    ],
)
def test_the_expected_loss_is_of_the_recipe_as_it_is(overrides, expected):
    assert (with_fields(**overrides).expected_loss is not None) == expected
    assert bool(with_fields(**overrides).expected_sample) == expected
    assert with_fields(**overrides, expected_loss="1.5").expected_loss == 1.5
