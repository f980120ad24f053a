rule attack:
    """Attack one chunk of images, against the bare classifier (an oblivious attacker)."""
    input:
        images="results/images/{experiment}/test.safetensors",
        classifier="results/classifiers/{experiment}/{seed}/{classifier}.safetensors",
    output:
        kept(demand.FILES["attacked"]),
    log:
        "logs/attack/{experiment}/{seed}/{classifier}/{attack}/{scatteritem}.log",
    benchmark:
        "benchmarks/attack/{experiment}/{seed}/{classifier}/{attack}/{scatteritem}.tsv"
    priority: 1
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("attack.py", "attacks", "classifiers"),
        entry=entry("attacks"),
        classifier=entry("classifiers"),
        images=lookup("experiments/{experiment}/images", within=config),
    script:
        "../scripts/attack.py"


rule attack_defended:
    """Attack one chunk of images as a threat does, which may know of the defense."""
    input:
        images="results/images/{experiment}/test.safetensors",
        train="results/images/{experiment}/train.safetensors",
        classifier=demand.FILES["classifier"],
        defense=lambda w: experiment_of(w).weights(w.seed, w.classifier, w.defense),
    output:
        kept(demand.FILES["candidates"]),
    log:
        "logs/attack_defended/{experiment}/{seed}/{classifier}/{defense}/{threat}/{scatteritem}.log",
    benchmark:
        "benchmarks/attack_defended/{experiment}/{seed}/{classifier}/{defense}/{threat}/{scatteritem}.tsv"
    priority: 3  # with what follows, the longest way to a table
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(8000),
        runtime=growing(480),
        gpu=1,
    params:
        code=code(
            "attack_defended.py",
            "classifiers",
            also=lambda w: experiment_of(w).threat_classes(w.defense, w.threat),
        ),
        entry=lambda w: experiment_of(w).threat(w.threat),
        classifier=entry("classifiers"),
        defense=lambda w: experiment_of(w).whole(w.defense),
        images=lambda w: experiment_of(w).threatened,
    script:
        "../scripts/attack_defended.py"
