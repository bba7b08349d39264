"""The key-value cache, under whichever name transformers hands it over.

A checkpoint on the Hub carries this code and outlives the transformers that it was written for. Releases up to 5.23
call the cache `past_key_values`, 5.24 calls it `cache`. A cache that a model overlooks is not an error that anyone
sees: the model then reads every new token as if it were the first, and writes nonsense.
"""

import dataclasses
from collections.abc import Callable
from functools import wraps

from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

# The name in the installed transformers: that of the output field whose type is a Cache.
CACHE_NAME = next(field.name for field in dataclasses.fields(CausalLMOutputWithPast) if "Cache" in str(field.type))
OURS = "past_key_values"


def accept_any_cache(forward: Callable) -> Callable:
    """Let a `forward` that names its cache `past_key_values` take it under any name.

    A `Cache` counts under every name, also one that no release has used yet. Under the name of the installed
    transformers so does any other object, such as the paged cache of continuous batching.

    Raises:
        ValueError: two caches in one call.
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


def name_cache(cache: Cache | None) -> dict[str, Cache | None]:
    """The cache as a keyword argument of transformers' own functions and outputs."""
    return {CACHE_NAME: cache}
