"""NIfTI and DICOM files wherever images are taken, with the true values."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from given import RNG, table
from numpy.typing import NDArray

from robustbench_med.data.catalog import load_dataset
from robustbench_med.data.decoding import Scale
from robustbench_med.data.medical import is_medical, read_scan, shape_of
from robustbench_med.util.errors import UserError

HOUNSFIELD = RNG.integers(-1000, 1500, (6, 7)).astype(np.int16)
ABDOMEN = "window: {center: 40, width: 400}\n"
WINDOWED = np.clip((HOUNSFIELD + 160.0) / 400, 0, 1)


def dicom(path: Path, stored: NDArray[Any], **tags: Any) -> Path:
    """Write a DICOM file of unsigned 16-bit (or 8-bit) values."""
    pydicom = pytest.importorskip("pydicom")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = pydicom.dataset.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[str(path)])
    bits = 8 * stored.dtype.itemsize
    usual = {
        "PatientID": "someone",
        "Modality": "CT",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
    }
    for name, value in {**usual, **tags}.items():
        setattr(data, name, value)
    data.PixelData = stored.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


def nifti(path: Path, values: NDArray[Any], affine: NDArray[Any] | None = None) -> Path:
    nibabel = pytest.importorskip("nibabel")
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def ct(path: Path, hounsfield: NDArray[np.int16] = HOUNSFIELD, **tags: Any) -> Path:
    """A CT stored with an intercept of -1024."""
    stored = (hounsfield + 1024).astype(np.uint16)
    return dicom(path, stored, RescaleSlope="1", RescaleIntercept="-1024", **tags)


def shares(path: Path, scale: Scale | None = None) -> NDArray[Any]:
    pixels = read_scan(path, scale).pixels
    return pixels / (255 if pixels.dtype == np.uint8 else 65535)


@pytest.mark.parametrize("name", ["1.dcm", "IM0001", "1.2.840.5"])
def test_dicom_in_class_folders_is_read_through_its_window(tmp_path: Path, name: str) -> None:
    for label, shift in (("ill", 0), ("well", 100)):
        ct(tmp_path / label / name, (HOUNSFIELD + shift).astype(np.int16), PatientID=label)
    with pytest.raises(UserError, match=r"full scale is not known.*"):
        load_dataset(str(tmp_path))
    (tmp_path / "dataset.yaml").write_text(ABDOMEN)
    found = load_dataset(str(tmp_path))
    np.testing.assert_allclose(found.values("image", [0])[0, 0], WINDOWED, atol=1e-5)
    assert found.groups == tuple(hashlib.sha256(p.encode()).hexdigest()[:12] for p in ("ill", "well"))
    (tmp_path / "dataset.yaml").write_text("window: {center: 40, width: 380}\n")
    assert load_dataset(str(tmp_path)).fingerprint != found.fingerprint


def test_a_files_own_window_is_taken_and_said(tmp_path: Path) -> None:
    for label in ("a", "b"):
        ct(tmp_path / label / "1.dcm", WindowCenter=["40", "400"], WindowWidth=["400", "1500"])
    found = load_dataset(str(tmp_path))
    np.testing.assert_allclose(found.values("image", [0])[0, 0], WINDOWED, atol=1e-5)
    assert "its own window, center 40 and width 400" in " ".join(found.info.caveats)


def test_dicom_without_a_window(tmp_path: Path) -> None:
    grey = RNG.integers(0, 256, (6, 7), dtype=np.uint8)
    np.testing.assert_allclose(shares(dicom(tmp_path / "8.dcm", grey))[0], grey / 255)
    inverted = dicom(tmp_path / "i.dcm", grey, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(shares(inverted)[0], 1 - grey / 255, atol=1e-9)
    twelve = RNG.integers(0, 4096, (6, 7)).astype(np.uint16)
    np.testing.assert_allclose(
        shares(dicom(tmp_path / "12.dcm", twelve, BitsStored=12, HighBit=11))[0], twelve / 4095, atol=1e-5
    )
    colour = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    rgb = dicom(
        tmp_path / "c.dcm",
        colour,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="RGB",
        Rows=6,
        Columns=7,
    )
    np.testing.assert_array_equal(read_scan(rgb, None).pixels, colour.transpose(2, 0, 1))
    assert shape_of(rgb) == (3, 6, 7)
    frames = RNG.integers(0, 256, (5, 6, 7), dtype=np.uint8)
    many = dicom(tmp_path / "m.dcm", frames, NumberOfFrames="5")
    assert shape_of(many) == (1, 5, 6, 7)
    np.testing.assert_allclose(shares(many)[0], frames / 255)


def test_nifti_in_a_csv_is_turned_and_windowed(tmp_path: Path) -> None:
    volume = RNG.integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    nifti(tmp_path / "a.nii.gz", volume)
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 3  # the same volume, stored from right to left
    nifti(tmp_path / "b.nii", volume[::-1].copy(), turned)
    table(tmp_path / "list.csv", "file,label", "a.nii.gz,0", "b.nii,1")
    with pytest.raises(UserError, match="write window"):
        load_dataset(str(tmp_path / "list.csv"))
    (tmp_path / "dataset.yaml").write_text(ABDOMEN)
    found = load_dataset(str(tmp_path / "list.csv"))
    assert found.info.modality("image").kind == "volume"
    expected = np.clip((volume + 160.0) / 400, 0, 1)
    for row in (0, 1):
        np.testing.assert_allclose(found.values("image", [row])[0, 0], expected, atol=1e-5)
    (tmp_path / "dataset.yaml").write_text(ABDOMEN + "axes: zyx\nsize: [6, 5, 4]\n")
    found = load_dataset(str(tmp_path))
    np.testing.assert_allclose(found.values("image", [0])[0, 0], expected.transpose(2, 1, 0), atol=1e-5)


def test_nifti_of_channels_slices_and_floats(tmp_path: Path) -> None:
    values = RNG.uniform(0, 1, (4, 5, 3, 2)).astype(np.float32)
    np.testing.assert_allclose(
        shares(nifti(tmp_path / "c.nii", values)), values.transpose(3, 0, 1, 2), atol=1e-5
    )
    single = nifti(tmp_path / "s.nii", values[:, :, :1, 0].copy())
    assert shape_of(single) == (1, 4, 5)
    np.testing.assert_allclose(shares(single)[0], values[:, :, 0, 0], atol=1e-5)


def test_what_is_no_scan_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("nibabel")
    pytest.importorskip("pydicom")
    for name in ("x.nii", "x.nii.gz", "x.dcm"):
        for label in ("a", "b"):
            (tmp_path / name / label).mkdir(parents=True)
            (tmp_path / name / label / name).write_bytes(b"no scan at all" * 40)
        with pytest.raises(UserError, match=r"is not a readable scan.*\(2 of 2 files of image"):
            load_dataset(str(tmp_path / name))
    whole = ct(tmp_path / "cut" / "a" / "1.dcm", WindowCenter="40", WindowWidth="400").read_bytes()
    (tmp_path / "cut" / "b").mkdir()
    (tmp_path / "cut" / "b" / "1.dcm").write_bytes(whole[:-20])
    with pytest.raises(UserError, match=r"1.dcm is not a readable scan.*\(1 of 2"):
        load_dataset(str(tmp_path / "cut"))
    assert not is_medical(tmp_path / "cut" / "a")


def test_without_the_packages_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "nibabel", None)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.nii").write_bytes(b"")
    with pytest.raises(UserError, match=r"robustbench-med\[medical\]"):
        load_dataset(str(tmp_path))
