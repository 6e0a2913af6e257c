# The figures of a track: for each, the tables it is made from and the study that a track needs to have it.
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
    "claims": ["claims"],
}
ACROSS = ["claims"]  # drawn once, of all tracks
FIGURE_ENDINGS = ["pdf", "png", "html", "csv", "json", "md", "tex"]


def has_figure(track, name):
    """Whether the track's studies give the figure something to show."""
    if name == "learning_rate":
        return CONFIG.tracks[track].training.learning_rate is None
    return any(track in with_study(study) for study in studies_of(name))


FIGURES = [
    f"figures/{CONFIG.scale}/{track}/{name}.{ending}"
    for track in TRACKS
    for name in FIGURE_TABLES
    if name not in ACROSS and has_figure(track, name)
    for ending in FIGURE_ENDINGS
] + [
    f"figures/{CONFIG.scale}/{name}.{ending}"
    for name in ACROSS
    for ending in FIGURE_ENDINGS
]

# The sources that a figure's look depends on: what all share, and the figure's own module.
LOOK = {path.stem: str(path) for path in sorted(Path("src/lowrank/plot").glob("*.py"))}
SHARED_LOOK = [path for stem, path in LOOK.items() if stem not in FIGURE_TABLES]


def table_names(wildcards):
    names = [*FIGURE_TABLES[wildcards.name]]
    if (
        wildcards.name == "initialisation"
        and CONFIG.tracks[wildcards.track].task.language
    ):
        names.append("baselines")
    return names


def figure_results(wildcards):
    """The results that a figure shows, of all that its tables hold."""
    track, names = wildcards.track, table_names(wildcards)
    studies = [study for study in studies_of(wildcards.name) if (track, study) in SHOWN]
    cells = dict.fromkeys(name for study in studies for name in SHOWN[track, study])
    files = [cell_tables(name)[0] for name in cells if name in TRAINED]
    own = [(name, f"{RESULTS}/{name}/{track}.parquet") for name in names]
    files += [path for name, path in own if (name, path) in COLLECTED]
    if "rates" in names:
        files += rate_files(*trained(track))
        studies = [study for of, study in SHOWN if of == track]
    return [*files, *PUBLISHED_FILES, *(shown_spec(track, study) for study in studies)]


def figure_sources(wildcards):
    own = LOOK["scaling" if wildcards.name == "parameters" else wildcards.name]
    return [
        *SHARED_LOOK,
        own,
        *TABLE_SOURCES,
        "src/lowrank/analysis/evidence.py",
        "src/lowrank/analysis/power_law.py",
    ]


def figure_tables(wildcards):
    """The tables that a figure is made from; a new one is no reason to draw it again."""
    tables = [f"{RESULTS}/tables/{name}.parquet" for name in table_names(wildcards)]
    reasons = [*figure_results(wildcards), *figure_sources(wildcards)]
    reasons += [version("evaluation"), f"notebooks/{wildcards.name}.ipynb"]
    figure = f"figures/{CONFIG.scale}/{wildcards.track}/{wildcards.name}.png"
    return waited_for(tables, reasons, figure)


def reading(name):
    """The title of a figure's notebook and what it says on how to read the figure: the report's
    categories and captions."""
    first = json.loads(Path(f"notebooks/{name}.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ][0]["source"]
    title, text = "".join(first).removeprefix("# ").split("\n\n", 1)
    return {"title": title, "text": text}


def shown(path, kind, track="{track}", name=None):
    """A figure or its table as the report shows it: under its study, labelled by track."""
    return report(
        path,
        caption="../report/figure.rst" if kind == "figure" else "../report/table.rst",
        category=lambda wildcards: reading(name or wildcards.name)["title"],
        labels={"track": track, "shown": kind},
    )


# Run a notebook. Its executed copy lies beside the results, also when a cell fails.
RENDER = (
    # The environment's own kernel, whatever kernels and start-up files the home folder has.
    "mkdir -p $(dirname {params.executed}) {params.jupyter};"
    " export JUPYTER_PREFER_ENV_PATH=1 JUPYTER_PATH= JUPYTER_NO_CONFIG=1"
    " MPLBACKEND=agg"  # a misspelt one would stop matplotlib from being imported
    " JUPYTER_RUNTIME_DIR=$PWD/{params.jupyter} IPYTHONDIR=$PWD/{params.jupyter};"
    " papermill {input.notebook} {params.executed} --kernel python3 --no-progress-bar"
    " --log-level WARNING -p tables {params.tables} -p track {params.track}"
    " -p output {params.folder} > {log} 2>&1"
    " || {{ echo 'The notebook as far as it ran: {params.executed}' >> {log};"
    " sed -n '/^papermill.exceptions/,$p' {log} >&2; exit 1; }}"
)


# A figure of one track.
rule render_figure:
    input:
        notebook="notebooks/{name}.ipynb",
        results=figure_results,
        sources=figure_sources,
        version=version("evaluation"),
        tables=figure_tables,
    output:
        multiext(
            f"figures/{CONFIG.scale}/{{track}}/{{name}}",
            ".pdf",
            ".csv",
            ".json",
            ".md",
            ".tex",
        ),
        picture=shown(f"figures/{CONFIG.scale}/{{track}}/{{name}}.png", "figure"),
        table=shown(f"figures/{CONFIG.scale}/{{track}}/{{name}}.html", "table"),
    log:
        f"{RESULTS}/logs/render_figure/{{track}}/{{name}}.log",
    wildcard_constraints:
        name="[a-z_]+",
    params:
        tables=f"{RESULTS}/tables",
        track="{track}",
        folder=f"figures/{CONFIG.scale}/{{track}}",
        executed=f"{RESULTS}/notebooks/{{track}}/{{name}}.ipynb",
        jupyter=f"{RESULTS}/notebooks/.jupyter/{{track}}-{{name}}",
        reading=lambda wildcards: reading(wildcards.name),
    message:
        "Rendering {wildcards.name} of {wildcards.track}"
    shell:
        RENDER


# The figure of the claims' tests on all tracks.
rule render_claims:
    input:
        notebook="notebooks/claims.ipynb",
        tables=f"{RESULTS}/tables/claims.parquet",
        sources=[*SHARED_LOOK, LOOK["claims"], "src/lowrank/analysis/evidence.py"],
    output:
        multiext(
            f"figures/{CONFIG.scale}/claims", ".pdf", ".csv", ".json", ".md", ".tex"
        ),
        picture=shown(f"figures/{CONFIG.scale}/claims.png", "figure", "all", "claims"),
        table=shown(f"figures/{CONFIG.scale}/claims.html", "table", "all", "claims"),
    log:
        f"{RESULTS}/logs/render_claims.log",
    priority: 1  # it takes longest
    params:
        tables=f"{RESULTS}/tables",
        track="all",
        folder=f"figures/{CONFIG.scale}",
        executed=f"{RESULTS}/notebooks/claims.ipynb",
        jupyter=f"{RESULTS}/notebooks/.jupyter/claims",
        reading=reading("claims"),
    message:
        "Rendering the claims"
    shell:
        RENDER
