"""List the corpora, or download some of them.

python -m training.corpora              # all corpora, with their sizes and where they are cached
python -m training.corpora oz poetry    # download these now
python -m training.corpora --sizes      # the table of the library's shelves in docs/library.md
"""

import argparse

from training.command import run_command
from training.data.corpora import NAMES, QUATRAINS, corpus_path, load_corpus
from training.data.library import (
    SHELVES,
    SPLITS,
    SUBSETS,
    check_shelf,
    is_there,
    read_split,
    shelf_folder,
    shelf_source,
)
from training.data.works import COLLECTIONS, LICENCE, WORKS


def sizes() -> str:
    """The table of the library's shelves, in Markdown."""
    rows = ["| shelf | train | validation | test | distinct characters | sha256 |", "|---|---|---|---|---|---|"]
    for name in (*SHELVES, *SUBSETS):
        check_shelf(name)
        cells, letters = [], set()
        for split in SPLITS:
            texts = [document.text for document in read_split(name, split)]
            cells.append(f"{len(texts):,} / {sum(map(len, texts)):,}")
            letters.update(*texts)
        sha256 = f"`{SHELVES[name].sha256[:16]}`" if name in SHELVES else f"as `{SUBSETS[name]}`"
        rows.append(f"| `{name}` | {' | '.join(cells)} | {len(letters)} | {sha256} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"corpora to download and check: {', '.join(NAMES)}")
    parser.add_argument("--sizes", action="store_true", help="print the table of the library's shelves")
    arguments = parser.parse_args()
    if arguments.sizes:
        print(sizes())
        return
    names = arguments.names
    print(f"{'name':19} {'characters':>10} {'distinct':>8}  what it is, and where it is stored (all: {LICENCE})")
    for name in names or NAMES:
        parts = {**COLLECTIONS, QUATRAINS: ("chinese-poems",)}.get(name, (name,))
        missing = [work for work in parts if work in WORKS and not corpus_path(work).exists()]
        what = f"{WORKS[name].title}; {corpus_path(name)}" if name in WORKS else ""
        shelf = SUBSETS.get(name, name)
        if shelf in SHELVES:
            what = f"{shelf_source(name)}; {shelf_folder(shelf)}"
        if name == QUATRAINS:
            what = "the quatrains of chinese-poems, each with the name of its form"
        if name in COLLECTIONS:
            what = f"{', '.join(parts[:3])}{f' and {len(parts) - 3} more' if parts[3:] else ''}, joined"
        if shelf in SHELVES and not is_there(shelf):
            missing = [shelf]
        if missing and not names:
            source = SHELVES[shelf].source if shelf in SHELVES else WORKS[missing[0]].url
            print(f"{name:19} {'':>10} {'':>8}  {what} (not downloaded yet: {source})")
            continue
        corpus = load_corpus(name)
        details = (
            f"sha256 {corpus.sha256[:16]}: {len(corpus.train):,} training, {len(corpus.validation):,} validation"
            f"{'' if corpus.test is None else f', {len(corpus.test):,} test'}; {what}"
        )
        print(
            f"{name:19} {len(corpus.text):>10,} {len(set(corpus.text)):>8,}  "
            f"{details if names else what or 'verse written for this project, part of the package'}"
        )


if __name__ == "__main__":
    run_command(main)
