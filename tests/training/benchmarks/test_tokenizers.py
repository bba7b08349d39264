from tests.forks import run_forked
from training.benchmarks.tokenizers import measure, recipe_for
from training.data.corpora import load_corpus


def test_longer_tokens_are_counted():
    corpus = load_corpus("sampler")
    size, length, speed = measure(corpus, recipe_for("sampler", "character", None))
    assert (size, length) == (3 + 256 + len(set(corpus.train)), 1.0)
    assert speed > 0.1
    size, longer, _ = measure(corpus, recipe_for("sampler", "bpe", 512))
    assert size == 512
    assert longer > 1.5


def test_command():
    said = run_forked("-m", "training.benchmarks.tokenizers", "--corpus", "sampler").stdout
    assert said.count("byte pairs") == 4
