rule evaluate:
    """Classify a chunk of images, clean and attacked, through every feed-forward defense.

    One job for all of them, because loading the classifier takes longer than running them.
    """
    input:
        images="results/images/{experiment}/test.safetensors",
        attacked=lambda w: [
            experiment_of(w).file("attacked", **(dict(w.items()) | {"attack": attack}))
            for attack in experiment_of(w).attacks(w.classifier)[1:]
        ],
        classifier=demand.FILES["classifier"],
        defenses=lambda w: experiment_of(w).defense_files(w.seed, w.classifier),
    output:
        demand.FILES["evaluate"],
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
        code=code(
            "evaluate.py",
            "classifiers",
            also=lambda w: experiment_of(w).classes("defenses", *feed_forward(w)),
        ),
        dataset=lookup("experiments/{experiment}/dataset/kind", within=config),
        images=lookup("experiments/{experiment}/images", within=config),
        attacks=lambda w: experiment_of(w).attacks(w.classifier)[1:],
        classifier=entry("classifiers"),
        defenses=lambda w: {n: experiment_of(w).entry("defenses", n) for n in feed_forward(w)},
        only=feed_forward,
    script:
        "../scripts/evaluate.py"


rule restore:
    """Restore one chunk of attacked images and classify the result at every read-out step."""
    input:
        images=demand.FILES["attacked"],
        classifiers=demand.FILES["classifier"],
    output:
        rows=demand.FILES["restore"],
        shown=demand.FILES["restored"],
    log:
        "logs/restore/{experiment}/{seed}/{classifier}/{attack}/{defense}/{scatteritem}.log",
    benchmark:
        "benchmarks/restore/{experiment}/{seed}/{classifier}/{attack}/{defense}/{scatteritem}.tsv"
    wildcard_constraints:
        defense=restorations(),
    priority: 2  # long ones first: a short one still fits in at the end
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
        classifiers=lambda w: {w.classifier: entry("classifiers")(w)},
        entry=entry("defenses"),
        readouts=lambda w: experiment_of(w).readouts(w.defense, w.classifier, w.attack),
        keep=lambda w: experiment_of(w).shown(w.scatteritem),
    script:
        "../scripts/restore.py"


use rule restore as restore_clean with:
    input:
        images="results/images/{experiment}/test.safetensors",
        classifiers=lambda w: [
            experiment_of(w).file("classifier", seed=w.seed, classifier=name)
            for name in experiment_of(w).clean_classifiers(w.defense)
        ],
    output:
        rows=demand.FILES["restore_clean"],
        shown=demand.FILES["restored_clean"],
    log:
        "logs/restore_clean/{experiment}/{seed}/{defense}/{scatteritem}.log",
    benchmark:
        "benchmarks/restore_clean/{experiment}/{seed}/{defense}/{scatteritem}.tsv"
    wildcard_constraints:
        defense=restorations(),
    priority: 2
    params:
        code=code(
            "restore.py",
            "defenses",
            also=lambda w: experiment_of(w).classes(
                "classifiers", *experiment_of(w).clean_classifiers(w.defense)
            ),
        ),
        dataset=lookup("experiments/{experiment}/dataset/kind", within=config),
        images=lookup("experiments/{experiment}/images", within=config),
        classifiers=lambda w: {
            name: experiment_of(w).entry("classifiers", name)
            for name in experiment_of(w).clean_classifiers(w.defense)
        },
        entry=entry("defenses"),
        readouts=lambda w: experiment_of(w).readouts(w.defense, None, "clean"),
        keep=lambda w: experiment_of(w).shown(w.scatteritem),


rule gather_predictions:
    """All predictions of an experiment in one tidy table, from which tables and figures aggregate."""
    input:
        lambda w: experiment_of(w).prediction_files(),
    output:
        demand.FILES["predictions"],
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


rule evaluate_threats:
    """Judge a chunk of candidates of every threat by the defended classifier, with fresh seeds."""
    input:
        images="results/images/{experiment}/test.safetensors",
        candidates=lambda w: [
            experiment_of(w).file("candidates", **(dict(w.items()) | {"threat": n, "defense": of}))
            for n, of in experiment_of(w).threats(w.classifier, w.defense).items()
        ],
        classifier=demand.FILES["classifier"],
        defense=lambda w: experiment_of(w).weights(w.seed, w.classifier, w.defense),
    output:
        demand.FILES["judged"],
    log:
        "logs/evaluate_threats/{experiment}/{seed}/{classifier}/{defense}/{scatteritem}.log",
    benchmark:
        "benchmarks/evaluate_threats/{experiment}/{seed}/{classifier}/{defense}/{scatteritem}.tsv"
    priority: 3
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(480),
        gpu=1,
    params:
        code=code("evaluate_threats.py", "defenses", "classifiers"),
        dataset=lookup("experiments/{experiment}/dataset/kind", within=config),
        threats=lambda w: {
            n: experiment_of(w).threat(n)
            for n in experiment_of(w).threats(w.classifier, w.defense)
        },
        classifier=entry("classifiers"),
        defense=lambda w: experiment_of(w).whole(w.defense),
        dynamic=lambda w: w.defense in experiment_of(w).restorations(),
        draws=lambda w: experiment_of(w).draws,
        images=lambda w: experiment_of(w).threatened,
    script:
        "../scripts/evaluate_threats.py"


rule gather_threats:
    """All judged candidates of an experiment's threats in one tidy table."""
    input:
        lambda w: experiment_of(w).judged_files(),
    output:
        demand.FILES["threats"],
    log:
        "logs/gather_threats/{experiment}.log",
    benchmark:
        "benchmarks/gather_threats/{experiment}.tsv"
    conda:
        "../envs/plots.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("gather_threats.py"),
    script:
        "../scripts/gather_threats.py"


rule predictions:
    """Every experiment, whole."""
    input:
        collect(demand.FILES["predictions"], experiment=EXPERIMENTS),
        collect(
            demand.FILES["threats"],
            experiment=[n for n in EXPERIMENTS if EXPERIMENTS[n].judged_files()],
        ),
