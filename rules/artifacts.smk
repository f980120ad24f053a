"""Tables and figures: one rule for all kinds of each, under the artifact's own name."""

TABLES = artifacts.of(config, "tables")
FIGURES = artifacts.of(config, "figures")
GALLERY = artifacts.Gallery(EXPERIMENTS)


for table in TABLES:

    rule:
        """A table of the configuration: CSV, Markdown and LaTeX."""
        name:
            table.name
        input:
            **table.files(),
        output:
            csv=f"results/tables/{table.name}.csv",
            markdown=report(
                f"results/tables/{table.name}.md",
                caption=table.caption(ROOT),
                category=table.category,
                labels={"artifact": table.label, "kind": f"table, {table.entry['kind']}"},
            ),
            latex=f"results/tables/{table.name}.tex",
        log:
            f"logs/tables/{table.name}.log",
        benchmark:
            f"benchmarks/tables/{table.name}.tsv"
        conda:
            f"../envs/{table.environment}.yaml"
        resources:
            mem_mb=growing(4000),
            runtime=growing(30),
        params:
            **table.params(ROOT),
            code=stale.code("table.py", *table.classes()),
        script:
            "../scripts/table.py"


for figure in FIGURES:

    rule:
        """A figure of the configuration: PDF, PNG, and what it shows as CSV."""
        name:
            figure.name
        input:
            **figure.files(),
        output:
            csv=f"results/figures/{figure.name}.csv",
            pdf=f"results/figures/{figure.name}.pdf",
            png=report(
                f"results/figures/{figure.name}.png",
                caption=figure.caption(ROOT),
                category=figure.category,
                labels={"artifact": figure.label, "kind": f"figure, {figure.entry['kind']}"},
            ),
        log:
            f"logs/figures/{figure.name}.log",
        benchmark:
            f"benchmarks/figures/{figure.name}.tsv"
        conda:
            f"../envs/{figure.environment}.yaml"
        resources:
            mem_mb=growing(4000),
            runtime=growing(30),
        params:
            **figure.params(ROOT),
            code=stale.code("figure.py", *figure.classes()),
        script:
            "../scripts/figure.py"


rule tables:
    """Every table, and the overview of everything."""
    input:
        collect("results/tables/{table}.md", table=config.get("tables", {})),
        "results/tables/overview.csv",


rule figures:
    """Every figure."""
    input:
        collect("results/figures/{figure}.png", figure=config.get("figures", {})),


rule gallery:
    """One page, for any browser, of the restored images and of every table and figure."""
    input:
        **GALLERY.files(),
        tables=collect("results/tables/{table}.csv", table=config.get("tables", {})),
        figures=collect("results/figures/{figure}.csv", figure=config.get("figures", {})),
        pictures=collect("results/figures/{figure}.png", figure=config.get("figures", {})),
    output:
        page="results/gallery.html",
        pictures=report(
            "results/gallery_pictures.html",
            caption="../report/gallery.rst",
            category="Gallery",
            labels={"artifact": "Gallery", "kind": "page"},
        ),
    log:
        "logs/gallery.log",
    benchmark:
        "benchmarks/gallery.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    params:
        **GALLERY.params(ROOT),
        tables=[{"label": t.label, "experiment": t.experiment.name} for t in TABLES],
        figures=[{"label": f.label, "experiment": f.experiment.name} for f in FIGURES],
        code=stale.code("gallery.py", *GALLERY.classes()),
    script:
        "../scripts/gallery.py"


rule regenerate_paper_figures:
    """Every figure and table of the papers (those with the key `paper`), nothing else."""
    input:
        collect("results/tables/{table}.md", table=of_a_paper("tables")),
        collect("results/figures/{figure}.png", figure=of_a_paper("figures")),
