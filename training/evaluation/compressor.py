"""How well a compressor from the 1990s predicts a text: a baseline for language models.

    python -m training.evaluation.compressor oz poetry

PPMd predicts each byte from those before it and learns as it reads. The compressed size of the whole text minus that of
its first 90% is the cost of the last 10%, given in nats per character like a model's loss. Unlike a trained model, it
keeps learning while it reads those 10%. Source: Shkarin, "PPM: One Step to Practicality", 2002; variant H of pyppmd.
"""

import argparse
import math

from tqdm import tqdm

from training.command import UserError, run_command
from training.data.corpora import NAMES, Corpus, load_corpus

ORDERS = range(2, 17)  # bytes of context
MEMORY = (1 << 32) - (1 << 20)  # bytes, close to PPMd's maximum; when they are full it starts over


def compressed_size(text: str, order: int) -> int:
    """The size in bytes of a text compressed by PPMd.

    Raises:
        UserError: pyppmd is not installed.
    """
    try:
        import pyppmd
    except ImportError:
        raise UserError("pyppmd is not installed; install it: pip install pyppmd") from None
    return len(pyppmd.compress(text.encode(), max_order=order, mem_size=MEMORY))


def ppmd_loss(corpus: Corpus, orders: list[int] | range = ORDERS) -> tuple[float, int]:
    """The loss on the validation split in nats per character at the best order, and that order."""
    whole, train = corpus.text, corpus.text[: len(corpus.text) - len(corpus.validation)]
    return min(
        (
            (compressed_size(whole, order) - compressed_size(train, order)) * 8 * math.log(2) / len(corpus.validation),
            order,
        )
        for order in tqdm(orders, desc=f"PPMd on {corpus.name}", unit="order", delay=2, leave=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", metavar="CORPUS", help=f"{', '.join(NAMES)}, or one of your own")
    parser.add_argument("--orders", help="bytes of context to try, separated by commas (default: 2 to 16)")
    arguments = parser.parse_args()
    orders = [int(order) for order in arguments.orders.split(",")] if arguments.orders else ORDERS
    for name in arguments.corpora:
        loss, order = ppmd_loss(load_corpus(name), orders)
        print(f"{name}: {loss:.4f} nats per character, order {order}")


if __name__ == "__main__":
    run_command(main)
