"""The plots of the page, as Plotly figures. Their colours are legible on a light page and on a dark one."""

import plotly.graph_objects as go
import torch

from space.inside import CacheStep, EmbeddingMap, Trace
from space.language import say
from space.token_scores import ScoredToken

GREY, COLOURS = "#808080", ("#d97706", "#2563eb", "#059669", "#c026d3", "#dc2626")
SCALE = [[0, "rgba(37, 99, 235, 0.04)"], [1, "rgba(37, 99, 235, 1)"]]
LENS_TOKENS = 24  # positions: more predictions could not be read


def figure(*traces, height: int = 320, **layout) -> go.Figure:
    """A figure with a transparent background."""
    return go.Figure(
        traces,
        {
            "height": height,
            "margin": {"l": 60, "r": 20, "t": 44, "b": 50},  # the label of the plot stands at the top
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": GREY, "family": "system-ui, sans-serif"},
            "legend": {"orientation": "h", "y": -0.3},
            **layout,
        },
    )


def axis(title: str, **options) -> dict:
    return {"title": title, "gridcolor": "rgba(128,128,128,0.2)", "zeroline": False, **options}


def tokens_axis(shown: list[str], **options) -> dict:
    """An axis with a token at each position. Numbers are the values, since a token can occur more than once."""
    return {
        "tickvals": list(range(len(shown))),
        "ticktext": shown,
        "tickfont": {"size": 10},
        "showgrid": False,
        "zeroline": False,
        **options,
    }


def surprisal(scored: list[ScoredToken], language: str) -> go.Figure:
    """The surprisal of each token, in bits."""
    bits = [token.surprisal or 0 for token in scored]
    hover = [f"{token.shown}: {bit:.1f}" for token, bit in zip(scored, bits, strict=True)]
    bars = go.Bar(y=bits, hovertext=hover, hoverinfo="text", marker={"color": COLOURS[0]})
    axes = {"xaxis": axis(say(language, "token_axis")), "yaxis": axis(say(language, "surprisal_axis"))}
    return figure(bars, height=220, bargap=0.1, **axes)


def heat(weights: torch.Tensor, queries: list[str], keys: list[str], language: str) -> go.Figure:
    """The attention of one head, `(queries, keys)`, with a row for each query."""
    query, key = say(language, "query_axis"), say(language, "key_axis")
    hover = f"{query}: %{{y}} · {key}: %{{x}} · %{{z:.3f}}<extra></extra>"
    cells = go.Heatmap(z=weights.tolist(), zmin=0, zmax=1, colorscale=SCALE, hovertemplate=hover)
    size = max(360, 60 + 12 * len(queries))
    axes = {
        "xaxis": tokens_axis(keys, title=key, side="bottom", tickangle=-90),
        "yaxis": tokens_axis(queries, title=query, autorange="reversed"),
    }
    return figure(cells, height=min(size, 900), **axes)


def lens(trace: Trace, probabilities: torch.Tensor, guesses: list[list[str]], language: str) -> go.Figure:
    """The most likely next token after each layer and position, `(layers + 1, length)`, darker if more probable."""
    shown = trace.shown[-LENS_TOKENS:]
    layers = [say(language, "embedded")]
    layers += [say(language, "after_layer", layer=layer) for layer in range(1, len(guesses))]
    cells = go.Heatmap(
        z=probabilities[:, -LENS_TOKENS:].tolist(),
        text=[row[-LENS_TOKENS:] for row in guesses],
        texttemplate="%{text}",
        y=layers,
        zmin=0,
        zmax=1,
        colorscale=SCALE,
        hovertemplate="%{y} · %{x}: %{text}, %{z:.3f}<extra></extra>",
    )
    return figure(cells, height=120 + 36 * len(layers), xaxis=tokens_axis(shown), yaxis={"automargin": True})


def norms(trace: Trace, lengths: torch.Tensor, language: str) -> go.Figure:
    """The norm of each token's state, with a line for each layer."""
    names = [say(language, "embedded")]
    names += [say(language, "after_layer", layer=layer) for layer in range(1, len(lengths))]
    lines = [
        go.Scatter(y=row.tolist(), name=name, mode="lines", opacity=0.35 + 0.65 * (place / max(1, len(names) - 1)))
        for place, (row, name) in enumerate(zip(lengths, names, strict=True))
    ]
    return figure(*lines, xaxis=tokens_axis(trace.shown), yaxis=axis(""))


def embeddings(found: EmbeddingMap, marked: list[int], language: str) -> go.Figure:
    """The embeddings of the vocabulary, with the tokens of the text highlighted."""
    own = [place for place, token in enumerate(found.ids) if token in set(marked)]
    points = [
        go.Scatter(
            x=found.points[places, 0].tolist(),
            y=found.points[places, 1].tolist(),
            text=[found.shown[place] for place in places],
            mode="text",
            hoverinfo="text",
            showlegend=False,
            textfont={"color": colour, "size": size},
        )
        for places, colour, size in ((list(range(len(found.ids))), GREY, 10), (own, COLOURS[0], 15))
    ]
    axes = [
        axis(say(language, "variance", axis=number, share=f"{share:.0%}"))
        for number, share in enumerate(found.shares, start=1)
    ]
    return figure(*points, height=480, xaxis=axes[0], yaxis=axes[1])


def cache(steps: list[CacheStep], language: str) -> go.Figure:
    """The milliseconds for each token with the cache and without it, and the size of the cache."""
    tokens = [step.tokens for step in steps]
    lines = [
        go.Scatter(x=tokens, y=[getattr(step, name) for step in steps], name=say(language, title), mode="lines+markers")
        for name, title in (("cached_ms", "with_cache"), ("uncached_ms", "without_cache"))
    ]
    size = go.Scatter(
        x=tokens,
        y=[step.bytes / 1000 for step in steps],
        name=say(language, "kilobytes"),
        yaxis="y2",
        line={"dash": "dot", "color": GREY},
    )
    axes = {
        "xaxis": axis(say(language, "tokens_read")),
        "yaxis": axis(say(language, "milliseconds"), rangemode="tozero"),
        "yaxis2": axis(say(language, "kilobytes"), overlaying="y", side="right", showgrid=False, rangemode="tozero"),
    }
    return figure(*lines, size, margin={"l": 60, "r": 70, "t": 44, "b": 50}, **axes)


def curves(runs: dict[str, list[tuple[int, float]]], language: str, at: tuple[int, float] | None = None) -> go.Figure:
    """Validation losses against steps, with a line for each run; `at` marks one point."""
    lines = [
        go.Scatter(
            x=[step for step, _ in points],
            y=[loss for _, loss in points],
            name=name,
            mode="lines+markers",
            line={"color": colour},
        )
        for (name, points), colour in zip(runs.items(), COLOURS, strict=False)
    ]
    if at:
        lines.append(
            go.Scatter(x=[at[0]], y=[at[1]], mode="markers", marker={"size": 16, "color": GREY}, showlegend=False)
        )
    axes = {"xaxis": axis(say(language, "step")), "yaxis": axis(say(language, "loss"))}
    # Falling curves leave room at the top right; below the plot a phone has none.
    return figure(*lines, **axes, legend={"x": 1, "xanchor": "right", "y": 1, "bgcolor": "rgba(0,0,0,0)"})
