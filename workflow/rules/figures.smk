# A figure of one track, by its notebook; the executed copy lies beside the results. What cells say stays in
# the log.
rule render_figure:
    input:
        notebook=lambda wildcards: SCALE.figures.notebook(wildcards.name),
        results=lambda wildcards: SCALE.figures.results(wildcards.track, wildcards.name),
        sources=lambda wildcards: SCALE.figures.sources(wildcards.name),
        tables=lambda wildcards: SCALE.figures.tables(wildcards.track, wildcards.name),
    output:
        multiext(
            f"{SCALE.figures.folder}/{{track}}/{{name}}",
            ".pdf",
            ".csv",
            ".json",
            ".md",
            ".tex",
        ),
        picture=report(
            f"{SCALE.figures.folder}/{{track}}/{{name}}.png",
            caption="../report/figure.rst",
            category=lambda wildcards: SCALE.figures.reading(wildcards.name)["title"],
            labels={"track": "{track}", "shown": "figure"},
        ),
        table=report(
            f"{SCALE.figures.folder}/{{track}}/{{name}}.html",
            caption="../report/table.rst",
            category=lambda wildcards: SCALE.figures.reading(wildcards.name)["title"],
            labels={"track": "{track}", "shown": "table"},
        ),
    log:
        f"{RESULTS}/logs/render_figure/{{track}}/{{name}}.log",
    wildcard_constraints:
        name="[a-z_]+",
    conda:
        "../envs/lowrank.yaml"
    params:
        digest=lambda wildcards: SCALE.figures.digest(wildcards.track, wildcards.name),
        reading=lambda wildcards: SCALE.figures.reading(wildcards.name),
        executed=f"{RESULTS}/notebooks/{{track}}/{{name}}.ipynb",
    message:
        "Rendering {wildcards.name} of {wildcards.track}"
    shell:
        "lowrank render {input.notebook} --tables $(dirname {input.tables[0]})"
        " --track {wildcards.track} --executed {params.executed}"
        " --output $(dirname {output.picture}) > {log} 2>&1"
        " || {{ grep -A 99 '^Error: ' {log} >&2; exit 1; }}"


# The figure of the claims' tests on all tracks.
rule render_claims:
    input:
        notebook=SCALE.figures.notebook("claims"),
        tables=SCALE.table("claims"),
        sources=SCALE.figures.sources("claims"),
    output:
        multiext(
            f"{SCALE.figures.folder}/claims", ".pdf", ".csv", ".json", ".md", ".tex"
        ),
        picture=report(
            f"{SCALE.figures.folder}/claims.png",
            caption="../report/figure.rst",
            category=SCALE.figures.reading("claims")["title"],
            labels={"track": "all", "shown": "figure"},
        ),
        table=report(
            f"{SCALE.figures.folder}/claims.html",
            caption="../report/table.rst",
            category=SCALE.figures.reading("claims")["title"],
            labels={"track": "all", "shown": "table"},
        ),
    log:
        f"{RESULTS}/logs/render_claims.log",
    priority: 1  # it takes longest
    conda:
        "../envs/lowrank.yaml"
    params:
        reading=SCALE.figures.reading("claims"),
        executed=f"{RESULTS}/notebooks/claims.ipynb",
    message:
        "Rendering the claims"
    shell:
        "lowrank render {input.notebook} --tables $(dirname {input.tables}) --track all"
        " --executed {params.executed} --output $(dirname {output.picture}) > {log} 2>&1"
        " || {{ grep -A 99 '^Error: ' {log} >&2; exit 1; }}"
