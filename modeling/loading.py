"""Load checkpoints and their files from a folder or the Hub, and fail quickly if the Hub cannot be reached."""

from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, PreTrainedModel

CONFIG = "config.json"
PATIENCE = 5  # seconds for the Hub to answer
AUTO_CLASSES = {"ForMaskedLM": AutoModelForMaskedLM, "ForConditionalGeneration": AutoModelForSeq2SeqLM}


def check_reachable(checkpoint: str | Path) -> None:
    """Check that a checkpoint is a folder with a config, or ask the Hub once unless its cache has the config.

    transformers would keep asking for half a minute and print a line at each try.

    Raises:
        OSError: the folder has no config, there is neither a folder nor a Hub id of this name, or the Hub cannot be
            reached, with the reason.
    """
    if Path(checkpoint).exists():
        if not (Path(checkpoint) / CONFIG).is_file():
            raise OSError(f"{checkpoint} has no {CONFIG}; give the folder of a checkpoint, such as runs/NAME/best.")
        return
    try:
        if not isinstance(try_to_load_from_cache(str(checkpoint), CONFIG), str):
            get_hf_file_metadata(hf_hub_url(str(checkpoint), CONFIG), timeout=PATIENCE)
    except HFValidationError:
        raise OSError(f"there is no folder {checkpoint}, and a Hub id looks like USER/NAME.") from None
    except HfHubHTTPError:
        pass  # the Hub has answered, and transformers reports what is wrong
    except Exception as error:  # the client passes on what its HTTP library raises, which differs by version
        reason = " ".join(str(error).split())
        raise OSError(f"the Hub cannot be reached: {reason}") from None


def find_file(checkpoint: str | Path, name: str) -> Path | None:
    """A file of a checkpoint, downloaded if the checkpoint is on the Hub; `None` if it is missing or out of reach."""
    if Path(checkpoint).exists():
        path = Path(checkpoint) / name
        return path if path.is_file() else None
    try:
        if isinstance(cached := try_to_load_from_cache(str(checkpoint), name), str):
            return Path(cached)
        get_hf_file_metadata(hf_hub_url(str(checkpoint), name), timeout=PATIENCE)
        return Path(hf_hub_download(str(checkpoint), name))
    except Exception:  # as above; or the repository lacks the file or does not exist
        return None


def load_model(checkpoint: str | Path, revision: str | None = None, **options) -> PreTrainedModel:
    """Load a folder or Hub id with the Auto class of its architecture: decoder, encoder or encoder-decoder.

    Code in the checkpoint is never run. `trust_remote_code=False` also keeps transformers from asking on the terminal
    whether to run it.

    Raises:
        OSError: it cannot be found or reached.
        ValueError: its architecture is not known here.
    """
    check_reachable(checkpoint)
    config = AutoConfig.from_pretrained(checkpoint, revision=revision, trust_remote_code=False)
    architecture = (config.architectures or ["ForCausalLM"])[0]
    auto_class = next((auto for end, auto in AUTO_CLASSES.items() if architecture.endswith(end)), AutoModelForCausalLM)
    return auto_class.from_pretrained(checkpoint, revision=revision, trust_remote_code=False, **options)
