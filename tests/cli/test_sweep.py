"""`entoptic see --config`: a file of commands; what it holds is checked before anything is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.conftest import Say, refusal, see
from entoptic.cli.config_file import config_text, read_jobs
from entoptic.cli.see import See
from entoptic.methods.fourier import Fourier
from entoptic.runs.merge import merge_runs
from entoptic.runs.store import Run

SHARED = 'model: tiny:net\nunits: ["logits:0", "stage1:1-2"]\nmethod: [fourier, pixels]\nverifiers: ""\ndevice: cpu\n'


def write(folder: Path, text: str, name: str = "sweep.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def files(run: Path) -> dict[str, bytes]:
    return {p.path.relative_to(run).as_posix(): p.path.read_bytes() for p in Run.open(run)}


def test_a_file_makes_what_the_command_makes(say: Say, tmp_path: Path) -> None:
    file = write(tmp_path, SHARED + f"steps: 2\nn: 2\nout: {tmp_path / 'a'}\nfourier: {{std: 0.02}}\n")
    code, out, err = say("see", "--config", file)
    assert (code, err) == (0, "")
    assert "[1/1] tiny:net logits:0 stage1:1-2 by fourier,pixels" in out
    words = (
        "logits:0",
        "stage1:1-2",
        "--method",
        "fourier,pixels",
        "--verifiers",
        "",
        "--n",
        2,
        "--fourier.std",
        "0.02",
    )
    say("see", "tiny:net", *words, "--steps", 2, "--device", "cpu", "--out", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert len(files(tmp_path / "a")) == 12


def test_several_networks_and_jobs(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import tiny_card, tiny_module
    from entoptic.models import sources

    other = lambda name, pretrained: (tiny_module(seed=1), tiny_card(name=f"other:{name}"))  # noqa: E731
    monkeypatch.setitem(sources.SOURCES, "other", other)
    text = f"""
method: fourier
verifiers: ""
steps: 1
out: {tmp_path / "all"}
fourier: {{std: 0.02, decay: 0.9}}
jobs:
  - {{model: ["tiny:net", "other:net"], units: "logits:0"}}
  - {{model: "tiny:net", units: [stage1:0], method: "fourier,pixels", fourier: {{std: 0.03}}}}
"""
    code, out, err = say("see", "--config", write(tmp_path, text), "--device", "cpu")
    assert (code, err) == (0, "")
    assert "[3/3] tiny:net stage1:0" in out
    made = {(p.unit, p.method, str(p.record["model"]["name"])) for p in Run.open(tmp_path / "all" / "tiny-net")}
    assert made == {
        ("logits:0", "fourier", "tiny:net"),
        ("stage1:0", "fourier", "tiny:net"),
        ("stage1:0", "pixels", "tiny:net"),
    }
    (other_made,) = Run.open(tmp_path / "all" / "other-net")
    assert other_made.record["model"]["name"] == "other:net"
    configs = {p.unit: p.record["config"] for p in Run.open(tmp_path / "all" / "tiny-net") if p.method == "fourier"}
    assert (configs["logits:0"]["std"], configs["logits:0"]["decay"]) == (0.02, 0.9)
    assert (configs["stage1:0"]["std"], configs["stage1:0"]["decay"]) == (0.03, 0.9)  # joined, one option at a time


def test_the_command_line_comes_before_the_file(say: Say, tmp_path: Path) -> None:
    file = write(tmp_path, SHARED + f"steps: 2\nout: {tmp_path / 'a'}\n")
    assert (
        say("see", "--config", file, "--n", 2, "--steps", 1, "--method", "fourier", f"--out={tmp_path / 'b'}")[0] == 0
    )
    assert not (tmp_path / "a").exists()
    pictures = list(Run.open(tmp_path / "b"))
    assert len(pictures) == 6
    assert {p.record["config"]["steps"] for p in pictures} == {1}
    assert "MODEL and UNIT stand in the file" in refusal(say("see", "tiny:net", "--config", file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stpes: 3", 'sweep.yaml: there is no key "stpes"; did you mean "steps"?'),
        ("method: foruier", 'sweep.yaml: no method "foruier"; did you mean "fourier"?'),
        ("std: 0.1\nmethod: [fourier]", 'no key "std"; it is an option of a method: did you mean fourier: {std: …}?'),
        ("fourier: {stb: 0.1}", 'sweep.yaml: fourier has no option "stb"; did you mean "std"?'),
        ("fourier: 3", "fourier holds options of its own"),
        ("fourier: {std: x}", 'sweep.yaml, fourier: std must be a number, got "x"'),
        ("n: 1.5", 'n must be a whole number, got "1.5"'),
        ("n: yes", "n must be a whole number, got yes"),
        ("n: 0", "n must be"),
        ("context: 3", 'context must be yes or no, got "3"'),
        ("film: no", "film must be a text, got no; put it in quotes"),
        ("units: [1:30]", 'units must be a text, got "90"; put it in quotes'),
        ("units: []", "units is missing"),
        ("model: []", "model is an empty list"),
        ("config: x.yaml", 'no key "config"'),
        ("1: 2", 'a key must be a text, got "1"'),
        ("n: 1\nn: 2", 'line 2, column 1: "n" stands there twice'),
        ("batch-size: 2\nbatch_size: 3", '"batch_size" stands there twice'),
        ("jobs: 3", 'jobs is a list of commands, each with keys of its own, got "3"'),
        ("jobs: [{n: 2}, {m: 2}]", "sweep.yaml, job 2: there is no key"),
        ("model: {", "sweep.yaml, line"),
        ("model: !!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("jobs: [{jobs: [{n: 1}]}]", "sweep.yaml, job 1: jobs cannot stand within a job"),
        ("jobs: [{n: 1}, {shard: 3/2}]", "sweep.yaml, job 2: shard 3/2: shards of 2 are 0/2 to 1/2, counted from 0"),
        ("jobs: [{n: 1}, {workers: two}]", 'job 2: workers is a number, auto, ray or ray://HOST:PORT; got "two"'),
        ("jobs: [{n: 1}, {workers: 0}]", "job 2: workers must be between 1 and 1024, got 0"),
        ("jobs: [{n: 1}, {threads: 0}]", "job 2: --threads must be at least 1, got 0"),
        ("jobs: [{n: 1}, {seed: 99999999999999999999999}]", "job 2: seed must be at least"),
        ("jobs: [{n: 1}, {film: mp4}]", "job 2: "),
        ("- 1", "must hold keys such as model and units, got [1]"),
        ("[" * 3000, "sweep.yaml"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_made(say: Say, tmp_path: Path, text: str, said: str) -> None:
    entries = {"model": "model: tiny:net\n", "units": "units: logits:0\n", "out": f"out: {tmp_path / 'r'}\n"}
    if not text.startswith(("- ", "[[", "model: {", "model: !!")):
        text = text + "\n" + "".join(line for key, line in entries.items() if not text.startswith(key))
    assert said in refusal(say("see", "--config", write(tmp_path, text)))
    assert not (tmp_path / "r").exists()


def test_files_that_are_not_there(say: Say, tmp_path: Path) -> None:
    write(tmp_path, SHARED)
    assert 'did you mean "sweep.yaml"?' in refusal(say("see", "--config", tmp_path / "swep.yaml"))
    assert "cannot be read" in refusal(say("see", "--config", tmp_path))
    assert "--config needs a path" in refusal(say("see", "--config"))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(say("see", "--config", tmp_path / "b.yaml"))


def test_a_job_that_cannot_be_done_does_not_cost_the_others(say: Say, tmp_path: Path) -> None:
    text = (
        SHARED
        + f"steps: 1\nout: {tmp_path / 'r'}\njobs: [{{units: nowhere:0}}, {{units: logits:0, method: fourier}}]\n"
    )
    code, _, err = say("see", "--config", write(tmp_path, text))
    assert code == 2
    assert "sweep.yaml, job 1: " in err
    assert "1 job of 2 with something that could not be made" in err
    assert len(Run.open(tmp_path / "r")) == 1


def test_jobs_share_the_options_of_methods_that_only_one_of_them_uses(say: Say, tmp_path: Path) -> None:
    text = (
        SHARED + f"steps: 1\nout: {tmp_path / 'r'}\npixels: {{lr: 0.5}}\n"
        "jobs: [{units: logits:0, method: pixels}, {units: logits:0, method: fourier}]\n"
    )
    code, _, err = say("see", "--config", write(tmp_path, text))
    assert code == 0, err
    assert {p.record["method"]: p.record["config"]["lr"] for p in Run.open(tmp_path / "r")}["pixels"] == 0.5


def test_a_printed_file_reads_back_as_the_command(say: Say, tmp_path: Path) -> None:
    words = (
        "tiny:net",
        "logits:0",
        "-stage1:1",
        "--method",
        "fourier,vital",
        "--fourier.std",
        "1e-3",
        "--no-context",
        "--n",
        3,
    )
    code, out, err = say("see", *words, "--vital.layers", "stem", "stage1", "--out", "a b", "--print-config")
    assert (code, err) == (0, "")
    (job,) = read_jobs(write(tmp_path, out), See)
    options = job.options
    assert (options.model, options.units, options.n, options.out) == (
        "tiny:net",
        ("logits:0", " -stage1:1"),
        3,
        Path("a b"),
    )
    assert (options.fourier, options.context) == (Fourier(std=1e-3), False)
    assert options.vital.layers == ("stem", "stage1")
    assert "# seed: 0" in out
    assert "  # decay:" in out
    assert "maco" not in out  # not asked for


def test_every_option_of_the_printed_file_is_read(say: Say, tmp_path: Path) -> None:
    """With the comment signs taken away, the file holds every option with its default."""
    out = config_text(See(model="tiny:net", units=("logits:0",)), list(See.__dataclass_fields__))
    lines = [line.removeprefix("# ") for line in out.splitlines()[1:]]
    cut = lines.index("Several commands: each has what stands above, and its own keys before it.")
    text = "\n".join(line for line in lines[:cut] if line.endswith(":") or ": " in line)
    (job,) = read_jobs(write(tmp_path, text), See)
    assert job.options == See(model="tiny:net", units=("logits:0",))
    code, out, _ = say("see", "--print-config")
    assert code == 0
    assert out.splitlines()[1].startswith("model: builtin:lite0")


def test_shards_are_merged_into_the_run_of_one_process(say: Say, tmp_path: Path) -> None:
    words = ("logits:0-4", "--method", "fourier,pixels", "--n", 2, "--verifiers", "")
    assert say(*see(*words, "--out", tmp_path / "whole"))[0] == 0
    parts = [tmp_path / f"part-{i}" for i in range(2)]
    for i, part in enumerate(parts):
        assert say(*see(*words, "--out", part, "--shard", f"{i}/2"))[0] == 0
    assert [len(Run.open(part)) for part in parts] == [12, 8]
    assert files(merge_runs(parts, tmp_path / "all").path) == files(tmp_path / "whole")
    out = ("--out", tmp_path / "r")
    assert "shards of 2 are 0/2 to 1/2" in refusal(say(*see(*words, *out, "--shard", "2/2")))
    assert "--shard is I/M such as 0/4" in refusal(say(*see(*words, *out, "--shard", "two")))
    code, said, err = say(*see(*words, *out, "--shard", "6/7"))
    assert (code, err) == (0, "")
    assert "no unit of this request is in shard 6/7: nothing to make" in said
    assert not (tmp_path / "r").exists()


def test_a_number_of_workers_needs_no_quotes(tmp_path: Path) -> None:
    file = write(tmp_path, "model: tiny:net\nunits: logits:0\nworkers: 2\n")
    (job,) = read_jobs(file, See)
    assert job.options.workers == "2"
