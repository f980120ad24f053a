rule table1:
    """Table 1: accuracy per classifier, defense and attack; with paired tests and the paper's claims."""
    input:
        predictions=f"results/predictions/{config['tables']['table1']['experiment']}.parquet",
        published=workflow.source_path("../resources/published/table1.csv"),
    output:
        csv="results/tables/table1.csv",
        markdown=report(
            "results/tables/table1.md",
            caption="../report/table1.rst",
            category="t-DIPs",
            labels={"artifact": "Table 1", "shows": "accuracy of every defense"},
        ),
        latex="results/tables/table1.tex",
        comparisons="results/tables/table1_comparisons.csv",
    log:
        "logs/table1.log",
    benchmark:
        "benchmarks/table1.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("table1.py"),
        spec=table1_spec(),
        labels=labels(config["tables"]["table1"]["experiment"]),
    script:
        "../scripts/table1.py"


rule table2:
    """Table 2: success rate and noise level of every attack on the autoencoders' classifiers."""
    input:
        predictions=f"results/predictions/{config['tables']['table2']['experiment']}.parquet",
        published=workflow.source_path("../resources/published/table2.csv"),
    output:
        csv="results/tables/table2.csv",
        markdown=report(
            "results/tables/table2.md",
            caption="../report/table2.rst",
            category="FUNN",
            labels={"artifact": "Table 2", "shows": "attack success rates"},
        ),
        latex="results/tables/table2.tex",
    log:
        "logs/table2.log",
    benchmark:
        "benchmarks/table2.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("table2.py"),
        spec=table2_spec(),
        labels=labels(config["tables"]["table2"]["experiment"]),
    script:
        "../scripts/table2.py"


rule claims:
    """The paper's claims, each checked by machine on the published and on the measured numbers."""
    input:
        table1="results/tables/table1.csv",
        curves="results/figures/figure6.csv",
        published=workflow.source_path("../resources/published/table1.csv"),
    output:
        report(
            "results/tables/claims.csv",
            caption="../report/claims.rst",
            category="t-DIPs",
            labels={"artifact": "Claims", "shows": "what holds here and in print"},
        ),
    log:
        "logs/claims.log",
    benchmark:
        "benchmarks/claims.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("claims.py"),
        spec=config["tables"]["table1"],
        labels=labels(config["tables"]["table1"]["experiment"]),
    script:
        "../scripts/claims.py"


rule overview:
    """Every cell of every experiment, also of those that no table of the papers shows."""
    input:
        collect("results/predictions/{experiment}.parquet", experiment=EXPERIMENTS),
    output:
        report(
            "results/tables/overview.csv",
            caption="../report/overview.rst",
            category="Run",
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


rule tables:
    """Both tables, and the overview of everything."""
    input:
        rules.overview.output,
        rules.table1.output,
        rules.table2.output,
        rules.claims.output,


rule plan:
    """What the configuration will cost, before it is run: jobs, optimizer steps, bytes, hours."""
    input:
        benchmark=str(ROOT / "benchmarks/restoration.csv"),
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
        experiments=planned(),
    script:
        "../scripts/plan.py"


rule reproduction:
    """docs/reproduction.md: published and measured, cell by cell, from reproduction/measured/."""
    input:
        measured=sorted(map(str, ROOT.glob("reproduction/measured/*.*"))),
        texts=[str(ROOT / f"reproduction/{name}") for name in ("config.yaml", "reasons.toml")],
    output:
        str(ROOT / "docs/reproduction.md"),
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
