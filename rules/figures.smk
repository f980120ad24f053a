rule curve:
    """Figures 3 and 6: accuracy against the number of iterations, with the curves as CSV."""
    input:
        predictions=lambda w: f"results/predictions/{config['figures'][w.figure]['experiment']}.parquet",
    output:
        pdf="results/figures/{figure}.pdf",
        png=report(
            "results/figures/{figure}.png",
            caption="../report/curve.rst",
            category="t-DIPs",
            labels={"artifact": "{figure}", "shows": "accuracy against iterations"},
        ),
        csv="results/figures/{figure}.csv",
    log:
        "logs/{figure}.log",
    benchmark:
        "benchmarks/curve/{figure}.tsv"
    wildcard_constraints:
        figure="figure3|figure6",
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("curve.py"),
        spec=lambda w: figure_spec(w.figure),
        labels=lambda w: labels(config["figures"][w.figure]["experiment"]),
    script:
        "../scripts/curve.py"


rule figure7:
    """Figure 7: original, attacked, restored by DIP and by t-DIPs, side by side."""
    input:
        **panel_files("figure7", "dip", "tdips"),
    output:
        pdf="results/figures/figure7.pdf",
        png=report(
            "results/figures/figure7.png",
            caption="../report/figure7.rst",
            category="t-DIPs",
            labels={"artifact": "figure7", "shows": "restored images"},
        ),
    log:
        "logs/figure7.log",
    benchmark:
        "benchmarks/figure7.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **panel_params("figure7"),
    script:
        "../scripts/figure7.py"


rule figure8:
    """Figure 8: class activation maps of original, attacked and restored images."""
    input:
        **panel_files("figure8", "tdips"),
    output:
        pdf="results/figures/figure8.pdf",
        png=report(
            "results/figures/figure8.png",
            caption="../report/figure8.rst",
            category="t-DIPs",
            labels={"artifact": "figure8", "shows": "class activation maps"},
        ),
    log:
        "logs/figure8.log",
    benchmark:
        "benchmarks/figure8.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        **panel_params("figure8"),
    script:
        "../scripts/figure8.py"


rule funn_figure2:
    """FUNN's Figure 2: DeepFool's examples against the classic autoencoder and against FUNN."""
    input:
        images=f"results/images/{FUNN2['experiment']}/test.safetensors",
        classic=adversarial_file(FUNN2, FUNN2["classic"]),
        funn=adversarial_file(FUNN2, FUNN2["funn"]),
    output:
        pdf="results/figures/funn_figure2.pdf",
        png=report(
            "results/figures/funn_figure2.png",
            caption="../report/funn_figure2.rst",
            category="FUNN",
            labels={"artifact": "funn_figure2", "shows": "DeepFool's examples"},
        ),
    log:
        "logs/funn_figure2.log",
    benchmark:
        "benchmarks/funn_figure2.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("funn_figure2.py"),
        spec=FUNN2,
        labels=labels(FUNN2["experiment"]),
    script:
        "../scripts/funn_figure2.py"


rule figures:
    """Every figure."""
    input:
        collect(
            "results/figures/{figure}.{format}",
            figure=["figure3", "figure6", "figure7", "figure8", "funn_figure2"],
            format=["pdf", "png"],
        ),


rule tdips:
    """Every artifact of the t-DIPs paper."""
    input:
        rules.table1.output,
        rules.claims.output,
        collect(
            "results/figures/{figure}.{format}",
            figure=["figure3", "figure6", "figure7", "figure8"],
            format=["pdf", "png"],
        ),


rule funn:
    """Every artifact of the FUNN paper."""
    input:
        rules.table2.output,
        rules.funn_figure2.output,


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
        root=str(ROOT),
    script:
        "../scripts/provenance.py"


rule timing:
    """Where the time went: wall time, memory and load of all jobs, per rule."""

    # A benchmark file is no declared output. All other results are inputs instead, so that this
    # runs after everything, and again after any change, on the files that are there by then.
    input:
        rules.tables.input,
        rules.figures.input,
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
