"""``python -m experiments.figures runs/table7-laptop-synthetic``: the figures of a sweep, as PNG and SVG."""

import argparse
import sys
from pathlib import Path

from experiments.figures import all as figures
from experiments.figures import style
from experiments.table7.rows import choose_shown, collect_some
from proteinlm.launch import entry


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.figures", description="Draw the figures of a sweep.")
    parser.add_argument("directory", type=Path, help="of a sweep: one directory per row")
    parser.add_argument("--output", type=Path, help="where to; by default figures/ in it")
    options = parser.parse_args(arguments)
    rows = choose_shown(collect_some(options.directory))
    output = options.output or options.directory / "figures"
    output.mkdir(parents=True, exist_ok=True)
    with style.figure_style():
        for drawing in figures.of(rows):
            made = drawing.draw(False)
            if made is None:
                print(f"left out: {drawing.name}: the records do not have what it needs", file=sys.stderr)
                continue
            images = style.save(made, output / drawing.name)
            print(f"written: {images[0]}, .svg")
    return 0


if __name__ == "__main__":
    entry.command(main)
