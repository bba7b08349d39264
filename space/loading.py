"""Loading what visitors ask for: each thing once, and one at a time."""

import logging
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from huggingface_hub import snapshot_download
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from modeling import OzymandiasConfig  # this import also makes Ozymandias known to the Auto classes
from modeling.loading import check_reachable
from modeling.modeling_ozymandias import model_class
from space.words import VisitorError
from tokenizer import encode_text
from training.command import in_one_line

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


@load_once
def local_folder(source: str, revision: str | None = None) -> Path:
    """The folder of a checkpoint. Of a Hub id all files are fetched, the record of its run and its snapshots too.

    Raises:
        UserError: the Hub has no such checkpoint, or cannot be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, revision=revision))
    except Exception as error:  # the client passes on what its HTTP library raises
        raise refuse(source, error) from error


def keep_recent(size: int) -> Callable[[Callable], Callable]:
    """Keep what a function finds for its last arguments, in at most `size` bytes.

    It is kept pickled, so that its size is known, whatever it holds.
    """

    def decorate(find: Callable) -> Callable:
        kept: OrderedDict[tuple, bytes] = OrderedDict()  # the latest last
        lock = threading.Lock()

        @wraps(find)
        def recent(*which):
            with lock:
                data = kept.get(which)
                if data is not None:
                    kept.move_to_end(which)
            if data is not None:
                return pickle.loads(data)
            found = find(*which)
            data = pickle.dumps(found)
            with lock:
                kept[which] = data
                while sum(map(len, kept.values())) > size:
                    kept.popitem(last=False)
            return found

        recent.kept = kept
        return recent

    return decorate


def load_checkpoint(source: str, revision: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint of any architecture of this project, a folder or a Hub id.

    Raises:
        UserError: it is missing, damaged, or of another project.
    """
    try:
        check_reachable(source)
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
        if not isinstance(config, OzymandiasConfig):
            raise TypeError(f"it is of the kind {config.model_type}")
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
        model = model_class(config).from_pretrained(source, revision=revision, config=config)
    except Exception as error:  # transformers, safetensors and the Hub client each have their own for a bad checkpoint
        raise refuse(source, error) from error
    encode_text(tokenizer, "")  # so that no thread has to change how special tokens are read while another encodes
    return model.eval(), tokenizer


def refuse(source: str, error: Exception) -> VisitorError:
    """What visitors are told of a checkpoint that cannot be loaded; the reason, with its paths, goes into the log."""
    logging.getLogger(__name__).error("%s cannot be loaded: %s", source, in_one_line(error)[:500])
    return VisitorError("not_loaded", name=short_name(source))


def short_name(source: str) -> str:
    """What visitors see of a checkpoint: a Hub id, or the end of a folder's path, such as `mine/best`."""
    path = Path(source)
    return "/".join(path.relative_to(path.anchor).parts[-2:])
