"""See `python jobs/benchmark_recall.py --help`. The last line printed is the path of report.json."""

import json
import sys
from pathlib import Path

from reco_ray.cluster import ray_session
from reco_ray.compose import job_of, to_yaml
from reco_ray.config import BenchmarkConfig
from reco_ray.evaluation import compare, divide, read_dataset, render


@job_of(BenchmarkConfig, "benchmark_recall")
def main(config: BenchmarkConfig) -> None:
    """Measure recall sources on a file of the user's own."""
    data = read_dataset(config)
    division = divide(data, config)
    folder = Path(config.out).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with ray_session(config.cluster):
        report = compare(data, division, config, folder)
    report |= {"command": " ".join(["python", *sys.argv]), "config": to_yaml(config)}
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    sys.stdout.write(f"{render(report)}\n{folder / 'report.json'}\n")


if __name__ == "__main__":
    main()
