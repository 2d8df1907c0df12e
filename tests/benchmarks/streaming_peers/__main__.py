"""A large model's files with random weights, and tokens a second of programs that others use when memory is too small:

    python -m tests.benchmarks.streaming_peers gguf --shape llama-3.1-70b --out FILE --yes
    python -m tests.benchmarks.streaming_peers llamacpp --model FILE [--ram 3GiB] --tokens 8
    python -m tests.benchmarks.streaming_peers bf16 --shape llama-3.1-8b --out DIR --yes
    python -m tests.benchmarks.streaming_peers accelerate --model DIR --ram 3GiB --tokens 8

In an environment of its own: pip install torch==2.13.0 transformers accelerate safetensors gguf llama-cpp-python. The page
cache of the whole machine is dropped before a measurement (root). --ram puts the program into a memory cgroup of that size
(root), where its page cache counts too: a small machine is measured on a large one. One line of JSON comes last.
"""

import argparse
import sys
from pathlib import Path

from tests.benchmarks.streaming_peers import limit
from tests.benchmarks.streaming_peers.shape import SHAPES, shape_of


def make_gguf(chosen: argparse.Namespace) -> None:
    from tests.benchmarks.streaming_peers import gguf_file

    gguf_file.make(shape_of(chosen.shape), chosen.out, chosen.yes)


def make_folder(chosen: argparse.Namespace) -> None:
    from tests.benchmarks.streaming_peers import folder

    folder.make(shape_of(chosen.shape), chosen.out, chosen.yes)


def run_llamacpp(chosen: argparse.Namespace) -> None:
    from tests.benchmarks.streaming_peers import mapped

    mapped.run(chosen.model, chosen.ram, chosen.tokens).show()


def run_accelerate(chosen: argparse.Namespace) -> None:
    from tests.benchmarks.streaming_peers import offloaded

    offloaded.run(chosen.model, chosen.ram, chosen.tokens).show()


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {limit.PACKAGE}", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, make in (("gguf", make_gguf), ("bf16", make_folder)):
        command = commands.add_parser(name)
        command.add_argument("--shape", required=True, help=f"{', '.join(SHAPES)}, or a config.json")
        command.add_argument("--out", required=True, type=Path)
        command.add_argument("--yes", action="store_true", help="take the disk it needs")
        command.set_defaults(run=make, ram=None)
    for name, run in (("llamacpp", run_llamacpp), ("accelerate", run_accelerate)):
        command = commands.add_parser(name)
        command.add_argument("--model", required=True, type=Path)
        command.add_argument("--ram", type=limit.amount, required=run is run_accelerate, help="bytes, or 3GiB")
        command.add_argument("--tokens", type=int, default=8)
        command.add_argument("--limited", action="store_true", help=argparse.SUPPRESS)  # it is in its cgroup already
        command.set_defaults(run=run)
    return parser


def main() -> None:
    chosen = options().parse_args()
    if chosen.ram is not None and not chosen.limited:
        sys.exit(limit.again([*sys.argv[1:], "--limited"], chosen.ram))
    try:
        chosen.run(chosen)
    except ImportError as error:
        sys.exit(f"{error}.\nan environment with what --help names")


if __name__ == "__main__":
    main()
