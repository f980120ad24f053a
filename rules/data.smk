rule download_mnist:
    """Download MNIST's four files, checked by torchvision."""
    output:
        collect("results/downloads/mnist/{file}", file=DATASET_FILES["mnist"]),
    log:
        "logs/download_mnist.log",
    benchmark:
        "benchmarks/download_mnist.tsv"
    retries: 2
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    params:
        code=code("download_mnist.py"),
    script:
        "../scripts/download_mnist.py"


rule download_nips2017:
    """Download the NIPS 2017 DEV images and check every file's SHA-256."""
    input:
        manifest=workflow.source_path("../resources/nips2017dev.csv"),
    output:
        labels="results/downloads/nips2017/images.csv",
        images=directory("results/downloads/nips2017/images"),
    log:
        "logs/download_nips2017.log",
    benchmark:
        "benchmarks/download_nips2017.tsv"
    retries: 2
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(2000),
        runtime=growing(60),
    params:
        code=code("download_nips2017.py"),
    script:
        "../scripts/download_nips2017.py"


rule prepare_images:
    """Decode a dataset once: the images to train on, and the images to evaluate."""
    input:
        dataset_files,
    output:
        train="results/images/{experiment}/train.safetensors",
        test="results/images/{experiment}/test.safetensors",
    log:
        "logs/prepare_images/{experiment}.log",
    benchmark:
        "benchmarks/prepare_images/{experiment}.tsv"
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    params:
        code=code(
            "prepare_images.py",
            also=lambda w: [registry.DATASETS[EXPERIMENTS[w.experiment]["dataset"]["kind"]]],
        ),
        entry=lookup("experiments/{experiment}/dataset", within=config),
    script:
        "../scripts/prepare_images.py"
