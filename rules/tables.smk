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
        code=code_of("table1.py"),
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
        code=code_of("table2.py"),
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
        code=code_of("claims.py"),
        spec=config["tables"]["table1"],
        labels=labels(config["tables"]["table1"]["experiment"]),
    script:
        "../scripts/claims.py"


rule tables:
    """Both tables."""
    input:
        rules.table1.output,
        rules.table2.output,
        rules.claims.output,
