"""compute_image_mean writes the file that Caffe's writes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from netc.data.mean import compute_image_mean
from netc.errors import NetcError

from .test_convert import VARIANTS

WITH_MEANS = [variant for variant, made in VARIANTS.items() if "mean_rc" in made]


@pytest.mark.parametrize("variant", WITH_MEANS)
def test_the_mean_is_caffes(variant, imageset, tmp_path):
    seen = []
    means = compute_image_mean(
        str(imageset / variant), str(tmp_path / "mean"), progress=lambda *at: seen.append(at)
    )
    assert (tmp_path / "mean").read_bytes() == (imageset / f"{variant}.mean.binaryproto").read_bytes()
    np.testing.assert_allclose(means, VARIANTS[variant]["mean_values_log"], rtol=1e-5)
    assert seen[-1] == (VARIANTS[variant]["n"], VARIANTS[variant]["n"])


def test_images_of_different_sizes_have_no_mean(imageset, tmp_path):
    with pytest.raises(NetcError, match="differ in shape"):
        compute_image_mean(str(imageset / "native_mixed"), str(tmp_path / "mean"))
    assert os.listdir(tmp_path) == []


def test_a_record_that_does_not_decode_is_named(make_database, pictures, tmp_path):
    folder = make_database(pictures, extra={3: b"\xff"})
    with pytest.raises(NetcError, match=r"record 00000003 of .* does not decode"):
        compute_image_mean(folder, str(tmp_path / "mean"))
    assert not Path(tmp_path / "mean").exists()


def test_a_leveldb_has_a_mean_too(make_database, pictures):
    pytest.importorskip("plyvel", reason="LevelDB is optional: pip install netc[leveldb]")
    folder = make_database(pictures, backend="leveldb")
    np.testing.assert_allclose(compute_image_mean(folder), pictures.mean(axis=(0, 2, 3)), rtol=1e-6)
