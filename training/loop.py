"""The training loop. It knows nothing of the architecture: a model takes ids and targets and gives a loss."""

import dataclasses
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, gather_object, set_seed
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from modeling import OzymandiasForCausalLM, preset_config
from tokenizer import build_character_tokenizer
from training.checkpoints import list_checkpoints, load_checkpoint, recover, save_checkpoint, save_model
from training.command import UserError
from training.corpora import Corpus, load_corpus
from training.data import Batches, encode
from training.evaluate import validation_loss
from training.generate import stream_text
from training.optimizers import build_optimizers, learning_rate_share
from training.recipe import Recipe
from training.record import BEST, RunRecord, open_run


def train(recipe: Recipe, output: Path, overwrite: bool = False, dry_run: bool = False) -> None:
    """Train a model as the recipe says, in the folder `output`; go on from its last checkpoint where there is one.

    Raises:
        UserError: the recipe, the corpus or the folder cannot be used, with the reason.
    """
    disable_progress_bar()  # saving has one of its own, which would break ours
    model_config(recipe, vocab_size=1)  # refuses a wrong preset or field before the corpus is loaded
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        log_with=recipe.trackers or None,
        project_config=ProjectConfiguration(project_dir=str(output), logging_dir=str(output / "trackers")),
    )
    parts = accelerator.num_processes * recipe.gradient_accumulation_steps
    if recipe.batch_size % parts:
        raise UserError(
            f"batch_size ({recipe.batch_size}) cannot be split evenly into {accelerator.num_processes} processes times "
            f"{recipe.gradient_accumulation_steps} gradient_accumulation_steps; make it a multiple of {parts}."
        )
    corpus = load_corpus(recipe.corpus, recipe.accept_changed_corpus)
    tokenizer = build_character_tokenizer(corpus.train)
    batches = Batches(encode(tokenizer, corpus.train), recipe.context, recipe.batch_size, recipe.seed)
    set_seed(recipe.seed)
    model = OzymandiasForCausalLM(model_config(recipe, len(tokenizer), tokenizer))
    model.generation_config = generation_config(model)
    if accelerator.is_main_process:
        print(plan(recipe, corpus, model, accelerator, output))
    if dry_run:
        return
    if accelerator.is_main_process and open_run(output, recipe, overwrite):
        return
    accelerator.wait_for_everyone()

    model, *optimizers = accelerator.prepare(model, *build_optimizers(model, recipe))
    record = RunRecord(output, recipe, corpus, accelerator)
    if accelerator.is_main_process:
        recover(output / BEST)
    if checkpoints := list_checkpoints(output):
        record.resume(load_checkpoint(checkpoints[-1], accelerator))
    accelerator.init_trackers(output.name, config=flat(recipe))
    if record.step == 0:
        evaluate(model, tokenizer, corpus, recipe, record, accelerator)

    bar = tqdm(total=recipe.steps, initial=record.step, unit="step", disable=not accelerator.is_main_process)
    losses = torch.zeros((), device=accelerator.device)  # summed on the device: reading a loss waits for it
    started, logged_step = time.perf_counter(), record.step
    while record.step < recipe.steps and not record.out_of_patience(recipe.patience):
        share = learning_rate_share(record.step, recipe)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * share
        inputs, targets = (
            rows[accelerator.process_index :: accelerator.num_processes].to(accelerator.device, non_blocking=True)
            for rows in batches.at(record.step)
        )
        for x, y in zip(
            inputs.chunk(recipe.gradient_accumulation_steps),
            targets.chunk(recipe.gradient_accumulation_steps),
            strict=True,
        ):
            with accelerator.accumulate(model):
                # Every window has as many targets, so the mean over parts and processes is the mean over tokens.
                loss = model(input_ids=x, labels=y, shift_labels=y, use_cache=False).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients and recipe.gradient_clip:
                    accelerator.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                losses += loss.detach() / recipe.gradient_accumulation_steps
        record.step += 1
        bar.update()

        evaluation = record.step % recipe.evaluate_every == 0 or record.step == recipe.steps
        if record.step % recipe.log_every == 0 or evaluation:
            train_loss = float(accelerator.reduce(losses, "mean")) / (record.step - logged_step)
            seconds = time.perf_counter() - started
            speed = record.log_training(train_loss, share * recipe.learning_rate, seconds, record.step - logged_step)
            bar.set_postfix_str(f"loss {train_loss:.3f}, {speed:,.0f} tokens/s")
            losses.zero_()
            started, logged_step = time.perf_counter(), record.step
        if evaluation:
            evaluate(model, tokenizer, corpus, recipe, record, accelerator)
        if record.step % recipe.checkpoint_every == 0 or record.step == recipe.steps:
            save_checkpoint(output, accelerator, record.state(), recipe.keep_checkpoints)
        if evaluation or record.step % recipe.checkpoint_every == 0:
            started = time.perf_counter()  # evaluating and saving are not training time
    bar.close()
    record.finish()
    accelerator.end_training()


def model_config(recipe: Recipe, vocab_size: int, tokenizer: PreTrainedTokenizerBase | None = None):
    """The config of the recipe's preset with its changes, as a [`UserError`] if it cannot be."""
    tokens = {}
    if tokenizer is not None:
        tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    fixed = {"vocab_size": vocab_size, "max_position_embeddings": recipe.context, **tokens}
    if clash := sorted(fixed.keys() & recipe.model.keys()):
        raise UserError(f"model.{clash[0]} is set by the corpus or by --context; leave it out of the model's fields.")
    try:
        return preset_config(recipe.preset, **{**recipe.model, **fixed})
    except Exception as error:  # transformers has types of its own for a wrong type and a wrong value
        raise UserError(f"the model cannot be built: {' '.join(str(error).split())}") from None


def generation_config(model: PreTrainedModel) -> GenerationConfig:
    """How `generate` writes when it is not told: by drawing, and no further than learned positions reach."""
    config = model.config
    length = {"max_length": config.max_position_embeddings}
    if config.position_type != "learned":
        length = {"max_new_tokens": 256}
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(do_sample=True, temperature=0.8, top_p=0.95, **length, **ids)


def plan(recipe: Recipe, corpus: Corpus, model: PreTrainedModel, accelerator: Accelerator, output: Path) -> str:
    """What is about to be trained, on what, with what to expect, in three lines."""
    tokens = recipe.steps * recipe.batch_size * recipe.context
    expected = "" if recipe.expected_loss is None else f"; expect a validation loss of about {recipe.expected_loss:.2f}"
    processes = "process" if accelerator.num_processes == 1 else "processes"
    return (
        f"{recipe.preset}, {model.num_parameters():,} parameters, on {corpus.name} ({len(corpus.text):,} characters, "
        f"{model.config.vocab_size} tokens in the vocabulary)\n"
        f"{recipe.steps:,} steps of {recipe.batch_size} x {recipe.context} tokens ({tokens:,} in all) on "
        f"{accelerator.num_processes} {processes}, {accelerator.device.type}, precision {accelerator.mixed_precision}"
        f"{expected}\nin {output}"
    )


def evaluate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    recipe: Recipe,
    record: RunRecord,
    accelerator: Accelerator,
) -> None:
    """Score the validation split, show a sample, and keep the model if it is the best so far."""
    model = accelerator.unwrap_model(model)
    share = validation_loss(
        model,
        tokenizer,
        corpus.validation,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    loss = sum(gather_object([share]))
    sample = ""
    if accelerator.is_main_process:
        model.eval()
        pieces = stream_text(model, tokenizer, recipe.sample_prompt, recipe.sample_length, 0.8, seed=recipe.seed)
        sample = recipe.sample_prompt + "".join(pieces)
        tqdm.write(f"\nstep {record.step:,}: validation loss {loss:.4f} nats per character\n{sample.strip()}\n")
    if record.log_evaluation(loss, sample, model.num_parameters()) and accelerator.is_main_process:
        save_model(record.folder / BEST, model, tokenizer)
    record.save()
    model.train()


def flat(recipe: Recipe) -> dict:
    """The recipe with values that every tracker takes."""
    values = dataclasses.asdict(recipe)
    return {name: v if isinstance(v, int | float | str | bool) else str(v) for name, v in values.items()}
