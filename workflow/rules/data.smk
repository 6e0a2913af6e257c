# Tokenise text, or decode images, once per track.
rule prepare_data:
    input:
        spec=f"{RESULTS}/specs/data/{{track}}.json",
        version=lambda wildcards: version(CONFIG.tracks[wildcards.track].data.kind),
    output:
        manifest=f"{RESULTS}/data/{{track}}/manifest.json",
    log:
        f"{RESULTS}/logs/prepare_data/{{track}}.log",
    threads: 2 if MEASURED else 1
    params:
        state=files_state,
    message:
        "Preparing the data of {wildcards.track}"
    shell:
        "lowrank prepare --spec {input.spec} --output $(dirname {output.manifest})"
        " --state '{params.state}' 2>&1 | tee {log}"
