"""Keep results with the repository: copy a folder of results to docs/results, its arrays as float32.

cma.py and stackplot.py draw these if there are no others.

Reads   FROM/<dataset><nz>/*.npy, rates that a compression script measured, and *.csv, curves of a training script,
        and the commit, processor and versions that made each
Writes  docs/results/<dataset><nz>/, the same files
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

from utils import cli, paths, results


@cli.script
def main(argv=None):
    """Copy everything that the figures are drawn from."""
    parser = cli.parser(__doc__)
    parser.add_argument("folder", metavar="FROM", type=Path, help="a folder of results, e.g. plots")
    parser.add_argument("--to", type=Path, default=results.SHIPPED, help="write here")
    args = parser.parse_args(argv)
    names = rf"({'|'.join(results.SCHEMES)})_.*({'|'.join(results.MEASURES)})\.npy|.*\.csv"
    for (dataset, nz), files in results.found([args.folder], names).items():
        for source in files:
            with paths.replacing(args.to / f"{dataset}{nz}" / source.name) as file:
                if source.suffix == ".npy":
                    np.save(file, results.load_array(source).astype(np.float32))
                else:
                    file.write(source.read_bytes())
        print(f"{dataset}{nz}: {cli.counted(len(files), 'file')}")


if __name__ == "__main__":
    main()
