"""Loading what visitors ask for: each thing once, and one at a time."""

import threading
from collections.abc import Callable
from functools import wraps

# While a model is loaded, transformers makes it without memory for its weights, and what another thread loads meanwhile
# may be left so. A model can be made of one that is loaded: the same thread may come in again.
LOADING = threading.RLock()


def load_once(load: Callable) -> Callable:
    """Keep what a function loads; it is called for one thing at a time, and again after an error."""
    loaded = {}

    @wraps(load)
    def once(*which):
        if which not in loaded:
            with LOADING:
                if which not in loaded:
                    loaded[which] = load(*which)
        return loaded[which]

    return once
