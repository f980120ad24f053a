rule convert_weights:
    """Turn a released checkpoint into a classifier's weights; its hash is checked before it is read."""
    input:
        files=checkpoint_files("classifiers"),
        manifest=ancient(workflow.source_path("../resources/downloads.toml")),
    output:
        "results/classifiers/{experiment}/{seed}/{classifier}.safetensors",
    log:
        "logs/convert_weights/{experiment}/{seed}/{classifier}.log",
    benchmark:
        "benchmarks/convert_weights/{experiment}/{seed}/{classifier}.tsv"
    wildcard_constraints:
        experiment=owners("classifiers", "weights"),
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code("convert_weights.py", "classifiers"),
        names=checkpoint_names("classifiers"),
        entry=entry("classifiers"),
    script:
        "../scripts/convert_weights.py"


use rule convert_weights as convert_defense_weights with:
    input:
        files=checkpoint_files("defenses"),
        manifest=ancient(workflow.source_path("../resources/downloads.toml")),
    output:
        "results/defenses/{experiment}/{seed}/any/{defense}.safetensors",
    log:
        "logs/convert_weights/{experiment}/{seed}/any/{defense}.log",
    benchmark:
        "benchmarks/convert_weights/{experiment}/{seed}/any/{defense}.tsv"
    wildcard_constraints:
        experiment=owners("defenses", "weights"),
    params:
        code=code("convert_weights.py", "defenses"),
        names=checkpoint_names("defenses"),
        entry=entry("defenses"),


rule train_classifier:
    """Train a classifier, for FUNN and the classic autoencoder the encoder first."""
    input:
        images="results/images/{experiment}/train.safetensors",
        test="results/images/{experiment}/test.safetensors",
    output:
        "results/classifiers/{experiment}/{seed}/{classifier}.safetensors",
    log:
        "logs/train_classifier/{experiment}/{seed}/{classifier}.log",
    benchmark:
        "benchmarks/train_classifier/{experiment}/{seed}/{classifier}.tsv"
    wildcard_constraints:
        experiment=owners("classifiers", "training"),
    priority: 10  # everything waits for it
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
        gpu=1,
    params:
        code=code("train_classifier.py", "classifiers"),
        entry=entry("classifiers"),
    script:
        "../scripts/train_classifier.py"


rule train_defense:
    """Train a defense, against a classifier where it needs one ("any" where it does not)."""
    input:
        images="results/images/{experiment}/train.safetensors",
        classifier=lambda w: (
            [] if w.classifier == "any" else experiment_of(w).file("classifier", **dict(w.items()))
        ),
    output:
        "results/defenses/{experiment}/{seed}/{classifier}/{defense}.safetensors",
    log:
        "logs/train_defense/{experiment}/{seed}/{classifier}/{defense}.log",
    benchmark:
        "benchmarks/train_defense/{experiment}/{seed}/{classifier}/{defense}.tsv"
    wildcard_constraints:
        experiment=owners("defenses", "training"),
    priority: 5
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(480),
        gpu=1,
    params:
        code=code(
            "train_defense.py",
            "defenses",
            also=lambda w: (
                []
                if w.classifier == "any"
                else experiment_of(w).classes("classifiers", w.classifier)
            ),
        ),
        entry=entry("defenses"),
        classifier=lambda w: None if w.classifier == "any" else entry("classifiers")(w),
    script:
        "../scripts/train_defense.py"
