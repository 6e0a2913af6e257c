# Find an arm's best learning rate on validation data; and at that rate the best strength of its decay, or
# the best rate after its switch.
rule sweep_rate:
    input:
        data=lambda wildcards: SCALE.prepared(wildcards.track),
        rates=lambda wildcards: SCALE.rates_before("{track}/{arm}".format(**wildcards)),
    output:
        f"{RESULTS}/rates/{{track}}/{{arm}}.json",
    log:
        f"{RESULTS}/logs/sweep_rate/{{track}}/{{arm}}.log",
    priority: lambda wildcards: BEHIND["sweep {track}/{arm}".format(**wildcards)]
    conda:
        "../envs/lowrank.yaml"
    threads: SCALE.config.devices
    resources:
        gpu=SCALE.gpus,
    params:
        **JOB,
        digest=lambda wildcards: SCALE.experiment.of_sweep(
            "{track}/{arm}".format(**wildcards)
        ),
        # How a run is spread over devices changes no result, so it is no reason to run again: Snakemake
        # compares no parameter that is a function of resources.
        launch=lambda wildcards, resources: SCALE.launch,
        parallel=lambda wildcards, resources: SCALE.config.parallel,
    message:
        "Sweeping {wildcards.track}/{wildcards.arm}"
    shell:
        "{params.launch} sweep --config {params.config} --digest {params.digest}"
        " --cell {wildcards.track}/{wildcards.arm} --rates $(dirname $(dirname {output}))"
        " --output {output} --parallel {params.parallel}"
        " --data {params.data} --cache {params.cache} --device {params.device} {params.ground} 2>&1 | tee {log}"


# Train one cell, all its seeds. Finished seeds and checkpoints lie in the cache and are found again.
rule train_cell:
    input:
        data=lambda wildcards: SCALE.prepared(wildcards.track),
        rates=lambda wildcards: SCALE.rates("{track}/{arm}".format(**wildcards)),
        trunk=lambda wildcards: SCALE.trunk("{track}/{arm}".format(**wildcards)),
    output:
        runs=f"{RESULTS}/cells/{{track}}/{{arm}}/runs.parquet",
        history=f"{RESULTS}/cells/{{track}}/{{arm}}/history.parquet",
        layers=f"{RESULTS}/cells/{{track}}/{{arm}}/layers.parquet",
        spectra=f"{RESULTS}/cells/{{track}}/{{arm}}/spectra.parquet",
    log:
        f"{RESULTS}/logs/train_cell/{{track}}/{{arm}}.log",
    priority: lambda wildcards: BEHIND["train {track}/{arm}".format(**wildcards)]
    conda:
        "../envs/lowrank.yaml"
    threads: SCALE.config.devices
    resources:
        gpu=SCALE.gpus,
    params:
        **JOB,
        digest=lambda wildcards: SCALE.experiment.of_train(
            "{track}/{arm}".format(**wildcards)
        ),
        rates=f"{RESULTS}/rates",
        launch=lambda wildcards, resources: SCALE.launch,
        parallel=lambda wildcards, resources: SCALE.config.parallel,
    message:
        "Training {wildcards.track}/{wildcards.arm}"
    shell:
        "{params.launch} train --config {params.config} --digest {params.digest}"
        " --cell {wildcards.track}/{wildcards.arm} --rates {params.rates}"
        " --output $(dirname {output.runs}) --parallel {params.parallel}"
        " --data {params.data} --cache {params.cache} --device {params.device} {params.ground} 2>&1 | tee {log}"
