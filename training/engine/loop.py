"""The training loop. It knows nothing of the architecture: a model takes ids and targets and returns a loss."""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate.utils import DistributedType, broadcast_object_list, gather_object, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from modeling.loading import load_model
from tokenizer import encode_text
from training.command import UserError, printable
from training.data.documents import Phases
from training.data.mixture import Mixture
from training.data.stream import Stream
from training.data.windows import IGNORED, TASKS, Copy, Windows
from training.engine.build import (
    build_accelerator,
    build_model,
    build_tokenizer,
    generation_config,
    load_texts,
    mixture_batches,
    model_config,
)
from training.engine.checkpoints import (
    BEST,
    list_checkpoints,
    load_checkpoint,
    not_written,
    recover,
    save_checkpoint,
    save_model,
    save_snapshot,
    writing,
)
from training.engine.interrupts import Interruption
from training.engine.kernels import choose_kernels, compiled
from training.engine.optimizers import build_optimizers, lr_scale
from training.engine.provenance import check_run
from training.engine.recipe import Recipe
from training.engine.record import RunRecord, open_run
from training.engine.samples import write_sample
from training.engine.sharded import load_weights
from training.evaluation.scores import describe_scores, expert_load, score_copies, score_text
from training.loading import check_checkpoint

STOPPING = "\nstopping: a checkpoint will be saved within {} steps; interrupt again to stop at once without it\n"
# A run that reads its text more than MANY_EPOCHS times stops after PATIENCE evaluations without a better loss.
PATIENCE, MANY_EPOCHS = 3, 20
LARGE_VOCABULARY = 8192  # tokens; above it, the logits of a batch cost more memory than they save time


class Diverged(UserError):
    """The loss of a run is no longer a number."""


def train(recipe: Recipe, output: Path, overwrite: bool = False, dry_run: bool = False) -> None:
    """Train a model as the recipe says, in the folder `output`, or resume from the last checkpoint there.

    Raises:
        UserError: the recipe, the corpus or the folder cannot be used; the message says why.
        Diverged: the loss is no longer a number.
    """
    disable_progress_bar()  # transformers shows one when it saves, which would break ours
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)  # it warns of tied weights at every checkpoint
    run = Run(recipe, output, overwrite)
    if run.main:
        print(run.plan())
    if dry_run or run.open(overwrite):
        return
    precision = torch.get_float32_matmul_precision()
    try:
        run_to_end(run)
    except OSError as error:
        raise not_written(output, error) from error
    finally:
        run.close()
        torch.set_float32_matmul_precision(precision)  # start() may have changed it for the whole process


def run_to_end(run: "Run") -> None:
    """Take all remaining steps, and evaluate, show samples and save in between.

    Raises:
        Diverged: the loss is no longer a number.
        KeyboardInterrupt: the run was interrupted. A checkpoint has been saved.
    """
    run.start()
    recipe, record = run.recipe, run.record
    if record.step == 0:
        run.evaluate()
    bar = tqdm(total=recipe.steps, initial=record.step, unit="step", disable=not run.main)
    losses, measured_from, stop = [], time.perf_counter(), False
    with Interruption(STOPPING.format(recipe.log_every) if run.main else "") as interruption:
        while record.step < recipe.steps and not record.out_of_patience() and not stop:
            losses.append(run.step())
            bar.update()
            last = record.step == recipe.steps
            evaluation = last or record.step % recipe.evaluate_every == 0 or record.step in recipe.snapshots
            checkpoint = last or record.step % recipe.checkpoint_every == 0
            if evaluation or checkpoint or record.step % recipe.log_every == 0:
                # Reading a loss waits for the device, so it happens here and not in every step.
                loss, stop = run.agree(losses, interruption.requested)
                speed = record.log_training(loss, len(losses), time.perf_counter() - measured_from)
                bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s")
                losses = []
                if evaluation:
                    run.evaluate()
                if checkpoint or stop:
                    save_checkpoint(run.output, run.accelerator, record.state(), recipe.keep_checkpoints)
                measured_from = time.perf_counter()  # evaluating and saving do not count as training time
    bar.close()
    if stop:
        raise KeyboardInterrupt
    run.score_whole()
    record.finish()


class Run:
    """One training run: the corpus as batches, the model, the optimizers, and the record of its progress."""

    def __init__(self, recipe: Recipe, output: Path, overwrite: bool = False, check_overlap: bool = True):
        """Without `check_overlap`, the corpus is not searched for passages that it shares with its validation split."""
        if recipe.start_from:
            check_checkpoint(recipe.start_from, ask_hub=True)
        model_config(recipe, vocab_size=1)  # refuses a wrong preset or field before the corpus is loaded
        self.recipe, self.output = recipe, output
        self.accelerator = build_accelerator(recipe, output)
        self.main = self.accelerator.is_main_process
        corpus = load_texts(recipe)
        resuming = bool(list_checkpoints(output)) and not overwrite
        self.corpus, earlier = check_run(recipe, corpus, self.accelerator.print, check_overlap and not resuming)
        sample = self.corpus.sample() if isinstance(corpus, Mixture) else self.corpus.train
        self.tokenizer = build_tokenizer(recipe, sample)
        self.batches = self.build_batches()
        set_seed(recipe.seed)
        self.model = build_model(recipe, self.tokenizer)
        config = self.model.config
        # The training loss is a mean over tokens; losses are reported per character.
        validation = self.corpus.validation
        self.tokens_per_character = len(encode_text(self.tokenizer, validation)) / len(validation)
        self.forward_options = {"use_cache": False}
        large = recipe.task == "next_token" and len(self.tokenizer) > LARGE_VOCABULARY
        if large and not config.final_logit_softcapping and hasattr(torch.nn, "LinearCrossEntropyOptions"):
            self.forward_options["skip_logits"] = True
        # A sharded model computes only when all processes call it together.
        self.sharded = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        if self.model.can_generate():
            self.model.generation_config = generation_config(config)
        if recipe.task != "next_token":
            self.tokenizer.padding_side = "right"  # an encoder's input begins at its first position
        self.epochs = recipe.steps * recipe.batch_size / getattr(self.batches, "windows", math.inf)
        patience = recipe.patience
        if patience is None:
            patience = PATIENCE if self.epochs > MANY_EPOCHS else 0
        self.record = RunRecord(output, recipe, patience, self.corpus, earlier, self.model, self.accelerator)

    def build_batches(self) -> Stream | Windows | Phases | Copy:
        """The training split as batches, one for each step."""
        recipe, accelerator = self.recipe, self.accelerator
        if recipe.stream:
            processes = (accelerator.process_index, accelerator.num_processes)
            sizes = (recipe.context, recipe.batch_size, recipe.stream_lanes)
            return Stream(self.corpus, self.tokenizer, *sizes, *processes)
        task = TASKS[recipe.task]
        if isinstance(self.corpus, Mixture):
            return mixture_batches(task, self.tokenizer, self.corpus, recipe)
        return task(self.tokenizer, self.corpus.train, recipe.context, recipe.batch_size, recipe.seed)

    def plan(self) -> str:
        """A summary of the run in three lines: the model, the data, and the loss to expect."""
        recipe, accelerator = self.recipe, self.accelerator
        tokens = recipe.steps * recipe.batch_size * recipe.context
        expected = "" if recipe.expected_loss is None else f"; expect a validation loss near {recipe.expected_loss:.2f}"
        if recipe.patience is None and self.record.patience:
            often = f"it reads the text {self.epochs:.0f} times"
            expected += f"\n{often}, and stops early after {PATIENCE} evaluations without a better loss"
        return (
            f"{recipe.start_from or recipe.preset}, {self.model.num_parameters():,} parameters, on {self.corpus.name} "
            f"({self.corpus.size}, {len(self.tokenizer)} tokens in the vocabulary)\n"
            f"{recipe.steps:,} steps of {recipe.batch_size} x {recipe.context} tokens ({tokens:,} in all) on "
            f"{accelerator.num_processes} x {accelerator.device.type}, precision {accelerator.mixed_precision}"
            f"{expected}\n"
            f"in {self.output}"
        )

    def open(self, overwrite: bool) -> bool:
        """Create the run's folder. Returns, in all processes, whether it already holds this run, finished."""
        finished = [self.main and open_run(self.output, self.recipe, self.corpus, overwrite)]
        return broadcast_object_list(finished)[0]

    def start(self) -> None:
        """Move everything to its device, and restore the last checkpoint if there is one."""
        if self.main:
            recover(self.output / BEST)
        self.accelerator.wait_for_everyone()
        choose_kernels(self.model, self.accelerator.device, self.recipe.context)
        if self.recipe.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()
        prepared = self.accelerator.prepare(self.model, *build_optimizers(self.model, self.recipe))
        self.model, self.optimizers = prepared[0], prepared[1:]
        self.forward = compiled(self.model, self.accelerator.device) if self.recipe.compile else self.model
        # The weights that are evaluated and saved: the model's own, or their moving average.
        self.scored = self.accelerator.unwrap_model(self.model)
        self.average = None
        if self.recipe.average_decay:
            self.average = AveragedModel(self.scored, multi_avg_fn=get_ema_multi_avg_fn(self.recipe.average_decay))
            self.accelerator.register_for_checkpointing(self.average)
            self.scored = self.average.module
        if self.recipe.stream:  # all other batches are a function of the step
            self.accelerator.register_for_checkpointing(self.batches)
        if self.accelerator.num_processes > 1:  # until here all drew the same numbers, and so have the same weights
            set_seed(self.recipe.seed, device_specific=True)
        checkpoints = list_checkpoints(self.output)
        self.record.resume(load_checkpoint(checkpoints[-1], self.accelerator) if checkpoints else None)
        settings = dataclasses.asdict(self.recipe)
        settings = {name: v if isinstance(v, int | float | str | bool) else str(v) for name, v in settings.items()}
        self.accelerator.init_trackers(self.output.name, config=settings)
        self.model.train()

    def step(self) -> torch.Tensor:
        """Take one optimizer step on this process's rows of the batch. Returns its mean loss, still on the device."""
        recipe, accelerator = self.recipe, self.accelerator
        scale = lr_scale(self.record.step, recipe)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * scale
        losses = []
        for inputs, weight in self.micro_batches(self.batches.at(self.record.step)):
            with accelerator.accumulate(self.model):
                loss = self.forward(**inputs, **self.forward_options).loss * weight
                accelerator.backward(loss)
                if accelerator.sync_gradients and recipe.gradient_clip:
                    accelerator.clip_grad_norm_(self.model.parameters(), recipe.gradient_clip)
                self.update()
                losses.append(loss.detach())
        if self.average:
            self.average.update_parameters(accelerator.unwrap_model(self.model))
        self.record.step += 1
        return torch.stack(losses).mean()

    def micro_batches(self, batch: dict[str, torch.Tensor]) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
        """This process's rows of a batch in micro-batches, with weights that make the averaged loss a per-token mean.

        The weight is 1 if all micro-batches have equally many targets, as windows of a text do.
        """
        accelerator, count = self.accelerator, self.recipe.gradient_accumulation_steps
        targets = int((batch["labels"] != IGNORED).sum())
        own_rows = slice(accelerator.process_index, None, accelerator.num_processes)
        own = {name: rows[own_rows].contiguous() for name, rows in batch.items()}
        for chunks in zip(*(rows.chunk(count) for rows in own.values()), strict=True):
            inputs = dict(zip(own, chunks, strict=True))
            weight = int((inputs["labels"] != IGNORED).sum()) * accelerator.num_processes * count / targets
            if accelerator.device.type == "cuda":  # only pinned memory is copied while the device computes
                inputs = {name: rows.pin_memory() for name, rows in inputs.items()}
            yield {name: rows.to(accelerator.device, non_blocking=True) for name, rows in inputs.items()}, weight

    def update(self) -> None:
        """Step the optimizers once the gradients of all micro-batches have been accumulated."""
        scaler = self.accelerator.scaler
        if scaler is not None and self.accelerator.sync_gradients:
            # Accelerate would update the scale after the first optimizer, and unscale the second one's gradients twice.
            for optimizer in self.optimizers:
                scaler.step(optimizer.optimizer)
            scaler.update()
        for optimizer in self.optimizers:
            if scaler is None:
                optimizer.step()
            optimizer.zero_grad()

    def agree(self, losses: list[torch.Tensor], stop_requested: bool) -> tuple[float, bool]:
        """Reduce over all processes: the mean loss of some steps in nats per character, and whether any should stop.

        Raises:
            Diverged: the mean is not a number.
        """
        own = torch.stack([torch.stack(losses).mean(), losses[0].new_tensor(float(stop_requested))])
        loss, stop = self.accelerator.reduce(own, "mean").tolist()
        return self.check(loss * self.tokens_per_character), stop > 0

    def check(self, loss: float) -> float:
        """Return the loss if it is a finite number.

        Raises:
            Diverged: it is not.
        """
        if math.isfinite(loss):
            return loss
        recipe = self.recipe
        rates = f"learning_rate {recipe.learning_rate:g}"
        if recipe.optimizer == "muon":
            rates += f", matrix_learning_rate {recipe.matrix_learning_rate:g}"
        raise Diverged(
            f"training has diverged: the loss is {loss} at step {self.record.step:,}; lower the rates ({rates}) or "
            "raise warmup_steps, and start again with --overwrite or another --output."
        )

    def evaluate(self) -> None:
        """Score the validation split, show a sample, and save the model if it is the best so far."""
        model, record, recipe = self.scored, self.record, self.recipe
        texts = self.corpus.scored(recipe.validation_characters)
        model.eval()
        scores = {}
        if recipe.task == "copy":
            loss, scores["exact_match"] = score_copies(model, self.batches)
        else:
            loss, scores = self.score(model, texts)
        self.check(loss)
        if model.config.feed_forward_type == "moe":
            shares = expert_load(model, self.tokenizer, "".join(texts.values()))
            scores["busiest_expert"] = float(shares.max())
        sample = write_sample(model, self.tokenizer, recipe, self.batches) if self.main or self.sharded else ""
        if self.main:
            tqdm.write(
                f"\nstep {record.step:,}: validation loss {loss:.4f} nats per character{describe_scores(scores)}\n"
                f"{printable(sample.strip())}\n"
            )
        better, snapshot = record.log_evaluation(loss, sample, **scores), record.step in recipe.snapshots
        weights = self.accelerator.get_state_dict(self.model) if self.sharded and (better or snapshot) else None
        if better and self.main:
            with writing(self.output / BEST) as folder:
                save_model(folder, model, self.tokenizer, weights=weights)
        if snapshot and self.main:
            save_snapshot(self.output, record.step, model, weights)
        record.save()
        model.train()

    def score(self, model: PreTrainedModel, texts: dict[str, str]) -> tuple[float, dict[str, float]]:
        """The loss over all texts in nats per character, and of each if there are several. The processes share the
        work.
        """
        process, processes = self.accelerator.process_index, self.accelerator.num_processes
        losses = {
            name: sum(gather_object([score_text(model, self.tokenizer, t, process=process, processes=processes)[0]]))
            for name, t in texts.items()
        }
        if len(texts) == 1:
            return next(iter(losses.values())), {}
        whole = sum(losses[name] * len(text) for name, text in texts.items()) / sum(map(len, texts.values()))
        return whole, {f"validation_loss_{name}": loss for name, loss in losses.items()}

    def score_whole(self) -> None:
        """Score the whole validation split with the best weights, if evaluations so far scored only a part of it."""
        recipe, texts = self.recipe, self.corpus.scored(None)
        if texts == self.corpus.scored(recipe.validation_characters):
            return
        self.accelerator.wait_for_everyone()  # the main process may still be writing the best weights
        if self.accelerator.distributed_type == DistributedType.FSDP:
            load_weights(self.model, load_model(self.output / BEST).state_dict() if self.main else {})
            best = self.scored
        else:
            best = load_model(self.output / BEST).to(self.accelerator.device)
            choose_kernels(best, self.accelerator.device, recipe.context)
        self.record.best_scores["partial_validation_loss"] = self.record.best_loss
        self.record.best_loss, scores = self.score(best, texts)
        self.record.best_scores |= scores

    def close(self) -> None:
        """Release the model and end the trackers."""
        self.model = self.forward = self.scored = self.average = self.optimizers = None
        self.accelerator.free_memory()
        for tracker in self.accelerator.trackers:
            tracker.finish()


def disconnect() -> None:
    """Leave the process group. Consecutive runs share one, so call this after the last.

    No model may be left: freeing DDP's last reference to the group holds Python's lock while it waits for a thread of
    gloo, which waits for that lock.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
