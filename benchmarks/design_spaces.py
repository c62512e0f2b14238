"""Draw the pictures of docs/design-spaces.md and print its verdicts: ``python -m benchmarks.design_spaces``."""

from __future__ import annotations

from pathlib import Path

from lightning_complexity.selection.design_spaces import pictures
from lightning_complexity.selection.design_spaces.comparing import compare_spaces
from lightning_complexity.selection.design_spaces.sizes import sample_size
from tests.selection.design_spaces.subspaces import at_least, cells, macro_networks, with_edges

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    """Compare parts of both tables."""
    pairs = {
        "macro": (at_least(macro_networks(), "MB6_K5", 2), "flops", "large kernels"),
        "nas-bench-201": (with_edges(cells(), 2, "skip_connect", "nor_conv_3x3"), "parameters", "an edge"),
    }
    for file, (pair, complexity, title) in pairs.items():
        found = compare_spaces(*pair.spaces, names=pair.names, complexity=complexity, logarithmic=file != "macro")
        print(f"{title}\n{found}\n")
        figure = pictures.picture_of_distributions(found)
        figure.savefig(IMAGES / f"spaces-{file}.png", dpi=75)
    sample = pair.spaces[0]["error"].sample(100, random_state=0)
    size = sample_size(sample)
    print(size)
    pictures.picture_of_sample_size(size).savefig(IMAGES / "spaces-sample-size.png", dpi=75)
    pictures.picture_of_efficiency(found).savefig(IMAGES / "spaces-efficiency.png", dpi=75)


if __name__ == "__main__":
    main()
