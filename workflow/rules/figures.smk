# The figures: for each, the tables it is made from and the study that a track needs to have it.
FIGURE_TABLES = {
    "initialisation": ["runs", "contrasts"],
    "decay": ["runs", "contrasts", "layers"],
    "effective_rank": ["runs", "contrasts", "layers"],
    "spectra": ["runs", "spectra"],
    "pretraining": ["runs", "contrasts"],
    "scaling": ["runs", "contrasts"],
    "parameters": ["runs", "contrasts"],
    "layers": ["runs", "contrasts"],
    "interpolation": ["runs", "contrasts", "interpolation", "barriers"],
    "posthoc": ["runs", "posthoc"],
    "learning_rate": ["rates", "runs"],
}
FIGURE_STUDIES = {
    "effective_rank": ["decay"],
    "spectra": ["decay", "initialisation"],
    "parameters": ["scaling"],
}
FIGURE_ENDINGS = ["pdf", "png", "csv", "md", "tex"]


def has_figure(track, name):
    """Whether the track's studies give the figure something to show."""
    if name == "learning_rate":
        return CONFIG.tracks[track].training.learning_rate is None
    return any(track in with_study(study) for study in FIGURE_STUDIES.get(name, [name]))


FIGURES = [
    f"figures/{CONFIG.scale}/{track}/{name}.{ending}"
    for track in TRACKS
    for name in FIGURE_TABLES
    if has_figure(track, name)
    for ending in FIGURE_ENDINGS
]

# The sources that a figure's look depends on: what all share, and the figure's own module.
LOOK = {path.stem: str(path) for path in sorted(Path("src/lowrank/plot").glob("*.py"))}
SHARED_LOOK = [path for stem, path in LOOK.items() if stem not in FIGURE_TABLES]


def figure_tables(wildcards):
    names = [*FIGURE_TABLES[wildcards.name]]
    if wildcards.name == "initialisation" and wildcards.track == "language":
        names.append("baselines")
    return [f"{RESULTS}/tables/{name}.parquet" for name in names]


def figure_sources(wildcards):
    own = LOOK["scaling" if wildcards.name == "parameters" else wildcards.name]
    return [
        *SHARED_LOOK,
        own,
        "src/lowrank/study/stats.py",
        "src/lowrank/study/scaling.py",
    ]


# Run a figure's notebook. Its executed copy lies beside the results, also when a cell fails.
rule render_figure:
    input:
        notebook="notebooks/{name}.ipynb",
        tables=figure_tables,
        sources=figure_sources,
    output:
        multiext(
            f"figures/{CONFIG.scale}/{{track}}/{{name}}",
            ".pdf",
            ".png",
            ".csv",
            ".md",
            ".tex",
        ),
    log:
        f"{RESULTS}/logs/render_figure/{{track}}/{{name}}.log",
    wildcard_constraints:
        name="[a-z_]+",
    params:
        tables=f"{RESULTS}/tables",
        folder=f"figures/{CONFIG.scale}/{{track}}",
        executed=f"{RESULTS}/notebooks/{{track}}/{{name}}.ipynb",
        jupyter=f"{RESULTS}/notebooks/.jupyter/{{track}}-{{name}}",
    message:
        "Rendering {wildcards.name} of {wildcards.track}"
    shell:
        # The environment's own kernel, whatever kernels and start-up files the home folder has.
        "mkdir -p $(dirname {params.executed}) {params.jupyter};"
        " export JUPYTER_PREFER_ENV_PATH=1 JUPYTER_PATH= JUPYTER_NO_CONFIG=1"
        " JUPYTER_RUNTIME_DIR=$PWD/{params.jupyter} IPYTHONDIR=$PWD/{params.jupyter};"
        " papermill {input.notebook} {params.executed} --kernel python3 --no-progress-bar"
        " --log-level WARNING -p tables {params.tables} -p track {wildcards.track}"
        " -p output {params.folder} > {log} 2>&1"
        " || {{ echo 'The notebook as far as it ran: {params.executed}' >> {log};"
        " sed -n '/^papermill.exceptions/,$p' {log} >&2; exit 1; }}"
