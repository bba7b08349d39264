"""What a browser can send in place of what the page would: it costs the server little, whatever its length."""

import re
import time

import gradio as gr
import pytest

from space import app, inside, writer
from space.tabs import evolution as evolution_tab
from space.tabs import inside as inside_tab
from space.tabs import write as write_tab
from space.tabs.components import VIEW_LIMITS
from space.tabs.write import LONGEST_CONVERSATION, message, recent, restore
from training.command import UserError


@pytest.fixture(scope="module")
def page():
    return app.build_page()


@pytest.fixture
def call(page):
    """Call what the page does on an event with the values of some components, by their names on the page."""

    def call(method, **values):
        fn = next(fn for fn in page.fns.values() if getattr(fn.fn, "__qualname__", "") == method)
        given = {block: block.value for block in fn.inputs}
        given |= {getattr(fn.fn.__self__, name): value for name, value in values.items()}
        found = fn.fn(given)
        return found if isinstance(found, dict) else list(found)

    return call


@pytest.mark.parametrize("text", ["the moon upon the water " * 100_000, "月" * 1_000_000, "\n" * 100_000])
def test_a_forged_answer_is_not_scored(call, text):
    history = [message("user", "The moon"), message("assistant", text, "english")]
    begun = time.monotonic()
    (shown,) = call("WriteTab.describe", chat=history, explain=True)
    assert time.monotonic() - begun < 1
    assert any("at most 8,000" in str(value) for value in shown.values())


def test_the_longest_text_that_is_scored_takes_no_time_or_memory_to_speak_of(monkeypatch):
    served = writer.served_models()["english"]
    model, tokenizer = inside.load_traceable(served.source)
    seen = []
    monkeypatch.setattr(
        inside, "select_likeliest", lambda *given, keep=inside.select_likeliest: seen.append(1) or keep(*given)
    )
    scored = inside.score_tokens(model, tokenizer, "", "the " * 1100)
    assert len(scored) >= 1100
    assert len(seen) > 6  # windows, one after the other
    with pytest.raises(UserError, match="24,000 tokens for this model; give at most 1,200"):
        inside.score_tokens(model, tokenizer, "", "月" * 8000)


@pytest.mark.parametrize("method", ["draw", "write_both", "measure_cache"])
@pytest.mark.parametrize("box", ["text", "source"])
def test_look_inside_reads_no_longer_texts(call, method, box):
    if (method, box) != ("measure_cache", "source"):
        with pytest.raises(gr.Error, match="at most 8,000"):
            call(f"InsideTab.{method}", **{box: "x" * 1_000_000})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"grown_line": "x" * 1_000_000}, "at most 2,000"),
        ({"step": None}, "no such snapshot"),
        ({"step": 99}, "no such"),
    ],
)
def test_the_growth_line_and_its_snapshot_are_checked(call, values, words):
    with pytest.raises(gr.Error, match=words):
        call("EvolutionTab.grow", **values)


def test_gradio_checks_no_slider(page):
    """It would refuse a value out of range in English; the page does so in the visitor's language."""
    events = [fn for fn in page.fns.values() if any(isinstance(block, gr.Slider) for block in fn.inputs)]
    assert len(events) > 5
    assert [fn.fn.__qualname__ for fn in events if fn.preprocess] == []


def test_the_five_and_the_laboratory_read_no_longer_lines(call):
    with pytest.raises(gr.Error, match="at most 2,000"):
        call("EvolutionTab.write_five", line="x" * 1_000_000)
    with pytest.raises(gr.Error, match="at most 500"):
        call("EvolutionTab.compare", sample="x" * 1_000_000)


def test_a_conversation_keeps_its_end():
    long = [message(role, "x" * 30_000) for _ in range(5) for role in ("user", "assistant")]
    assert recent(long) == long[-2:]  # it begins with a question
    assert recent(long[-4:-1]) == long[-4:-1]
    assert len(restore(long)) == 2
    assert recent([message("user", "x" * (LONGEST_CONVERSATION + 1))]) == []


def test_a_visit_without_a_conversation_leaves_the_chat_alone(page):
    """What the page is given when it opens can arrive after the first answer, which it must not wipe out."""
    begin = next(fn.fn for fn in page.fns.values() if getattr(fn.fn, "__name__", "") == "begin")
    saved = [message("user", "The moon"), message("assistant", "The moon is", "english")]
    assert begin("en", [], None)[1] == gr.skip()
    assert begin("en", saved, None)[1] == saved


def test_what_does_not_depend_on_the_visitor_is_computed_once(call, monkeypatch):
    calls = []
    for module, name in ((inside, "embedding_map"), (evolution_tab, "stream_text")):
        function = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, f=function, n=name, **more: calls.append(n) or f(*given, **more)
        )
    for text in ("The moon", "The sea"):
        call("InsideTab.draw", text=text, model="poetry-single-head")
    evolution_tab.run_snapshot.cache.clear()
    for head in ("1.1", "1.2"):
        call("EvolutionTab.grow", grown_line="The sea was", grown_head=head)
    assert calls == ["embedding_map", "stream_text"]


def test_the_tab_of_evolution_is_drawn_once_for_a_visitor(call):
    (shown,) = call("EvolutionTab.draw_first", drawn=True)
    assert len(shown) == 1


def test_every_view_lets_several_visitors_in(page):
    heavy = re.compile(r"InsideTab\.(draw|draw_first|draw_again|draw_head|pick_\w+|write_both|measure_cache)|"
                       r"EvolutionTab\.(draw\w*|grow|compare)|WriteTab\.(describe|pick_answer)")  # fmt: skip
    limits = {fn.fn.__qualname__: fn.concurrency_limit for fn in page.fns.values()
              if heavy.fullmatch(getattr(fn.fn, "__qualname__", ""))}  # fmt: skip
    assert len(limits) >= 12
    assert set(limits.values()) == {VIEW_LIMITS["concurrency_limit"]}
    assert page._queue.default_concurrency_limit == write_tab.SIMULTANEOUS


def test_traces_and_scores_are_kept_within_their_bytes():
    for number in range(40):
        inside_tab.cached_trace("poetry-gpt", f"{number} " * 60, "", True, ())
    assert 0 < sum(map(len, inside_tab.cached_trace.cache.values())) <= 30_000_000
