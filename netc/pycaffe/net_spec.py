"""Nets written in Python: calls of layer types that become a NetParameter.

    n = netc.NetSpec()
    n.data, n.label = L.Data(batch_size=64, source="train_lmdb", backend=P.Data.LMDB, ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.relu1 = L.ReLU(n.conv1, in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu1, n.label)
    print(n.to_proto())

with `from netc import layers as L, params as P`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from google.protobuf.message import Message

from netc.errors import NetcError
from netc.layer.registry import LAYER_TYPES
from netc.proto import netc_pb2 as pb
from netc.schema.fields import is_repeated
from netc.schema.suggestions import did_you_mean

__all__ = [
    "Function",
    "Layers",
    "NetSpec",
    "Parameters",
    "Top",
    "assign_proto",
    "layers",
    "param_name_dict",
    "params",
    "to_proto",
]


class Top:
    """One result of a layer: number `n` of `fn`. Give it to further layers."""

    def __init__(self, fn: Function, n: int) -> None:
        self.fn = fn
        self.n = n

    def to_proto(self) -> pb.NetParameter:
        """The net that ends in this top."""
        return to_proto(self)

    def __repr__(self) -> str:
        return f"<top {self.n} of a {self.fn.type_name} layer>"


class Function:
    """A layer as it was called: its type, the tops that it reads, its options, the tops that it makes."""

    def __init__(self, type_name: str, inputs: Iterable[Any], params: Mapping[str, Any]) -> None:
        self.type_name = type_name
        self.inputs: tuple[Top, ...] = tuple(inputs)
        for index, given in enumerate(self.inputs):
            if not isinstance(given, Top):
                raise NetcError(
                    f"bottom {index} of a {type_name} layer is not a top",
                    expected="the result of another layer",
                    found=repr(given),
                    remedy="name options: kernel_size=3; take several tops apart: a, b = L.Slice(x, ntop=2)",
                )
        self.params = dict(params)
        self.ntop = int(self.params.pop("ntop", 1))
        self.in_place = bool(self.params.pop("in_place", False))
        if self.in_place and (self.ntop != 1 or not self.inputs):
            raise NetcError(
                f"a {type_name} layer in place has one top: its bottom",
                found=f"{len(self.inputs)} bottoms, ntop={self.ntop}",
            )
        self.tops = tuple(Top(self, n) for n in range(self.ntop))

    def __repr__(self) -> str:
        return f"<{self.type_name} layer: {len(self.inputs)} bottoms, {self.ntop} tops>"


class NetSpec:
    """Names for tops, in order. Assign them as attributes, or as items where a name is no identifier."""

    tops: OrderedDict[str, Top | Function]

    def __init__(self) -> None:
        super().__setattr__("tops", OrderedDict())

    def __setattr__(self, name: str, value: Top | Function) -> None:
        if not isinstance(value, Top | Function):
            raise NetcError(
                f"{name} must be the result of a layer",
                expected="a top",
                found=repr(value),
                remedy="take several tops apart: n.a, n.b = L.Slice(n.x, ntop=2)",
            )
        self.tops[name] = value

    def __getattr__(self, name: str) -> Any:
        if name not in self.tops:
            raise AttributeError(f"the net has no top {name!r} yet; it has {', '.join(self.tops) or 'none'}")
        return self.tops[name]

    __setitem__ = __setattr__

    def __getitem__(self, name: str) -> Any:
        if name not in self.tops:
            raise KeyError(name)
        return self.tops[name]

    def __delattr__(self, name: str) -> None:
        del self.tops[name]

    __delitem__ = __delattr__

    def __contains__(self, name: str) -> bool:
        return name in self.tops

    def __iter__(self) -> Iterator[str]:
        return iter(self.tops)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.tops})

    def to_proto(self) -> pb.NetParameter:
        """The net of all tops that were named, and of those that they need. Raises NetcError for options
        that a layer does not have."""
        return _Writer({top: name for name, top in self.tops.items()}).net(self.tops.values())


def to_proto(*tops: Top | Function) -> pb.NetParameter:
    """The net that ends in these tops; layers are named by type and number."""
    return _Writer({}).net(tops)


class _Writer:
    """Makes a layer's message of each function that is reached, bottoms first."""

    def __init__(self, names: Mapping[Top | Function, str]) -> None:
        self.names: dict[Top | Function, str] = dict(names)
        self.numbers: Counter[str] = Counter()
        self.written: dict[Function, pb.LayerParameter] = {}

    def net(self, tops: Iterable[Top | Function]) -> pb.NetParameter:
        for top in tops:
            self.write(top.fn if isinstance(top, Top) else top)
        return pb.NetParameter(layer=self.written.values())

    def write(self, function: Function) -> None:
        """Writes a function, after those that it needs; a stack of its own, since nets may be deep."""
        waiting = [function]
        while waiting:
            current = waiting[-1]
            missing = [top.fn for top in current.inputs if top.fn not in self.written]
            if current in self.written:
                waiting.pop()
            elif missing:
                waiting.append(missing[0])
            else:
                self.written[current] = self.message(current)
                waiting.pop()

    def message(self, function: Function) -> pb.LayerParameter:
        layer = pb.LayerParameter(type=function.type_name)
        layer.bottom.extend(self.written[top.fn].top[top.n] for top in function.inputs)
        if function.in_place:
            layer.top.append(layer.bottom[0])
        else:
            layer.top.extend(self.name(top, function) for top in function.tops)
        # A layer is called as its first top is, in place too.
        layer.name = self.names.get(function) or self.name(
            function.tops[0] if function.tops else function, function
        )
        for option, value in function.params.items():
            assign_option(layer, option, value)
        return layer

    def name(self, of: Top | Function, function: Function) -> str:
        if of not in self.names:
            self.numbers[function.type_name] += 1
            self.names[of] = f"{function.type_name}{self.numbers[function.type_name]}"
        return self.names[of]


@cache
def param_name_dict() -> dict[str, str]:
    """By layer type, which field of LayerParameter holds the options that it is called with, without its
    `_param`."""
    fields = {
        field.message_type.name.removesuffix("Parameter"): field.name.removesuffix("_param")
        for field in reversed(pb.LayerParameter.DESCRIPTOR.fields)
        if field.name.endswith("_param") and field.message_type is not None
    }
    lent = {
        name: kind.options_field.removesuffix("_param")
        for name, kind in LAYER_TYPES.items()
        if kind.options_field
    }
    return lent | fields


def assign_option(layer: pb.LayerParameter, option: str, value: Any) -> None:
    """Sets an option where it belongs: in the message of the layer's type, or in the layer itself.

    Raises NetcError for an option that neither has.
    """
    own = param_name_dict().get(layer.type)
    places: list[Message] = [layer]
    if own is not None:  # `param` and `transform_param` are LayerParameter's own; so is all that no type has
        places.insert(1 if option.endswith("param") else 0, getattr(layer, f"{own}_param"))
    for place in places:
        if option in place.DESCRIPTOR.fields_by_name:
            assign_proto(place, option, value)
            if place is not layer:
                place.SetInParent()
            return
    known = [name for place in places for name in place.DESCRIPTOR.fields_by_name]
    raise NetcError(
        f"a {layer.type} layer has no option {option!r}",
        layer=layer.name or layer.type,
        remedy=did_you_mean(option, known),
    )


def assign_proto(proto: Message, name: str, val: Any) -> None:
    """Sets a field of a message: numbers, strings, names of enum values; dicts for messages; lists, or a
    single value, for repeated fields. Raises NetcError for a field that does not exist or does not take the
    value."""
    field: Any = proto.DESCRIPTOR.fields_by_name.get(name)
    if field is None:
        raise NetcError(
            f"{proto.DESCRIPTOR.name} has no field {name!r}",
            remedy=did_you_mean(name, proto.DESCRIPTOR.fields_by_name),
        )
    try:
        if is_repeated(field):
            _extend(getattr(proto, name), field, val)
        elif field.message_type is not None:
            _merge(getattr(proto, name), val)
        else:
            setattr(proto, name, _scalar(field, val))
    except (TypeError, ValueError) as error:
        raise NetcError(
            f"{proto.DESCRIPTOR.name}.{name} does not take this value", found=repr(val), expected=str(error)
        ) from error


def _extend(container: Any, field: Any, val: Any) -> None:
    is_one = isinstance(val, str | bytes | Mapping | Message) or not hasattr(val, "__iter__")
    for item in [val] if is_one else val:
        if field.message_type is not None:
            _merge(container.add(), item)
        else:
            container.append(_scalar(field, item))


def _merge(message: Any, val: Any) -> None:
    if isinstance(val, Message):
        message.CopyFrom(val)
        return
    if not isinstance(val, Mapping):
        raise TypeError(f"a dict of the fields of {message.DESCRIPTOR.name}")
    message.SetInParent()
    for name, item in val.items():
        assign_proto(message, name, item)


def _scalar(field: Any, val: Any) -> Any:
    """A value as protobuf takes it: the number of an enum's name, a Python number of NumPy's."""
    if field.enum_type is not None and isinstance(val, str):
        numbers = field.enum_type.values_by_name
        if val not in numbers:
            raise ValueError(f"one of {', '.join(numbers)}")
        return numbers[val].number
    return val.item() if hasattr(val, "item") else val


class Layers:
    """`layers.Convolution(bottom, num_output=20, kernel_size=5)` calls a layer type; any type's name will
    do."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def layer(*bottoms: Top, **options: Any) -> Any:
            function = Function(name, bottoms, options)
            if function.ntop == 0:
                return function
            return function.tops[0] if function.ntop == 1 else function.tops

        layer.__name__ = layer.__qualname__ = name
        layer.__doc__ = (
            f"A {name} layer on these bottoms: its top, or `ntop` of them as a tuple (with 0, the layer).\n\n"
            "options: those of the type's message, and LayerParameter's own (name, param, include, ...);\n"
            "in_place=True makes the bottom the top."
        )
        return layer

    def __dir__(self) -> list[str]:
        return sorted(LAYER_TYPES)


class _Enums:
    """The enum values of one message, by name."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> int:
        try:
            return int(getattr(self._message, name))
        except (AttributeError, TypeError):
            raise AttributeError(
                f"{self._message.DESCRIPTOR.name} has no value {name!r}; it has {', '.join(dir(self))}"
            ) from None

    def __dir__(self) -> list[str]:
        return sorted(self._message.DESCRIPTOR.enum_values_by_name)


class Parameters:
    """`params.Pooling.MAX`: the enum values of a layer type's options."""

    def __getattr__(self, name: str) -> Any:
        message = getattr(pb, f"{name}Parameter", None)
        if message is None:
            raise AttributeError(f"there are no options called {name!r}")
        return _Enums(message)

    def __dir__(self) -> list[str]:
        return sorted(
            name.removesuffix("Parameter")
            for name, message in pb.DESCRIPTOR.message_types_by_name.items()
            if name.endswith("Parameter") and message.enum_types
        )


layers = Layers()
params = Parameters()
