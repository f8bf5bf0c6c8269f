"""Split layers, inserted where a blob is read more than once, under the names that Caffe gives them.

With them every value has one reader (or one in-place successor), so each gradient is written exactly once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from netc.proto import netc_pb2 as pb


@dataclass(frozen=True)
class PlacedLayer:
    """A layer's message and its index among the `layer` entries of the file it came from (None: made by
    netc).

    written: the prototxt's names of its bottoms that are tops of split layers now.
    """

    spec: pb.LayerParameter
    index: int | None
    written: dict[str, str] = field(default_factory=dict)


Top = tuple[int, int]  # layer, top


def insert_splits(layers: list[PlacedLayer]) -> list[PlacedLayer]:
    """The layers with a Split behind every top that has several readers; a stated loss weight counts as a
    reader.

    Bottoms that no earlier layer makes are left as they are, for the builder to report.
    """
    readers, sources = _count_readers(layers)
    taken: dict[Top, int] = defaultdict(int)
    result: list[PlacedLayer] = []
    for i, placed in enumerate(layers):
        spec = pb.LayerParameter()
        spec.CopyFrom(placed.spec)
        written: dict[str, str] = {}
        for j, source in enumerate(sources[i]):
            if source is not None and readers[source] > 1:
                producer = layers[source[0]].spec
                spec.bottom[j] = _split_top(producer, source[1], taken[source])
                written[spec.bottom[j]] = placed.spec.bottom[j]
                taken[source] += 1
        result.append(PlacedLayer(spec, placed.index, written))
        for j in range(len(placed.spec.top)):
            if readers[i, j] > 1:
                weight = _loss_weight(placed.spec, j)
                result.append(PlacedLayer(_split_layer(placed.spec, j, readers[i, j], weight), None))
                if weight:
                    spec.loss_weight[j] = 0
                    taken[i, j] += 1
    return result


def _count_readers(layers: list[PlacedLayer]) -> tuple[Counter[Top], list[list[Top | None]]]:
    """How many readers each top has, and which top each bottom reads."""
    readers: Counter[Top] = Counter()
    sources: list[list[Top | None]] = []
    last_top: dict[str, Top] = {}
    for i, placed in enumerate(layers):
        sources.append([last_top.get(bottom) for bottom in placed.spec.bottom])
        readers.update(source for source in sources[-1] if source is not None)
        for j, top in enumerate(placed.spec.top):
            last_top[top] = (i, j)
            if _loss_weight(placed.spec, j):
                readers[i, j] += 1
    return readers, sources


def _loss_weight(spec: pb.LayerParameter, top: int) -> float:
    return spec.loss_weight[top] if top < len(spec.loss_weight) else 0.0


def _split_top(producer: pb.LayerParameter, top: int, copy: int) -> str:
    return f"{producer.top[top]}_{producer.name}_{top}_split_{copy}"


def _split_layer(producer: pb.LayerParameter, top: int, copies: int, loss_weight: float) -> pb.LayerParameter:
    split = pb.LayerParameter(name=f"{producer.top[top]}_{producer.name}_{top}_split", type="Split")
    split.bottom.append(producer.top[top])
    split.top.extend(_split_top(producer, top, copy) for copy in range(copies))
    if loss_weight:
        split.loss_weight.extend([loss_weight] + [0.0] * (copies - 1))
    return split
