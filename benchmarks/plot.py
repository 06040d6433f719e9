"""Draw the quality plot again from the rows that `benchmarks/quality.py` wrote.

python benchmarks/plot.py benchmarks/results/quality.json [--out quality.svg]
"""

import argparse
import json
from pathlib import Path

from morse_engine.evaluation.figures import quality_plot


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("rows", type=Path, help="the .json file of the rows")
    parser.add_argument("--out", type=Path, help="default: a .png and a .svg beside the rows")
    args = parser.parse_args(arguments)
    rows = [row for row in json.loads(args.rows.read_text()) if row["bench"] == "quality"]
    for path in [args.out] if args.out else [args.rows.with_suffix(s) for s in (".png", ".svg")]:
        quality_plot(rows, path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
