"""How often a body model finds the tissue of simulated cells, at which share of the votes.

Run: ``python benchmarks/tissue_bar.py MODEL --profiles TABLE.h5ad --out FILE.json``. Cells of each
data set of a table of profiles are simulated with another seed than in training, and mixed four
times at random; the rows say what :meth:`Tissues.find` says of 300 cells. Data sets of tissues that
the model does not know show how often one is taken for another.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from scbignn_infer import Annotator, InputError
from scbignn_infer.annotation.tissues import Tissues, Votes
from scbignn_infer.query.readers import MatrixQuery
from scbignn_training.profiles import read_profiles
from scbignn_training.simulate import Simulation, simulate

CELLS, MIXTURES, OF_EACH, SEED = 300, 4, 16, 99


def rows_of(annotator: Annotator, profiles: Any, chance: np.random.Generator) -> list[Any]:
    """Return what is found for mixtures of the cells of one data set."""
    study = simulate(profiles, Simulation(cells=OF_EACH), seed=SEED)
    try:
        choice = annotator.choose(MatrixQuery(study.counts, profiles.symbols))
    except InputError:
        return []
    _, log_p = annotator.pair.gene_level(choice.panel).label(study.counts)
    types, code = np.unique(study.labels.astype(str), return_inverse=True)
    tissues, rows = Tissues.of(annotator.bundle.spec), []
    for _ in range(MIXTURES):
        weight = chance.dirichlet(np.full(len(types), 0.5))[code]
        some = chance.choice(len(code), CELLS, p=weight / weight.sum())
        found = tissues.find(Votes.of(log_p[some], np.zeros(CELLS, dtype=bool)))
        published = sorted(set(profiles.tissues.astype(str)))
        rows.append({"set": profiles.name, "tissues": published, **msgspec.to_builtins(found)})
    return rows


def main() -> None:
    """Find the tissue of all data sets and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--profiles", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    annotator = Annotator.load(arguments.model, device="cpu", threads=1)
    chance = np.random.default_rng(0)
    rows = [r for p in read_profiles(arguments.profiles) for r in rows_of(annotator, p, chance)]
    for row in rows:
        print(row["set"], row.get("how"), row.get("chosen", []), row.get("shares", {}))
    arguments.out.write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
