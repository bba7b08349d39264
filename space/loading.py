"""Loading checkpoints, each of them once, and keeping results that several views need."""

import logging
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from modeling import OzymandiasConfig  # this import also registers Ozymandias with the Auto classes
from space.language import VisitorError
from tokenizer import encode_text
from training.command import in_one_line
from training.loading import check_checkpoint, load_trained

# While transformers loads a model, it creates weights without memory, and a model that another thread loads at the same
# time may keep some of them. Reentrant, because loading one model can load another.
LOADING = threading.RLock()


def load_once(load: Callable) -> Callable:
    """Cache what a function loads. Only one load runs at a time; one that raised is tried again at the next call."""
    loaded = {}

    @wraps(load)
    def once(*arguments):
        if arguments not in loaded:
            with LOADING:
                if arguments not in loaded:
                    loaded[arguments] = load(*arguments)
        return loaded[arguments]

    return once


def keep_recent(size: int) -> Callable[[Callable], Callable]:
    """Cache a function's results for its most recent arguments, in at most `size` bytes.

    They are pickled, so that the size of any result is known. The decorated function's `cache` holds them.
    """

    def decorate(compute: Callable) -> Callable:
        cache: OrderedDict[tuple, bytes] = OrderedDict()  # the most recently used last
        lock = threading.Lock()

        @wraps(compute)
        def cached(*arguments):
            with lock:
                data = cache.get(arguments)
                if data is not None:
                    cache.move_to_end(arguments)
            if data is not None:
                return pickle.loads(data)
            result = compute(*arguments)
            data = pickle.dumps(result)
            with lock:
                cache[arguments] = data
                while sum(map(len, cache.values())) > size:
                    cache.popitem(last=False)
            return result

        cached.cache = cache
        return cached

    return decorate


@load_once
def local_folder(source: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint. For a Hub id all its files are fetched, also the run record and the snapshots.

    Raises:
        UserError: the Hub has no such checkpoint, or cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, revision=revision))
    except Exception as error:  # the client lets exceptions of its HTTP library through
        raise not_loaded(source, error) from error


def load_config(source: str, revision: str | None = None) -> OzymandiasConfig:
    """The config of a checkpoint, a folder or a Hub id.

    Raises:
        OSError: the Hub has no such checkpoint.
        ValueError: there is no such folder, the Hub cannot be reached, or the config is damaged or of another model
            type.
    """
    check_checkpoint(source, ask_hub=True)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    if not isinstance(config, OzymandiasConfig):
        raise ValueError(f"its model type is {config.model_type}, not {OzymandiasConfig.model_type}")
    return config


def load_checkpoint(source: str, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint of any architecture of this project, from a folder or the Hub. Code in it is never run.

    Raises:
        UserError: it is missing, damaged, or of another model type.
    """
    try:
        load_config(source, revision)
        tokenizer, model = load_trained(source, revision)
    except Exception as error:  # transformers, safetensors and the Hub client raise their own for a bad checkpoint
        raise not_loaded(source, error) from error
    encode_text(tokenizer, "")  # sets how special tokens are encoded, which fails later while another thread encodes
    return model.eval(), tokenizer


def not_loaded(source: str, error: Exception) -> VisitorError:
    """What visitors are told about a checkpoint that cannot be loaded. The log has the reason, which may hold paths."""
    logging.getLogger(__name__).error("%s cannot be loaded: %s", source, in_one_line(error)[:500])
    return VisitorError("not_loaded", name=short_name(source))


def short_name(source: str) -> str:
    """What visitors see of a checkpoint's name: a Hub id, or the end of a folder's path, such as `mine/best`."""
    path = Path(source)
    return "/".join(path.relative_to(path.anchor).parts[-2:])
