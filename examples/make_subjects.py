"""Draw the example subjects: four 128-pixel pictures each of three characters that the embedded base never saw.

python examples/make_subjects.py        # writes examples/subjects/NAME/1.png … 4.png, the same each time
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from palp.atomic import atomic_write
from palp.base.icons.grammar import training_subjects
from palp.base.icons.portraits import portrait, wall

SUBJECTS = ("dodo", "llama", "pickup truck")
BACKDROPS = (  # top, bottom and floor: a plain wall, two wide gradients, a wall with a floor
    ((244, 244, 240), (244, 244, 240), False),
    ((250, 222, 150), (246, 186, 120), False),
    ((176, 214, 246), (224, 240, 252), False),
    ((206, 198, 222), (150, 138, 170), True),
)


def main() -> None:
    """Write every picture of every subject."""
    folder = Path(__file__).parent / "subjects"
    for name in SUBJECTS:
        entry = training_subjects()[name]
        assert entry["split"] == "train", f"{name} is kept for reports"
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for index, backdrop in enumerate(BACKDROPS, start=1):
            picture = portrait(entry["codepoint"], wall(*backdrop), rng)
            with atomic_write(folder / name.replace(" ", "-") / f"{index}.png") as temporary:
                picture.save(temporary, format="PNG")


if __name__ == "__main__":
    main()
