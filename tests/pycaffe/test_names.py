"""What can be imported, under which names, and what that costs."""

from __future__ import annotations

import inspect
import pydoc
from pathlib import Path

import pytest

import netc
import netc.pycaffe
from netc.proto import netc_pb2 as pb
from tests.pycaffe.own_process import run_python

# What pycaffe offers, module by module.
PYCAFFE = {
    "": "Net Layer SGDSolver NesterovSolver AdaGradSolver RMSPropSolver AdaDeltaSolver AdamSolver NCCL Timer "
    "get_solver layer_type_list set_mode_cpu set_mode_gpu set_device set_random_seed init_log log has_nccl "
    "solver_count set_solver_count solver_rank set_solver_rank set_multiprocess TRAIN TEST Classifier "
    "Detector NetSpec to_proto layers params io net_spec classifier detector coord_map draw pycaffe "
    "proto __version__",
    "io": "load_image resize_image oversample Transformer blobproto_to_array array_to_blobproto "
    "array_to_datum datum_to_array arraylist_to_blobprotovector_str blobprotovector_str_to_arraylist "
    "caffe_pb2",
    "net_spec": "Top Function NetSpec Layers Parameters layers params to_proto assign_proto param_name_dict",
    "coord_map": "coord_map coord_map_from_to crop UndefinedMapException AxisMismatchException",
    "draw": "draw_net draw_net_to_file get_layer_label get_pooling_types_dict",
    "classifier": "Classifier",
    "detector": "Detector",
    "pycaffe": "Net SGDSolver",
    "proto.caffe_pb2": "NetParameter LayerParameter SolverParameter Datum BlobProto TRAIN TEST",
}


@pytest.mark.parametrize("module", PYCAFFE)
def test_every_name_of_pycaffe_is_there(module: str) -> None:
    place = netc
    for part in filter(None, module.split(".")):
        place = getattr(place, part)
    assert [name for name in PYCAFFE[module].split() if not hasattr(place, name)] == []


def test_netc_offers_what_its_pycaffe_offers() -> None:
    for name in netc.pycaffe.__all__:
        assert getattr(netc, name) is getattr(netc.pycaffe, name)
        assert name in dir(netc)


def public_functions() -> list[tuple[str, object]]:
    found = []
    for name in sorted(netc.pycaffe.__all__):
        value = getattr(netc, name)
        if inspect.isclass(value):
            found += [
                (f"{name}.{method}", function)
                for method, function in inspect.getmembers(value, inspect.isfunction)
                if not method.startswith("_")
            ]
        if inspect.isclass(value) or inspect.isfunction(value):
            found.append((name, value))
    return found


@pytest.mark.parametrize(("name", "value"), public_functions())
def test_help_tells_what_it_is_for(name: str, value: object) -> None:
    assert inspect.getdoc(value), f"{name} has no docstring"
    if inspect.isfunction(value):
        hints = inspect.signature(value)
        assert hints.return_annotation is not inspect.Signature.empty, name
        assert all(
            each.annotation is not inspect.Parameter.empty
            for each in hints.parameters.values()
            if each.name != "self"
        ), name


def test_help_on_netc_lists_its_names() -> None:
    text = pydoc.plain(pydoc.render_doc(netc))
    for name in ("Net", "SGDSolver", "load_image", "as_caffe", "set_random_seed"):
        assert name in text


AS_CAFFE = """
import netc.as_caffe
import caffe
import caffe.io, caffe.proto.caffe_pb2, caffe.draw, caffe.coord_map, caffe.detector, caffe.pycaffe
from caffe import layers as L, params as P
from caffe.io import Transformer
from caffe.net_spec import NetSpec
from caffe.classifier import Classifier
from caffe.proto import caffe_pb2
import netc.io
from netc.proto import netc_pb2

assert caffe is netc
assert caffe.io is netc.io and Transformer is netc.io.Transformer
assert NetSpec is netc.NetSpec and Classifier is caffe.Classifier
assert caffe_pb2 is netc_pb2 is caffe.proto.caffe_pb2
assert P.Pooling.AVE == 1 and (caffe.TRAIN, caffe.TEST) == (0, 1)
assert L.ReLU.__name__ == "ReLU"
"""


def test_one_line_makes_netc_be_caffe() -> None:
    done = run_python(AS_CAFFE)
    assert (done.returncode, done.stderr) == (0, "")


def test_another_caffe_that_is_imported_already_is_refused(tmp_path: Path) -> None:
    (tmp_path / "caffe.py").write_text("")
    done = run_python("import caffe\nimport netc.as_caffe", tmp_path)
    assert done.returncode == 1
    assert "another caffe is imported already" in done.stderr
    assert "before the first `import caffe`" in done.stderr


def test_netc_takes_the_place_of_a_caffe_that_is_installed(tmp_path: Path) -> None:
    (tmp_path / "caffe").mkdir()
    (tmp_path / "caffe" / "__init__.py").write_text("raise ImportError('the real one')")
    (tmp_path / "caffe" / "io.py").write_text("raise ImportError('the real one')")
    done = run_python("import netc.as_caffe, caffe, caffe.io; assert caffe.io.load_image", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_does_not_exist_is_named_as_it_was_asked_for() -> None:
    done = run_python("import netc.as_caffe, caffe.nothing")
    assert "No module named 'caffe.nothing'" in done.stderr


def test_a_submodule_is_imported_when_it_is_first_used() -> None:
    done = run_python(
        "import sys, netc\n"
        "assert not any(name.startswith(('numpy', 'google')) for name in sys.modules)\n"
        "assert netc.io.load_image and netc.Net and netc.layers.ReLU"
    )
    assert (done.returncode, done.stderr) == (0, "")


LAYER_FOR_CAFFE = """
import caffe

class Double(caffe.Layer):
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data
"""
NET_FOR_CAFFE = """
layer { name: "x" type: "DummyData" top: "x"
  dummy_data_param { shape { dim: 1 } data_filler { type: "constant" value: 21 } } }
layer { name: "y" type: "Python" bottom: "x" top: "y"
  python_param { module: "layer_for_caffe" layer: "Double" } }
"""


def test_commands_run_python_layers_that_were_written_for_caffe(tmp_path: Path) -> None:
    (tmp_path / "layer_for_caffe.py").write_text(LAYER_FOR_CAFFE)
    (tmp_path / "net.prototxt").write_text(NET_FOR_CAFFE)
    weights = tmp_path / "none.caffemodel"
    weights.write_bytes(pb.NetParameter(layer=[pb.LayerParameter(name="x")]).SerializeToString())
    command = ["test", "-model", str(tmp_path / "net.prototxt"), "-weights", str(weights), "-iterations", "1"]
    done = run_python(f"from netc.cli.main import main; raise SystemExit(main({command!r}))", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "y = 42" in done.stderr
