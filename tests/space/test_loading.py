import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from space import inside, writer
from space.loading import keep_recent, load_checkpoint, load_once
from tokenizer import encode_text


def test_one_is_loaded_at_a_time_each_once_and_again_after_an_error():
    open_now, most, calls = [], [], []

    @load_once
    def load(name):
        calls.append(name)
        open_now.append(name)
        most.append(len(open_now))
        time.sleep(0.01)
        open_now.remove(name)
        if calls.count(name) == 1 and name == "broken":
            raise ValueError("not this time")
        return name.upper()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, "abababcc")) == list("ABABABCC")
    assert sorted(calls) == ["a", "b", "c"]
    assert max(most) == 1
    with pytest.raises(ValueError, match="not this time"):
        load("broken")
    assert load("broken") == "BROKEN"


def test_models_that_threads_load_at_once_are_whole():
    """Without a lock some of them kept weights without memory, for good."""
    names = [path.name for path in writer.CHECKPOINTS.iterdir() if path.name.startswith("poetry")]
    start = threading.Barrier(2 * len(names))

    def load(job):
        loader, name = job
        start.wait()
        served = writer.Served(f"{writer.CHECKPOINTS / name}/")  # by this path it was not loaded yet
        model, _ = writer.load(served) if loader == "writer" else inside.load_traceable(served.source)
        return {p.device.type for p in model.parameters()}

    jobs = [(loader, name) for name in names for loader in ("writer", "eager")]
    with ThreadPoolExecutor(len(jobs)) as pool:
        assert all(devices == {"cpu"} for devices in pool.map(load, jobs))


@pytest.mark.parametrize("name", ["poetry-modern", "oz-encoder", "oz-next-passage"])
def test_a_checkpoint_without_code_is_loaded_from_its_folder(name):
    """The Auto classes find the model's class because `import modeling` has registered it."""
    assert not list((writer.CHECKPOINTS / name).glob("*.py"))
    model, tokenizer = load_checkpoint(str(writer.CHECKPOINTS / name))
    assert type(model).__module__ == "modeling.modeling_ozymandias"
    assert encode_text(tokenizer, "The moon").any()


def test_what_is_kept_for_texts_is_bounded_in_bytes():
    calls = []

    @keep_recent(10_000)
    def find(text):
        calls.append(text)
        return [text] * 2

    for _ in range(2):
        assert find("a") == ["a", "a"]
    assert calls == ["a"]
    for number in range(100):
        find(f"{number:03}" * 300)
        assert sum(map(len, find.cache.values())) <= 10_000
    assert len(find.cache) > 5
    find("x" * 20_000)
    assert not find.cache
    assert find("a") == ["a", "a"]
