"""Build the parts of a run from its recipe: the corpus, the tokenizer, the model and the accelerator."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import DistributedType, ProjectConfiguration
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modeling import OzymandiasConfig, preset_config
from modeling.loading import load_model
from modeling.modeling_ozymandias import model_class
from tokenizer import build_bpe_tokenizer, build_character_tokenizer
from tokenizer.bpe import VOCAB_SIZE
from training.command import UserError, in_one_line
from training.data.corpora import Corpus, load_corpus
from training.data.documents import Documents, Phases, stored_documents
from training.data.mixture import Mixture, load_mixture
from training.data.stream import StreamedCorpus
from training.data.windows import Windows
from training.engine.recipe import Recipe
from training.loading import not_loaded


def build_tokenizer(recipe: Recipe, texts: str | list[str]) -> PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint that a recipe starts from, or a new one, trained on a text or several.

    Raises:
        UserError: the checkpoint has none that can be loaded, or the vocabulary is too small.
    """
    if recipe.start_from:
        try:
            return AutoTokenizer.from_pretrained(recipe.start_from, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UserError(not_loaded(recipe.start_from, error)) from None
    try:
        with_mask = recipe.task == "masked"
        if recipe.tokenizer == "bpe":
            return build_bpe_tokenizer(texts, recipe.vocab_size or VOCAB_SIZE, with_mask, recipe.chat_tokens)
        return build_character_tokenizer("".join(texts), recipe.vocab_size, with_mask)
    except (OSError, ValueError) as error:
        raise UserError(f"the tokenizer cannot be built: {in_one_line(error)}") from None


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A new model as the recipe says, or the checkpoint that it starts from, with the recipe's changes to its config.

    Raises:
        UserError: the model cannot be built or loaded, or the checkpoint was trained for another task.
    """
    if not recipe.start_from:
        config = model_config(recipe, len(tokenizer), tokenizer)
        return model_class(config)(config)
    try:
        config = AutoConfig.from_pretrained(recipe.start_from, trust_remote_code=False)
        longest = config.max_position_embeddings
        config = type(config)(**{**config.to_dict(), **recipe.model, "max_position_embeddings": recipe.context})
        if config.position_type == "learned" and recipe.context != longest:
            raise ValueError(f"it has {longest} learned positions; give --context {longest}.")
        # In float32 whatever the stored dtype: Accelerate computes in half precision from float32 weights.
        model = load_model(recipe.start_from, config=config, dtype=torch.float32)
    except Exception as error:  # transformers and safetensors raise their own types for a bad checkpoint or field
        raise UserError(f"{recipe.start_from} cannot be fine-tuned: {in_one_line(error)}") from None
    expected = model_config(recipe, len(tokenizer), tokenizer)
    if (config.is_causal, config.is_encoder_decoder) != (expected.is_causal, expected.is_encoder_decoder):
        raise UserError(
            f"{recipe.start_from} is not a model for the task {recipe.task}; give the task that it was trained for."
        )
    return model


def model_config(recipe: Recipe, vocab_size: int, tokenizer: PreTrainedTokenizerBase | None = None) -> OzymandiasConfig:
    """The config of the recipe's preset, with the recipe's changes.

    Raises:
        UserError: an unknown preset or field, or values that do not fit together.
    """
    tokens = {name: getattr(tokenizer, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    if recipe.task != "next_token" and tokenizer is None:
        tokens["bos_token_id"] = 0  # a placeholder: without a tokenizer the config is only checked
    fixed = {
        "vocab_size": vocab_size,
        "max_position_embeddings": recipe.context,
        "is_encoder_decoder": recipe.task in ("next_passage", "copy"),
        "is_causal": recipe.task != "masked",
        **tokens,
    }
    if clash := sorted(fixed.keys() & recipe.model.keys()):
        raise UserError(
            f"model.{clash[0]} is set by the corpus, --context or --task; leave it out of the model's fields."
        )
    try:
        return preset_config(recipe.preset, **{**recipe.model, **fixed})
    except Exception as error:  # transformers raises its own types for a wrong type and a wrong value
        raise UserError(f"the model cannot be built: {in_one_line(error)}") from None


def generation_config(config: OzymandiasConfig) -> GenerationConfig:
    """The defaults of `generate`: sampling, and at most half a context of new tokens, to leave room for the prompt.

    An encoder-decoder may fill its whole context: its prompt has a context of its own.
    """
    longest = config.max_position_embeddings
    length = longest if config.is_encoder_decoder else max(1, longest // 2)
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    ids = {name: getattr(config, name) for name in names}
    return GenerationConfig(do_sample=True, temperature=0.8, top_p=0.95, max_new_tokens=length, **ids)


def build_accelerator(recipe: Recipe, output: Path) -> Accelerator:
    """The accelerator of a run.

    Raises:
        UserError: an unknown or missing tracker, processes that cannot be connected, a batch that cannot be split
            evenly, or options that do not go together.
    """
    for tracker in recipe.trackers:
        if tracker not in LOGGER_TYPE_TO_CLASS:
            raise UserError(
                f"there is no tracker '{tracker}'; choose from {', '.join(map(str, LOGGER_TYPE_TO_CLASS))}."
            )
    # Accelerate's state is global: without a reset, a second run would get the first one's precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    launched = int(os.environ.get("WORLD_SIZE", 1))
    try:
        accelerator = Accelerator(
            cpu=launched > 1 and not torch.accelerator.is_available(),  # otherwise it would not connect the processes
            mixed_precision=recipe.mixed_precision,
            gradient_accumulation_steps=recipe.gradient_accumulation_steps,
            log_with=recipe.trackers or None,
            project_config=ProjectConfiguration(project_dir=str(output), logging_dir=str(output / "trackers")),
        )
    except (ValueError, ImportError) as error:
        raise UserError(f"Accelerate cannot be set up: {error}") from None
    if launched > accelerator.num_processes:
        raise UserError(
            f"{launched} processes were launched, but Accelerate cannot connect them on this device; launch one, or "
            "set ACCELERATE_USE_CPU=true."
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UserError(
            "mixed_precision fp16 needs a GPU: on a CPU Accelerate would silently compute in float32; use bf16 or no."
        )
    parts = accelerator.num_processes * recipe.gradient_accumulation_steps
    if recipe.batch_size % parts:
        raise UserError(
            f"batch_size ({recipe.batch_size}) cannot be split evenly over {accelerator.num_processes} processes times "
            f"{recipe.gradient_accumulation_steps} gradient_accumulation_steps; make it a multiple of {parts}."
        )
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if recipe.average_decay and sharded:
        raise UserError("average_decay needs all weights in every process; set it to 0 with FSDP or DeepSpeed.")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        if recipe.optimizer == "muon":
            raise UserError(
                "DeepSpeed takes only one optimizer, and Muon needs AdamW beside it; set optimizer: adamw, or launch "
                "with training/accelerate/fsdp.yaml."
            )
        accelerator.deepspeed_plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": recipe.batch_size // parts,
            "gradient_clipping": recipe.gradient_clip,
        }
    return accelerator


def load_texts(recipe: Recipe) -> Corpus | Mixture | StreamedCorpus:
    """Load the corpus, the mixture or the stream that a recipe names.

    Raises:
        UserError: a task or an option that does not work with a stream, or what [`load_corpus`], [`load_mixture`] or
            [`StreamedCorpus`] refuses.
    """
    options = (recipe.accept_changed_corpus, recipe.text_column)
    if isinstance(recipe.corpus, dict):
        return load_mixture(recipe.corpus, recipe.final_corpus, recipe.held_out, *options)
    if not recipe.stream:
        return load_corpus(recipe.corpus, *options)
    if recipe.task != "next_token":
        raise UserError(f"stream: true needs the task next_token, and task is {recipe.task}; change one of them.")
    if recipe.remove_overlap:
        raise UserError("a stream cannot be searched for shared passages; leave remove_overlap out.")
    return StreamedCorpus(recipe.corpus, recipe.text_column, recipe.stream_validation)


def mixture_batches(
    task: type[Windows], tokenizer: PreTrainedTokenizerBase, mixture: Mixture, recipe: Recipe
) -> Windows | Phases:
    """The batches of a run on a mixture: those of its first phase, then those of `final_corpus` if there is one."""
    stored = {part.name: stored_documents(tokenizer, part) for part in mixture.trained_on}
    phases = []
    for parts in filter(None, (mixture.parts, mixture.final)):
        corpora = [(stored[part.name], part.weight, part.whole) for part in parts]
        documents = Documents(corpora, tokenizer.eos_token_id, recipe.seed)
        phases.append(task(tokenizer, documents, recipe.context, recipe.batch_size, recipe.seed))
    return phases[0] if len(phases) == 1 else Phases(*phases, recipe.steps - round(recipe.final_share * recipe.steps))
