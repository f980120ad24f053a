rule attack:
    """Attack one chunk of images, against the bare classifier (an oblivious attacker)."""
    input:
        images="results/images/{experiment}/test.safetensors",
        classifier="results/classifiers/{experiment}/{seed}/{classifier}.safetensors",
    output:
        kept(
            "results/adversarial/{experiment}/{seed}/{classifier}/{attack}/{scatteritem}.safetensors"
        ),
    log:
        "logs/attack/{experiment}/{seed}/{classifier}/{attack}/{scatteritem}.log",
    benchmark:
        "benchmarks/attack/{experiment}/{seed}/{classifier}/{attack}/{scatteritem}.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
        gpu=1,
    params:
        code=code("attack.py", "attacks", "classifiers"),
        entry=lookup("experiments/{experiment}/attacks/{attack}", within=config),
        classifier=lookup("experiments/{experiment}/classifiers/{classifier}", within=config),
        images=lookup("experiments/{experiment}/images", within=config),
    script:
        "../scripts/attack.py"
