"""The key-value cache, under whichever name transformers hands it over.

A checkpoint on the Hub carries this code and outlives the release of transformers that it was written for. Releases up
to 5.23 call the cache `past_key_values`, 5.24 calls it `cache`. A model that overlooks its cache raises no error: it
reads every new token as if it were the first, and writes nonsense.
"""

import dataclasses
from collections.abc import Callable
from functools import wraps

from transformers import __version__
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

OURS = "past_key_values"


def find_cache_name(output: type) -> str:
    """The name of the field of a model's output whose type is a Cache.

    Raises:
        ImportError: there is none.
    """
    for field in dataclasses.fields(output):
        if "Cache" in str(field.type):
            return field.name
    raise ImportError(
        f"Ozymandias cannot tell how transformers {__version__} names the key-value cache: {output.__name__} has no "
        "field of type Cache. Install transformers 5.24 or older."
    )


CACHE_NAME = find_cache_name(CausalLMOutputWithPast)  # in the installed transformers


def accept_any_cache(forward: Callable) -> Callable:
    """Let a `forward` whose argument is `past_key_values` take its cache under any name.

    A `Cache` is recognised under every name, even one that no release has used yet. Under the name of the installed
    transformers any other object is a cache too, such as the paged one of continuous batching.

    Raises:
        ValueError: a call with two caches.
    """

    @wraps(forward)
    def with_cache(*args, **kwargs):
        names = [name for name, value in kwargs.items() if isinstance(value, Cache) or name == CACHE_NAME]
        caches = {name: kwargs.pop(name) for name in names}
        caches = {name: cache for name, cache in caches.items() if cache is not None}
        if len(caches) > 1:
            raise ValueError(f"Give one cache; this call has {len(caches)}, as {', '.join(caches)}.")
        if caches:
            kwargs[OURS] = caches.popitem()[1]
        return forward(*args, **kwargs)

    return with_cache
