"""The paper's claims, checked on the published and on the measured numbers."""

import pandas as pd

from tandem_defense import logs
from tandem_defense.evaluation.claims import check_claims
from tandem_defense.evaluation.published import read_table
from tandem_defense.files import made_by

with logs.capture(snakemake.log[0]):
    published = read_table(snakemake.input.published, ["accuracy"])
    measured = read_table(snakemake.input.table1, ["accuracy"], made_by("table1"))
    curves = read_table(snakemake.input.curves, ["accuracy"], made_by("curve"))
    labels = snakemake.params.labels
    here = check_claims(measured, curves, labels, late=snakemake.params.spec["iterations"])
    print_ = check_claims(published.assign(published=published["accuracy"]), column="published")
    tables = {"published": print_, "measured": here}
    pd.concat(tables, names=["numbers"]).reset_index(level=0).to_csv(
        snakemake.output[0], index=False
    )
