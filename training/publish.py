"""Push a checkpoint, and a Space that serves it, to the Hugging Face Hub.

    python -m training.publish runs/oz-modern/best --repo USER/NAME
    python -m training.publish runs/oz-modern/best --repo USER/NAME --space USER/NAME
    python -m training.publish runs/oz-modern/best --repo USER/NAME --upload-only     # after a failed upload
    python -m training.publish runs/oz-modern/best --prepare FOLDER                   # write the folder, send nothing

Everything is written to `published/` beside the checkpoint and tested there before it is sent. Log in first with
`hf auth login`, or set HF_TOKEN.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData, metadata_load, metadata_save
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils.logging import disable_progress_bar

from modeling.interop.sentencepiece_model import is_character_level
from modeling.interop.verify import as_table, certify
from modeling.loading import find_file, load_model
from training.command import UserError, in_one_line, run_command
from training.engine.checkpoints import METRICS, RECORD, SNAPSHOTS, record_path, save_model, writing
from training.engine.provenance import find_record, stages_before
from training.loading import load_trained
from training.results import changes

PROJECT = Path(__file__).parent.parent
CARD = Path(__file__).with_name("model_card.md")
DOES = {
    "next_token": "continues a text",
    "masked": "fills gaps in a text, and gives each word a vector",
    "next_passage": "reads a passage and writes the next one",
    "copy": "copies what it reads",
}
WAITS = (1, 3, 9)  # seconds before each retry

TRY_MODEL = """
import sys
import transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = transformers.{auto_class}.from_pretrained(sys.argv[1], trust_remote_code=True)
inputs = tokenizer("The", return_tensors="pt")
model.generate(**inputs, max_new_tokens=8) if model.can_generate() else model(**inputs)
"""
TRY_SPACE = "from space.app import build_page; build_page()"
# The Space's app.py. The packages are beside it, the model is pinned to the revision that was pushed with it, and the
# caches of all libraries are in a temporary folder.
SPACE_START = """import os
import tempfile

os.environ.setdefault("OZYMANDIAS_MODEL", "{model}@{revision}")
folder = tempfile.mkdtemp(prefix="ozymandias-")
for name in ("HF_HOME", "XDG_CACHE_HOME", "GRADIO_TEMP_DIR", "MPLCONFIGDIR"):
    os.environ.setdefault(name, os.path.join(folder, name.lower()))

from space.app import main  # noqa: E402

main()
"""


def prepare_model(
    checkpoint: Path, folder: Path, name: str, half: bool, license: str | None = None, code: bool = True
) -> None:
    """Write the folder of a model repository: weights, tokenizer, code, run record and model card.

    Args:
        name: the model's name in the card: its Hub id, or a folder.
        half: store the weights in half precision.
        license: the Hub's name for the licence of the weights; by default the one that [`license_of`] finds.
        code: copy the model's code beside the weights. Without it, the folder loads only after `import modeling`.

    Raises:
        UserError: the checkpoint or its run record is missing or damaged, or the folder cannot be loaded.
    """
    path = record_path(checkpoint)
    if path is None:
        raise UserError(
            f"there is no run.json in or beside {checkpoint}, and the model card needs it; give runs/NAME/best."
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    tokenizer, model = load_trained(checkpoint)
    with writing(folder) as unfinished:
        save_model(unfinished, model, tokenizer, half)
        copy_records(path.parent, unfinished)
        saved = load_model(unfinished)
        auto_class = next(name for name in saved.config.auto_map if name.startswith("AutoModelFor"))
        certificate = as_table(certify(saved, tokenizer))
        level = "character-level" if is_character_level(tokenizer) else None
        license = license or license_of(record)
        model_card(record, name, license, auto_class, certificate, level, code).save(unfinished / "README.md")
        program = TRY_MODEL.format(auto_class=auto_class)
        if code:
            try_in_fresh_process(program, unfinished, cwd=None)
        else:
            remove_code(unfinished)
            try_in_fresh_process(f"import modeling\n{program}", unfinished, cwd=PROJECT)


def remove_code(folder: Path) -> None:
    """Remove the code from a checkpoint, and its mention from the config."""
    for file in folder.glob("*.py"):
        file.unlink()
    config = folder / "config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    del fields["auto_map"]
    config.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def copy_records(run: Path, folder: Path) -> None:
    """Copy what the Space shows of a run: its record, its validation losses and its snapshots."""
    shutil.copy(run / RECORD, folder)
    if (run / METRICS).is_file():
        lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
        scores = [
            {"step": s["step"], "validation_loss": s["validation_loss"]}
            for s in map(json.loads, lines)
            if "validation_loss" in s
        ]
        (folder / METRICS).write_text("".join(f"{json.dumps(score)}\n" for score in scores), encoding="utf-8")
    if (run / SNAPSHOTS).is_dir():
        shutil.copytree(run / SNAPSHOTS, folder / SNAPSHOTS)


def license_of(record: dict) -> str | None:
    """The licence of a run's weights: this project's, or that of the checkpoint that the run started from.

    It is never guessed: `None` if that checkpoint names none.
    """
    start = record["recipe"].get("start_from")
    if not start:
        return "apache-2.0"
    if card := find_file(start, "README.md"):
        return (metadata_load(card) or {}).get("license")
    base = find_record(start)
    return license_of(base) if base else None


def size_and_split(corpus: dict) -> tuple[str, str]:
    """The size of a corpus and its split, in words."""
    validation = f"{corpus['validation_characters']:,}"
    if "shards" in corpus:
        size = f"a stream of {corpus['bytes']:,} bytes in {corpus['shards']} shards"
        split = f"the first {validation} characters for validation, the rest for training"
    elif "parts" in corpus:
        size = f"{corpus['characters']:,} characters"
        split = f"a part of each corpus ({validation} characters in all) for validation, the rest for training"
    else:
        size = f"{corpus['characters']:,} characters"
        split = f"the first 90% of the characters for training, the last 10% ({validation}) for validation"
    return size, split


def model_card(
    record: dict,
    name: str,
    license: str | None,
    auto_class: str,
    certificate: str,
    level: str | None,
    code: bool = True,
) -> ModelCard:
    """Fill in the model card.

    Args:
        record: the run's record.
        auto_class: the class that loads the model.
        certificate: the table of `modeling.interop.verify`.
        level: a further tag, such as `character-level`.
        code: whether the code is beside the weights.
    """
    recipe, corpus = record["recipe"], record["corpus"]
    size, split = size_and_split(corpus)
    earlier = ", ".join(
        f"`{stage['name']}`" if stage["name"] else f"the unknown training data of `{stage['checkpoint']}`"
        for stage in stages_before(record)
    )
    data = ModelCardData(
        license=license,
        library_name="transformers",
        pipeline_tag="fill-mask" if auto_class == "AutoModelForMaskedLM" else "text-generation",
        tags=["ozymandias", *([level] if level else []), "from-scratch", "custom_code"],
    )
    return ModelCard.from_template(
        data,
        template_path=str(CARD),
        name=name,
        license=license,
        auto_class=auto_class,
        code=code,
        preset=recipe["preset"],
        start=recipe.get("start_from"),
        changes=changes(recipe["model"]),
        task=DOES[recipe.get("task", "next_token")],
        unit="character in a gap" if recipe.get("task") == "masked" else "character",
        context=recipe["context"],
        parameters=f"{record['parameters']:,}",
        corpus=corpus["name"],
        earlier=earlier,
        source=corpus["source"],
        size=size,
        split=split,
        sha256=corpus["sha256"][:16],
        steps=f"{record['best_step']:,}",
        tokens=f"{record['tokens']:,}",
        seconds=f"{record['training_seconds']:,.0f}",
        device=record["device"],
        first=f"{record['first_validation_loss']:.4f}",
        best=f"{record['best_validation_loss']:.4f}",
        versions=", ".join(f"{library} {version}" for library, version in record["versions"].items()),
        certificate=certificate,
        sample="\n".join(f"    {line}" for line in record["sample"].strip().splitlines()),
    )


def prepare_space(folder: Path, model: str, revision: str) -> None:
    """Write the folder of a Space: the app, the packages that it imports, requirements and front matter.

    Raises:
        UserError: the app does not start from that folder.
    """
    skipped = shutil.ignore_patterns("__pycache__", "recipes", "sampler.txt")
    with writing(folder) as unfinished:
        for package in ("modeling", "tokenizer", "training", "space"):
            shutil.copytree(PROJECT / package, unfinished / package, ignore=skipped)
        (unfinished / "space" / "README.md").rename(unfinished / "README.md")
        (unfinished / "space" / "requirements.txt").rename(unfinished / "requirements.txt")
        metadata_save(unfinished / "README.md", {**metadata_load(unfinished / "README.md"), "models": [model]})
        (unfinished / "app.py").write_text(SPACE_START.format(model=model, revision=revision), encoding="utf-8")
        try_in_fresh_process(TRY_SPACE, unfinished, cwd=unfinished)


def try_in_fresh_process(program: str, folder: Path, cwd: Path | None) -> None:
    """Run a program on a folder as someone would who has the folder but not the project, without a network.

    Raises:
        UserError: the program failed.
    """
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": home, "PYTHONPATH": ""}
        tried = subprocess.run(
            [sys.executable, "-c", program, str(folder.resolve())],
            cwd=cwd or home,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"the folder prepared in {folder} does not run ({reason}); nothing was sent.")


def upload(folder: Path, repo: str, repo_type: str, private: bool) -> str:
    """Upload a folder to the Hub, and create the repository if it does not exist. Returns the commit's id.

    Raises:
        UserError: the Hub refuses, or cannot be reached after several tries. The folder is kept.
    """
    api = HfApi()
    sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
    again = f"{folder} is ready: run the same command with --upload-only"
    insist(lambda: api.create_repo(repo, repo_type=repo_type, exist_ok=True, private=private, **sdk), repo, again)
    commit = insist(
        lambda: api.upload_folder(
            repo_id=repo, repo_type=repo_type, folder_path=str(folder), commit_message="Upload Ozymandias"
        ),
        repo,
        again,
    )
    print(f"{api.endpoint}/{'spaces/' if repo_type == 'space' else ''}{repo} is at {commit.oid}")
    return commit.oid


def insist(call: Callable, repo: str, again: str):
    """Call a function of the Hub's client, and retry if the Hub or the network fails.

    Raises:
        UserError: the Hub refuses, or all tries failed. `again` is the sentence that says how to continue.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise UserError(
                    f"the Hub does not let you write to {repo} ({status}); log in with `hf auth login` or set HF_TOKEN "
                    f"to a token that may write there. {again}."
                ) from None
            if status < 500 and status != 429:
                raise UserError(f"the Hub refuses {repo}: {in_one_line(error)[:300]} {again}.") from None
            problem = error
        except Exception as error:  # the client passes on what its HTTP library raises, which differs by version
            problem = error
        if wait is not None:
            print(f"the Hub did not answer ({type(problem).__name__}); trying again in {wait} s")
            time.sleep(wait)
    raise UserError(
        f"{repo} could not be uploaded ({in_one_line(problem)[:200]}). {again} when the network is back."
    ) from problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint's folder, such as runs/NAME/best")
    parser.add_argument("--repo", metavar="USER/NAME", help="the model repository")
    parser.add_argument("--space", metavar="USER/NAME", help="the Space that serves it")
    parser.add_argument("--private", action="store_true", help="make new repositories private (default: public)")
    parser.add_argument(
        "--license", help="licence of the weights (default: that of the checkpoint they began as, else apache-2.0)"
    )
    parser.add_argument("--half", action="store_true", help="store the weights in half precision (default: as trained)")
    parser.add_argument(
        "--prepare", type=Path, metavar="FOLDER", help="write the model's folder there and send nothing"
    )
    parser.add_argument(
        "--no-code",
        action="store_true",
        help="with --prepare: leave out the model's code, for a folder that is loaded after `import modeling`",
    )
    parser.add_argument("--upload-only", action="store_true", help="send what an earlier call prepared, as it is")
    arguments = parser.parse_args()
    disable_progress_bar()
    if not arguments.checkpoint.is_dir():
        raise UserError(f"there is no checkpoint at {arguments.checkpoint}; give a folder such as runs/NAME/best.")
    if arguments.no_code and not arguments.prepare:
        raise UserError("a pushed model needs its code; give --no-code only with --prepare FOLDER.")
    if arguments.prepare:
        name, code = arguments.repo or str(arguments.prepare), not arguments.no_code
        prepare_model(arguments.checkpoint, arguments.prepare, name, arguments.half, arguments.license, code)
        print(f"prepared and tried: {arguments.prepare}")
        return
    if not arguments.repo:
        raise UserError("say where the model goes, --repo USER/NAME, or --prepare FOLDER to send nothing.")

    published = arguments.checkpoint.parent / "published"
    model_folder, space_folder = published / "model", published / "space"
    if not arguments.upload_only:
        prepare_model(arguments.checkpoint, model_folder, arguments.repo, arguments.half, arguments.license)
    elif not model_folder.is_dir():
        raise UserError(f"nothing was prepared yet in {model_folder}; leave --upload-only out.")
    revision = upload(model_folder, arguments.repo, "model", arguments.private)
    if arguments.space:
        prepare_space(space_folder, arguments.repo, revision)
        upload(space_folder, arguments.space, "space", arguments.private)


if __name__ == "__main__":
    run_command(main)
