import json

import pytest

from training.benchmarks import corpora
from training.benchmarks.corpora import ROWS, Row, record_row, table
from training.command import UserError
from training.data.corpora import load_corpus
from training.engine.recipe import RECIPES, load_recipe


def test_every_corpus_of_the_table_has_its_recipes():
    assert [row.corpus for row in ROWS] == ["oz", "poetry", "shijing", "lunyu", "chinese-poems"]
    for row in ROWS:
        base, *tuned = row.recipes
        assert (RECIPES / f"{base}.yaml").is_file()
        assert all(load_recipe(name).start_from == f"runs/{base}/best" for name in tuned)


def test_a_row_is_trained_scored_recorded_and_shown(tmp_path, monkeypatch):
    pytest.importorskip("pyppmd")
    monkeypatch.setattr(corpora, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(corpora, "RECORDS", tmp_path / "records")
    fields = [("steps", "4"), ("evaluate_every", "4"), ("sample_length", "30"), ("model.hidden_size", "32")]
    recipes = {
        "base": load_recipe("smoke", fields),
        "tuned": load_recipe("smoke", [*fields[:3], ("model", "{}"), ("start_from", str(tmp_path / "runs/base/best"))]),
    }
    monkeypatch.setattr(corpora, "load_recipe", recipes.get)
    row = Row("sampler", ("base", "tuned"), order=3, published="9.9", nanogpt="1.5")
    with pytest.raises(UserError, match="--rerun"):
        table((row,))
    record_row(row)
    figures = json.loads((tmp_path / "records" / "sampler.json").read_text())
    assert figures["loss"] == pytest.approx(figures["stages"][1]["best_validation_loss"], rel=1e-3)
    assert figures["corpus"]["sha256"] == load_corpus("sampler").sha256
    cells = [cell.strip() for cell in table((row,)).splitlines()[-1].split("|")]
    assert cells[1:4] == ["`sampler`", "27,488", f"{figures['stages'][0]['vocabulary']:,} characters"]
    assert f"**{figures['loss']:.4f}**" in cells
    assert {"9.9", "1.5", f"{figures['ppmd']:.4f}"} <= set(cells)
