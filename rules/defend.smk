rule evaluate:
    """Classify a chunk of images, clean and attacked, through every feed-forward defense.

    One job for all of them, because loading the classifier takes longer than running them.
    """
    input:
        images="results/images/{experiment}/test.safetensors",
        attacked=attacked_files,
        classifier="results/classifiers/{experiment}/{seed}/{classifier}.safetensors",
        defenses=defense_files,
    output:
        PREDICTIONS["feed_forward"],
    log:
        "logs/evaluate/{experiment}/{seed}/{classifier}/{scatteritem}.log",
    benchmark:
        "benchmarks/evaluate/{experiment}/{seed}/{classifier}/{scatteritem}.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("evaluate.py", "classifiers", also=feed_forward_code),
        dataset=lookup("experiments/{experiment}/dataset/kind", within=config),
        images=lookup("experiments/{experiment}/images", within=config),
        attacks=lambda w: list(EXPERIMENTS[w.experiment]["attacks"]),
        classifier=lookup("experiments/{experiment}/classifiers/{classifier}", within=config),
        defenses=lambda w: {name: entry("defenses", w, name) for name in feed_forward(w)},
    script:
        "../scripts/evaluate.py"


rule restore:
    """Restore one chunk of attacked images and classify the result at every read-out step."""
    input:
        images="results/adversarial/{experiment}/{seed}/{classifier}/{attack}/{scatteritem}.safetensors",
        classifiers=lambda w: classifier_files(w, w.classifier),
    output:
        rows=PREDICTIONS["restore"],
        shown="results/restored/{experiment}/{seed}/{classifier}/{attack}/{defense}/{scatteritem}.safetensors",
    log:
        "logs/restore/{experiment}/{seed}/{classifier}/{attack}/{defense}/{scatteritem}.log",
    benchmark:
        "benchmarks/restore/{experiment}/{seed}/{classifier}/{attack}/{defense}/{scatteritem}.tsv"
    wildcard_constraints:
        defense="|".join(sorted(RESTORATIONS)) or "none-at-all",
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(480),
        gpu=1,
    params:
        code=code("restore.py", "defenses", "classifiers"),
        dataset=lookup("experiments/{experiment}/dataset/kind", within=config),
        images=lookup("experiments/{experiment}/images", within=config),
        classifiers=lambda w: {w.classifier: entry("classifiers", w)},
        entry=lookup("experiments/{experiment}/defenses/{defense}", within=config),
        readouts=readouts,
        shown=lambda w: shown(w.experiment),
    script:
        "../scripts/restore.py"


use rule restore as restore_clean with:
    input:
        images="results/images/{experiment}/test.safetensors",
        classifiers=classifier_files,
    output:
        rows=PREDICTIONS["restore_clean"],
        shown="results/restored/{experiment}/{seed}/clean/{defense}/{scatteritem}.safetensors",
    log:
        "logs/restore_clean/{experiment}/{seed}/{defense}/{scatteritem}.log",
    benchmark:
        "benchmarks/restore_clean/{experiment}/{seed}/{defense}/{scatteritem}.tsv"
    wildcard_constraints:
        defense="|".join(sorted(RESTORATIONS)) or "none-at-all",
    params:
        code=code("restore.py", "defenses", also=all_classifiers_code),
        dataset=lookup("experiments/{experiment}/dataset/kind", within=config),
        images=lookup("experiments/{experiment}/images", within=config),
        classifiers=lambda w: EXPERIMENTS[w.experiment]["classifiers"],
        entry=lookup("experiments/{experiment}/defenses/{defense}", within=config),
        readouts=readouts,
        shown=lambda w: shown(w.experiment),


rule gather_predictions:
    """All predictions of an experiment in one tidy table, from which tables and figures aggregate."""
    input:
        prediction_files,
    output:
        "results/predictions/{experiment}.parquet",
    log:
        "logs/gather_predictions/{experiment}.log",
    benchmark:
        "benchmarks/gather_predictions/{experiment}.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("gather_predictions.py"),
    script:
        "../scripts/gather_predictions.py"
