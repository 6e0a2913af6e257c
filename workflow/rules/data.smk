# Tokenise text, or decode images, once per track.
rule prepare_data:
    output:
        manifest=f"{RESULTS}/data/{{track}}/manifest.json",
    log:
        f"{RESULTS}/logs/prepare_data/{{track}}.log",
    conda:
        "../envs/lowrank.yaml"
    threads: 1 if SCALE.config.quick else 2
    params:
        config=SCALE.config_file,
        digest=lambda wildcards: SCALE.experiment.of_prepare(wildcards.track),
        state=lambda wildcards: SCALE.state(wildcards.track),
    message:
        "Preparing the data of {wildcards.track}"
    shell:
        "lowrank prepare --config {params.config} --digest {params.digest} --track {wildcards.track}"
        " --state '{params.state}' --output $(dirname {output.manifest}) 2>&1 | tee {log}"
