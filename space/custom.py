"""What neither Gradio nor Plotly has: tokens, small pictures of heads, and lines of attention.

Each is a file of JavaScript and one of CSS in `static/`, as they are, with no build step.
"""

from pathlib import Path

STATIC = Path(__file__).with_name("static")
TEMPLATES = {
    "tokens": '<div class="tokens"></div><div class="card" role="tooltip" hidden></div>',
    "heads": '<div class="heads"></div>',
    "lines": '<svg class="lines" role="img"></svg>',
}


def custom(name: str) -> dict[str, str]:
    """The options of a `gr.HTML` that draws its value by a script of ours."""
    return {
        "html_template": TEMPLATES[name],
        "css_template": (STATIC / f"{name}.css").read_text(encoding="utf-8"),
        "js_on_load": (STATIC / f"{name}.js").read_text(encoding="utf-8"),
    }
