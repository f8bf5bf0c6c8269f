"""The prototxt parser: it reads what protobuf reads, and names every error with its line and column."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from netc.errors import NetcError, NetcErrors
from netc.proto import netc_pb2 as pb
from netc.schema.text import format_text, parse_text, read_text


def net(text: str | bytes) -> pb.NetParameter:
    return parse_text(text, pb.NetParameter, "net.prototxt").message


def errors_of(text: str | bytes, message_class: type = pb.NetParameter) -> list[NetcError]:
    with pytest.raises(NetcError) as caught:
        parse_text(text, message_class, "net.prototxt")
    return caught.value.errors if isinstance(caught.value, NetcErrors) else [caught.value]


def the_error(text: str | bytes, message_class: type = pb.NetParameter) -> NetcError:
    (error,) = errors_of(text, message_class)
    return error


def place(error: NetcError) -> tuple[int, int]:
    assert error.at is not None
    assert error.at.file == "net.prototxt"
    return error.at.line, error.at.column


# What is read


def golden_texts(golden: Path) -> list[tuple[type, str]]:
    texts: list[tuple[type, str]] = []
    for path in sorted([*golden.glob("solvers/*.prototxt"), *golden.glob("upgrade/*.prototxt")]):
        texts.append((pb.SolverParameter if "solver_" in path.name else pb.NetParameter, path.read_text()))
    for path in sorted([*golden.glob("layers/*.npz"), *golden.glob("solvers/*.npz")]):
        with np.load(path) as case:
            for key, kind in (
                ("prototxt", pb.NetParameter),
                ("net", pb.NetParameter),
                ("solver", pb.SolverParameter),
            ):
                if key in case:
                    texts.append((kind, str(case[key])))
    return texts


def test_golden_texts_read_as_protobuf_reads_them(golden: Path) -> None:
    texts = golden_texts(golden)
    assert len(texts) > 300
    for kind, text in texts:
        assert parse_text(text, kind).message == text_format.Parse(text, kind())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment",
        'name: "a" # comment\n# another\nforce_backward: true',
        "layer { name: 'a' } layer < name: \"b\" >",
        'layer: { name: "a" }; layer { name: "b" },',
        "layer { convolution_param: < kernel_size: 3 > }",
        "input_dim: [1, 2, 3] input_dim: 4 input_dim: []",
        "layer [{ name: 'a' }, < name: 'b' >]",
        "layer: [{ name: 'a' }]",
        "name: 'ab' \"cd\"\n 'ef'",
        r"name: '\n\r\t\a\b\f\v\\\'\"\101\x41\x9 é \303\251 \u00e9 \U0001F600'",
        "input_dim: 0x10 input_dim: 010 input_dim: -0x10 input_dim: -7 input_dim: 0",
        "input_dim: 2147483647 input_dim: -2147483648",
        "layer { loss_weight: 1. loss_weight: .5 loss_weight: 1e-3 loss_weight: 1.5f "
        "loss_weight: -inf loss_weight: Infinity loss_weight: -1 loss_weight: 1E+3 loss_weight: 0.0 }",
        "layer { propagate_down: [true, t, True, 1, false, f, False, 0] }",
        "layer { phase: TEST } layer { phase: 1 } layer { include { phase: TRAIN } }",
        "layer{name:'a'type:'b'bottom:'c'}",
        "input_shape { dim: 9223372036854775807 dim: -1 }",
        "layer { clip_param { min: -1 max: 1 } }",
    ],
)
def test_syntax_reads_as_protobuf_reads_it(text: str) -> None:
    assert net(text) == text_format.Parse(text, pb.NetParameter())


def test_syntax_that_only_the_cpp_parser_of_protobuf_reads() -> None:
    assert net(r"name: '\?'").name == "?"
    assert list(net("input_dim: - 7").input_dim) == [-7]
    assert list(net("layer { loss_weight: 2F }").layer[0].loss_weight) == [2]


def test_not_a_number_is_a_number_that_can_be_written() -> None:
    assert math.isnan(net("layer { loss_weight: nan }").layer[0].loss_weight[0])


def test_byte_order_mark_is_passed_over() -> None:
    assert net(b"\xef\xbb\xbfname: 'a'").name == "a"


def test_bytes_fields_keep_any_byte() -> None:
    assert parse_text(r'data: "\377\000a"', pb.Datum).message.data == b"\xff\x00a"


def test_formatted_text_reads_back() -> None:
    message = net("name: 'é' layer { loss_weight: 0.1 phase: TEST }")
    assert net(format_text(message)) == message


def test_ten_thousand_lines_take_less_than_a_few_seconds() -> None:
    # Half a second when alone; the bound is against a quadratic walk, which would take minutes.
    layer = 'layer {\n name: "c"\n type: "Convolution"\n convolution_param {\n num_output: 3\n }\n}\n'
    start = time.process_time()
    assert len(net(layer * 5000).layer) == 5000
    assert time.process_time() - start < 10


# Errors: the text, where it is wrong, and words that the message must hold


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("\n  nmae: 'a'", 2, 3, ["no field nmae", "did you mean name?"]),
        ("layer { Name: 'a' }", 1, 9, ["no field Name", "did you mean name?"]),
        ("layer { convolution_param { num_outptu: 3 } }", 1, 29, ["ConvolutionParameter", "num_output?"]),
        ("layer { pooling_param {\n pool: AVERAGE } }", 2, 8, ["no value AVERAGE", "MAX, AVE", "mean AVE?"]),
        ("layer { pooling_param { pool: max } }", 1, 31, ["did you mean MAX?"]),
        ("layer { pooling_param { pool: 7 } }", 1, 31, ["no value 7", "MAX, AVE"]),
        ("layer { pooling_param { pool: 'AVE' } }", 1, 31, ["write AVE without quotes"]),
        ("layer { type: Convolution }", 1, 15, ["takes a string", 'write "Convolution"']),
        ("layer { data_param { source: data/mnist } }", 1, 30, ['write "data/mnist"']),
        ("name: 'abc\nforce_backward: true", 1, 7, ["not closed"]),
        ("name: 'a' force_backward: maybe", 1, 27, ["takes true or false"]),
        ("name: 'a' force_backward: TRUE", 1, 27, ["write true"]),
        ("input_dim: 2147483648", 1, 12, ["out of range", "int32"]),
        ("layer { convolution_param { pad: -1 } }", 1, 34, ["-1 is out of range", "uint32"]),
        ("layer { convolution_param { pad: " + "9" * 5000 + " } }", 1, 34, ["out of range|not an integer"]),
        ("input_dim: 3.0", 1, 12, ["3.0 is not an integer", "write 3"]),
        ("input_dim: 1e400", 1, 12, ["not an integer"]),
        ("input_dim: 09", 1, 12, ["not an integer"]),
        ("input_dim: x", 1, 12, ["takes an integer", "not x"]),
        ("input_dim: '3'", 1, 12, ["takes an integer", "write 3 without quotes"]),
        ("layer { loss_weight: '-.5' }", 1, 22, ["takes a number", "write -.5 without quotes"]),
        ("layer { loss_weight: 0x10 }", 1, 22, ["not a decimal number"]),
        ("layer { loss_weight: 1.2.3 }", 1, 22, ["not a decimal number"]),
        ("name: 'a'\nname: 'b'", 2, 1, ["name is given twice", "line 1"]),
        ("layer { pooling_param { } pooling_param { } }", 1, 27, ["given twice"]),
        ("name 'a'", 1, 1, ["no colon", "name:"]),
        ("name:", 1, 1, ["name has no value"]),
        ("layer { name: }", 1, 9, ["name has no value"]),
        ("layer { convolution_param { num_output:\n bias_term: true } }", 1, 29, ["num_output has no value"]),
        ("layer: 3", 1, 1, ["takes a message", "layer {"]),
        ("layer { name: 'a'", 1, 1, ["layer is never closed"]),
        ("layer {\n convolution_param { pad: 1\n}", 1, 1, ["layer is never closed"]),
        ("name: 'a' }", 1, 11, ["closes nothing"]),
        ("layer { name: 'a' >", 1, 19, ["wrong bracket"]),
        ("name: 'a' 'b' 7", 1, 15, ["field name is missing"]),
        ("input_dim: [1 2]", 1, 15, ["comma is missing"]),
        ("input_dim: [1, 2\nname: 'a'", 1, 12, ["list of input_dim is never closed"]),
        ("name: ['a']", 1, 1, ["name has no value"]),
        ("layer { clip_param { min: 3 } }", 1, 9, ["clip_param needs max"]),
        (r"name: 'a\q'", 1, 7, ["unknown escape", "write \\\\"]),
        (r"name: '\777'", 1, 7, ["more than a byte"]),
        (r"name: '\377'", 1, 7, ["not UTF-8"]),
        (r"name: '\000'", 1, 7, ["NUL"]),
        (r"name: '\ud800'", 1, 7, ["no character"]),
        ("foo { bar { baz: [1, { a: 'x' }] } } name: 'a'", 1, 1, ["no field foo"]),
        ("[a.b] { c: 1 }", 1, 1, ["field name is missing"]),
        ("\u00e9: 1", 1, 1, ["field name is missing"]),
        (b"name: 'a'\n \xff", 2, 2, ["not UTF-8"]),
        (b"name: 'a'\n\n\0", 3, 1, ["NUL"]),
    ],
)
def test_an_error_has_its_place_and_a_remedy(
    text: str | bytes, line: int, column: int, words: list[str]
) -> None:
    error = errors_of(text)[0]
    assert place(error) == (line, column)
    for word in words:
        assert any(choice in str(error) for choice in (word, *word.split("|"))), str(error)


def test_all_errors_of_a_file_are_reported_at_once_and_in_order() -> None:
    text = """nam: "x"
layer {
  name: "c1" type: "Convolution"
  num_output: 3
  convolution_param { num_output: 2.5 engine: CUDN bias_term: yes weight_filler { type: xavier } }
}
layer { name: "p" pooling_param { pool: MAXX stride: } top: 3 }
"""
    places = [place(error) for error in errors_of(text)]
    assert places == [(1, 1), (4, 3), (5, 35), (5, 47), (5, 63), (5, 89), (7, 41), (7, 46), (7, 61)]


def test_an_error_names_its_layer() -> None:
    assert the_error("layer { name: 'conv1' convolution_param { pda: 1 } }").layer == "conv1"


def test_a_field_in_the_wrong_message_is_sent_to_the_right_one() -> None:
    by_type = "layer {{ type: '{}' num_output: 3 }}"
    assert the_error(by_type.format("InnerProduct")).remedy == (
        "it belongs inside: inner_product_param { num_output }"
    )
    unknown_type = the_error("layer { num_output: 3 }").remedy
    assert unknown_type is not None
    assert "convolution_param { num_output }" in unknown_type
    assert "inner_product_param { num_output }" in unknown_type
    assert (
        the_error("layer { convolution_param { bottom: 'a' } }").remedy == "it belongs to the layer around it"
    )
    beside = the_error("layer { convolution_param { lr_mult: 1 } }").remedy
    assert beside is not None
    assert "param { lr_mult }" in beside


def test_a_forgotten_brace_is_one_error_and_costs_nothing_after_it() -> None:
    text = 'layer {\n name: "a"\n convolution_param { pad: 1\nlayer {\n name: "b"\n nmae: "c"\n}\n'
    errors = errors_of(text)
    assert [place(error) for error in errors] == [(4, 1), (6, 2)]
    assert "line 1" in str(errors[0])


@pytest.mark.parametrize("text", ["a { " * 100_000, "layer { " * 100_000, "[" * 100_000, "layer [" * 50_000])
def test_no_nesting_is_too_deep(text: str) -> None:
    assert errors_of(text)


@pytest.mark.parametrize(
    "text", ["'" * 50_000, "\\" * 50_000, " " * 1_000_000 + "}", "-" * 50_000, "1" * 500_000]
)
def test_long_runs_take_no_time(text: str) -> None:
    start = time.process_time()
    assert errors_of(text)
    assert time.process_time() - start < 5


def test_a_text_full_of_errors_is_given_up() -> None:
    errors = errors_of("x: 1\n" * 10_000)
    assert len(errors) == 101
    assert "too many" in str(errors[-1])


# Positions


def test_positions_are_those_of_the_fields() -> None:
    text = "name: 'n'\nlayer {\n  name: 'a'\n  convolution_param {\n    kernel_size: [3, 5] kernel_size: 7 }}"
    at = parse_text(text, pb.NetParameter, "f").positions.at
    where = ("layer", 0, "convolution_param")
    assert str(at("name")) == "f:1:1"
    assert str(at("layer", 0)) == str(at("layer")) == "f:2:1"
    assert str(at("layer", 0, "name")) == "f:3:3"
    assert [str(at(*where, "kernel_size", i)) for i in range(3)] == ["f:5:5", "f:5:22", "f:5:25"]


def test_positions_fall_back_to_what_is_around() -> None:
    at = parse_text("name: 'n'\nlayer {\n  pooling_param { } }", pb.NetParameter, "f").positions.at
    assert str(at("layer", 0, "pooling_param", "stride")) == "f:3:3"
    assert str(at("layer", 0, "bottom", 2)) == "f:2:1"
    assert str(at("layer", 7)) == "f:2:1"
    assert str(at("state")) == str(at()) == "f:1:1"


# Files


def test_a_missing_file_names_those_that_are_near(tmp_path: Path) -> None:
    (tmp_path / "train_val.prototxt").write_text("name: 'a'")
    with pytest.raises(NetcError, match=r"no such file(.|\n)*did you mean .*train_val\.prototxt") as caught:
        read_text(tmp_path / "trainval.prototxt", pb.NetParameter)
    assert str(caught.value.at) == str(tmp_path / "trainval.prototxt")


def test_files_that_are_no_prototxt_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n# nothing\n")
    (tmp_path / "binary").write_bytes(bytes(range(1, 256)))
    for name, words in (
        ("empty", "is empty"),
        ("binary", "not UTF-8"),
        ("", "folder"),
        ("no/such", "no such file"),
    ):
        with pytest.raises(NetcError, match=words) as caught:
            read_text(tmp_path / name, pb.NetParameter)
        assert str(tmp_path / name) in str(caught.value.at)


def test_a_device_is_no_prototxt() -> None:
    with pytest.raises(NetcError, match="device"):
        read_text("/dev/zero", pb.NetParameter)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.prototxt"
    path.write_text("name: 'a'")
    path.chmod(0)
    with pytest.raises(NetcError, match="permissions"):
        read_text(path, pb.NetParameter)


@pytest.mark.parametrize(
    ("text", "wanted", "what"),
    [
        ('layer { name: "a" type: "ReLU" bottom: "x" top: "y" }', pb.SolverParameter, "this is a net"),
        ('base_lr: 0.1 net: "net.prototxt"', pb.NetParameter, "this is a solver"),
    ],
)
def test_a_net_given_for_a_solver_is_one_error(text: str, wanted: type, what: str) -> None:
    with pytest.raises(NetcError, match=what) as caught:
        parse_text(text, wanted, "given.prototxt")
    assert "given.prototxt:1:1" in str(caught.value)
    assert "-solver" in str(caught.value)


def test_a_mistake_in_either_stays_that_mistake() -> None:
    with pytest.raises(NetcError, match="base_rl"):
        parse_text('base_rl: 0.1 net: "net.prototxt"', pb.SolverParameter)
