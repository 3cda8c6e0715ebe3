"""Keep results with the repository: copy a folder of results to docs/results, its arrays as float32.

cma.py and stackplot.py draw these if there are no others.

Reads   FROM/<dataset><nz>/*.npy, rates that a compression script measured, and *.csv, curves of a training script
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
    found = results.found([args.folder], lambda name: results.parse(name) or name.endswith(".csv"))
    if not found:
        raise cli.UserError(f"{args.folder} has no results; they are what the compression and training scripts write")
    for (dataset, nz), (folder, names) in found.items():
        for name in names:
            source = folder / name
            with paths.replacing(results.folder(dataset, nz, args.to) / name) as file:
                if results.parse(name):
                    np.save(file, results.load_array(source).astype(np.float32))
                else:
                    file.write(source.read_bytes())
        print(f"{dataset}{nz}: {len(names)} files")


if __name__ == "__main__":
    main()
