rule download:
    """Download one file of resources/downloads.toml and check it.

    Its checksum says what it is: it stays when code, an address, a time stamp or `offline` changes.
    """
    input:
        manifest=ancient(workflow.source_path("../resources/downloads.toml")),
    output:
        "results/downloads/{file}",
    log:
        "logs/download/{file}.log",
    benchmark:
        "benchmarks/download/{file}.tsv"
    wildcard_constraints:
        file=manifest_names(archives=False),
    localrule: True  # a cluster's compute nodes may have no way out
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(120),
    params:
        sha256=lambda w: DOWNLOADS[w.file]["sha256"],
    script:
        "../scripts/download.py"


rule download_archive:
    """Download an archive of resources/downloads.toml, take its files out and check each."""
    input:
        manifest=ancient(workflow.source_path("../resources/downloads.toml")),
        # local: the checkout is where Snakemake runs, also where the results are in a storage
        members=lambda w: local(ancient(ROOT / "resources" / DOWNLOADS[w.file]["members"])),
    output:
        directory("results/downloads/{file}"),
    log:
        "logs/download/{file}.log",
    benchmark:
        "benchmarks/download/{file}.tsv"
    wildcard_constraints:
        file=manifest_names(archives=True),
    localrule: True
    conda:
        "../envs/torch.yaml"
    resources:
        mem_mb=growing(1000),
        runtime=growing(120),
    script:
        "../scripts/download.py"


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
        code=code("prepare_images.py", also=lambda w: [experiment_of(w).dataset()["class"]]),
        entry=lambda w: experiment_of(w).dataset(),
    script:
        "../scripts/prepare_images.py"
