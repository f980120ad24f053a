"""The run as a whole: overview, plan, provenance, timing, and the page of what reproduces."""


rule overview:
    """Every cell of every experiment, also of those that no table of the papers shows."""
    input:
        collect(demand.FILES["predictions"], experiment=EXPERIMENTS),
    output:
        report(
            "results/tables/overview.csv",
            caption="../report/overview.rst",
            category="Summary",
            labels={"artifact": "Overview", "shows": "every cell of every experiment"},
        ),
    log:
        "logs/overview.log",
    benchmark:
        "benchmarks/overview.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("overview.py"),
        experiments=list(EXPERIMENTS),
    script:
        "../scripts/overview.py"


# Tables of claims, and the experiment of each.
CLAIMS = {
    name: entry["experiment"]
    for name, entry in config.get("tables", {}).items()
    if entry["kind"] in ("claims", "funn_claims")
}


rule summary:
    """What came out, in about ten lines: the report's first page shows it."""
    input:
        overview=rules.overview.output[0],
        claims=[f"results/tables/{name}.csv" for name in CLAIMS],
    output:
        report(
            "results/summary.rst",
            caption="../report/summary.rst",
            category="Summary",
            labels={"artifact": "Summary", "shows": "what came out"},
        ),
    log:
        "logs/summary.log",
    benchmark:
        "benchmarks/summary.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("summary.py"),
        sheets=GALLERY.sheets(),
        claims=list(CLAIMS.values()),
    script:
        "../scripts/summary.py"


rule plan:
    """What the configuration will cost, before it is run: jobs, optimizer steps, bytes, hours."""
    input:
        benchmark=str(ROOT / "performance/restoration.csv"),
    output:
        csv="results/tables/plan.csv",
        markdown="results/tables/plan.md",
    log:
        "logs/plan.log",
    benchmark:
        "benchmarks/plan.tsv"
    localrule: True
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("plan.py"),
        experiments={name: work.work(found) for name, found in EXPERIMENTS.items()},
    script:
        "../scripts/plan.py"


rule provenance:
    """Versions, device, seeds, configuration and revision behind the results."""
    input:
        rules.tables.input,
        rules.figures.input,
    output:
        "results/provenance.json",
    log:
        "logs/provenance.log",
    benchmark:
        "benchmarks/provenance.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("provenance.py"),
        config=config,
    script:
        "../scripts/provenance.py"


rule crate:
    """The finished run as an RO-Crate: its files and their hashes, adversarial images included."""
    input:
        provenance=rules.provenance.output[0],
        results=[
            *rules.predictions.input,
            rules.overview.output[0],
            *rules.gallery.output,
            *collect("results/tables/{table}.csv", table=config.get("tables", {})),
            *collect(
                "results/figures/{figure}.{ending}",
                figure=config.get("figures", {}),
                ending=["csv", "pdf", "png"],
            ),
            *(
                file
                for experiment in EXPERIMENTS.values()
                for file in experiment.attacked_files()
                if config.get("keep_adversarial", True)
            ),
        ],
    output:
        "results/ro-crate-metadata.json",
    log:
        "logs/crate.log",
    benchmark:
        "benchmarks/crate.tsv"
    localrule: True
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("crate.py"),
    script:
        "../scripts/crate.py"


rule timing:
    """Where the time went: wall time, memory and load of all jobs, per rule."""

    # A benchmark file is no declared output. All other results are inputs instead, so that this
    # runs after everything, and again after any change, on the files that are there by then.
    input:
        rules.tables.input,
        rules.figures.input,
        rules.gallery.output,
        rules.summary.output,
        rules.provenance.output,
    output:
        csv="results/tables/timing.csv",
        markdown=report(
            "results/tables/timing.md",
            caption="../report/timing.rst",
            category="Run",
            labels={"artifact": "Timing", "shows": "where the time went"},
        ),
    log:
        "logs/timing.log",
    benchmark:
        "benchmarks/timing.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("timing.py"),
    script:
        "../scripts/timing.py"


rule reproduction:
    """docs/reproduction.md and its details: published and measured, from reproduction/measured/."""
    input:
        measured=sorted(map(str, ROOT.glob("reproduction/measured/*.*"))),
        speed=str(ROOT / "performance/threads.csv"),
        texts=[str(ROOT / f"reproduction/{name}") for name in ("config.yaml", "reasons.toml")],
    output:
        page=str(ROOT / "docs/reproduction.md"),
        details=str(ROOT / "docs/reproduction_details.md"),
    log:
        "logs/reproduction.log",
    benchmark:
        "benchmarks/reproduction.tsv"
    localrule: True
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(10),
    params:
        code=code("reproduction.py"),
    script:
        "../scripts/reproduction.py"
