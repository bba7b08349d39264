"""List the corpora, and fetch some of them.

python -m training.corpora              # what there is, how large, and where each is cached
python -m training.corpora oz poetry    # fetch these now
"""

import argparse

from training.command import run_command
from training.data.corpora import NAMES, QUATRAINS, corpus_path, load_corpus
from training.data.library import SHELVES, is_there, shelf_folder
from training.data.works import COLLECTIONS, LICENCE, WORKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"corpora to load and check: {', '.join(NAMES)}")
    names = parser.parse_args().names
    print(f"{'name':19} {'characters':>10} {'distinct':>8}  what it is, and where it lies ({LICENCE}, all of them)")
    for name in names or NAMES:
        parts = {**COLLECTIONS, QUATRAINS: ("chinese-poems",)}.get(name, (name,))
        missing = [work for work in parts if work in WORKS and not corpus_path(work).exists()]
        what = f"{WORKS[name].title}; {corpus_path(name)}" if name in WORKS else ""
        if name in SHELVES:
            what = f"{SHELVES[name].title}; {shelf_folder(name)}"
        if name == QUATRAINS:
            what = "those of chinese-poems, each with the name of its form"
        if name in COLLECTIONS:
            what = f"{', '.join(parts[:3])}{f' and {len(parts) - 3} more' if parts[3:] else ''}, joined"
        if name in SHELVES and not is_there(name):
            missing = [name]
        if missing and not names:
            source = SHELVES[name].source if name in SHELVES else WORKS[missing[0]].url
            print(f"{name:19} {'':>10} {'':>8}  {what} (not fetched yet: {source})")
            continue
        corpus = load_corpus(name)
        details = (
            f"sha256 {corpus.sha256[:16]}: {len(corpus.train):,} train, {len(corpus.validation):,} validate"
            f"{'' if corpus.test is None else f', {len(corpus.test):,} test'}; {what}"
        )
        print(
            f"{name:19} {len(corpus.text):>10,} {len(set(corpus.text)):>8,}  "
            f"{details if names else what or 'verse written for this project; in the package'}"
        )


if __name__ == "__main__":
    run_command(main)
