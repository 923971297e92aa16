"""What folders of boxes have in common, whatever form their annotations have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidInput
from ..boxes import Boxes, Objects
from ..images import in_threads, size_of
from ..placement import Resize, Size
from ..split import Labels, SplitName
from .layout import Placing

Annotated = tuple[Objects, Size | None]
"""The objects of an image, and the height and width that its annotation tells, if any."""


@dataclass(frozen=True)
class BoxFolder:
    """Images and boxes of objects in them.

    Args:
        path: of the data set.
        names: of the classes.
        annotations: of the images of a split, in their order, whose sizes are given; raises InvalidInput.
    """

    path: Path
    images: Mapping[SplitName, tuple[Path, ...]]
    names: Callable[[], tuple[str, ...]]
    annotations: Callable[[SplitName, Sequence[Size]], Sequence[Annotated]]
    resize: Resize = "stretch"

    def labels(self, split: SplitName, placing: Placing) -> Boxes:
        """The boxes of a split; images that are not as large as their annotations say are an InvalidInput."""
        paths = self.images[split]
        sizes = in_threads(size_of, paths)
        annotated = self.annotations(split, sizes)
        for image, size, (objects, told) in zip(paths, sizes, annotated, strict=True):
            if told is not None and told != size:
                raise InvalidInput(
                    f"data {objects.file}: it says that {image.name} has {told[1]}x{told[0]} pixels, and the image has "
                    f"{size[1]}x{size[0]}; boxes would be wrong: give the images that were annotated"
                )
        placements = [placing.of(size) for size in sizes]
        return Boxes.placed(self.path, [objects for objects, _ in annotated], sizes, placements)

    def classes(self, labels: Mapping[SplitName, Labels]) -> tuple[str, ...]:
        return self.names()
