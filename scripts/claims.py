"""The paper's claims, checked on the published and on the measured numbers."""

import pandas as pd

from tandem_defense import logs
from tandem_defense.evaluation.claims import check_claims

with logs.capture(snakemake.log[0]):
    measured = pd.read_csv(snakemake.input.table1)
    published = pd.read_csv(snakemake.input.published)
    curves = pd.read_csv(snakemake.input.curves)
    labels = snakemake.params.labels
    here = check_claims(measured, curves, labels, late=snakemake.params.spec["iterations"])
    print_ = check_claims(published.assign(published=published["accuracy"]), column="published")
    tables = {"published": print_, "measured": here}
    pd.concat(tables, names=["numbers"]).reset_index(level=0).to_csv(
        snakemake.output[0], index=False
    )
