"""Files of checkpoints, in a folder or on the Hub, and a quick answer where the Hub cannot be reached."""

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel

PATIENCE = 5  # seconds for the Hub to answer
AUTO_CLASSES = {"ForMaskedLM": AutoModelForMaskedLM, "ForConditionalGeneration": AutoModelForSeq2SeqLM}


def check_reachable(checkpoint: str | Path) -> None:
    """Ask the Hub once for a checkpoint that is neither a folder nor in the cache.

    transformers would ask for half a minute, and print a line at each try.

    Raises:
        OSError: there is no such folder, and the Hub cannot be reached, with the reason.
    """
    if Path(checkpoint).exists():
        return
    try:
        if not isinstance(try_to_load_from_cache(str(checkpoint), "config.json"), str):
            get_hf_file_metadata(hf_hub_url(str(checkpoint), "config.json"), timeout=PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        pass  # the Hub has answered, or the name is none of its: transformers says what is wrong
    except Exception as error:  # the client passes on what its HTTP library raises, which differs by version
        reason = " ".join(str(error).split())
        raise OSError(f"the Hub cannot be reached: {reason}") from None


def find_file(checkpoint: str | Path, name: str) -> Path | None:
    """A file of a checkpoint, fetched if that is on the Hub; none where it lacks the file or cannot be reached."""
    if Path(checkpoint).exists():
        path = Path(checkpoint) / name
        return path if path.is_file() else None
    try:
        if isinstance(cached := try_to_load_from_cache(str(checkpoint), name), str):
            return Path(cached)
        get_hf_file_metadata(hf_hub_url(str(checkpoint), name), timeout=PATIENCE)
        return Path(hf_hub_download(str(checkpoint), name))
    except Exception:  # as above; and a repository without the file, or none at all
        return None


def load_model(checkpoint: str | Path, revision: str | None = None, **options) -> PreTrainedModel:
    """Load a folder or Hub id with the Auto class of its architecture: decoder, encoder or both.

    Code that lies in a checkpoint is never run: without `trust_remote_code=False` transformers asks on the terminal.
    """
    check_reachable(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint, revision=revision, trust_remote_code=False)
    architecture = (config.architectures or ["ForCausalLM"])[0]
    auto_class = next((auto for end, auto in AUTO_CLASSES.items() if architecture.endswith(end)), AutoModelForCausalLM)
    return auto_class.from_pretrained(checkpoint, revision=revision, trust_remote_code=False, **options)
