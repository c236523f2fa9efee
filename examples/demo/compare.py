"""Compare a scan's report with the phantom's true volumes, and say where to look. Research use only."""

import json
import sys
from pathlib import Path

FIGURES = {
    "right lung, mL": ("right_lung_ml", ("regions", "right_lung", "volume_ml")),
    "left lung, mL": ("left_lung_ml", ("regions", "left_lung", "volume_ml")),
    "infection, mL": ("infection_ml", ("regions", "lungs", "infection_ml")),
}


def main(truth_path: str, out: str) -> None:
    truth = json.loads(Path(truth_path).read_text())
    [path] = Path(out).glob("*/*/report.json")
    report = json.loads(path.read_text())
    print(f"\n{'':18}{'truth':>9}{'covct':>9}{'off by':>9}")
    for name, (key, where) in FIGURES.items():
        true, found = truth["volumes"][key], report
        for step in where:
            found = found[step]
        print(f"{name:18}{true:9.0f}{found:9.0f}{100 * (found - true) / true:8.1f} %")
    lungs = report["regions"]["lungs"]
    print(f"infected: {lungs['infection_percent']:.1f} % of the lungs, severity class {report['severity']['class']}")
    print(f"\nlook at   {path.with_name('report.pdf')}\n          {Path(out) / 'index.html'}")
    print(report["research_use"])


if __name__ == "__main__":
    main(*sys.argv[1:])
