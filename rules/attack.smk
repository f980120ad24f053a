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
