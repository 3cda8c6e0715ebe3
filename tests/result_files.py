"""Made-up results and curves, as the scripts write them, for the tests of what is drawn of them."""

from pathlib import Path

import numpy as np


def check_refused(done, *words):
    """Exit status 1, nothing on stdout, one line on stderr with all the words."""
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert str(word) in done.stderr


def save_result(folder, scheme, nets, elbos, initial, dims, variant="10bits"):
    """Save one result as the experiment does: nets and elbos [experiments, ndatapoints] in bits/dim, initial bits."""
    nets, elbos = np.asarray(nets, np.float64), np.asarray(elbos, np.float64)
    total = initial + np.cumsum(nets, axis=1) * dims
    arrays = {"nets": nets, "elbos": elbos, "total": total, "cmas": total / dims / np.arange(1, nets.shape[1] + 1)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{scheme}_{variant}_{name}.npy", array)


def save_both(folder, dataset="cifar", nz=4, images=60):
    """A Bit-Swap and a BB-ANS result of two chains."""
    rates = np.tile([[3.0], [5.0]], images)
    dims = 1024 if dataset == "mnist" else 3072
    save_result(folder / f"{dataset}{nz}", "bitswap", rates, rates - 0.5, 2 * dims, dims)
    save_result(folder / f"{dataset}{nz}", "bbans", rates, rates - 0.5, 8 * dims, dims)


def check_figure(stem):
    """Both files of a figure are there and are what their names say, with TrueType fonts in the PDF."""
    pdf = Path(f"{stem}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-") and pdf.rstrip().endswith(b"%%EOF")
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf
    assert Path(f"{stem}.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert not list(Path(stem).parent.glob(".*.tmp"))


def overwrite(path, content):
    """Replace a file by an array, by bytes, or by nothing."""
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=content.dtype == object)


def save_curve(path, steps, values):
    """Save one curve as TensorBoard exports it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"1550000000.5,{step},{value}\n" for step, value in zip(steps, values, strict=True))
    path.write_text("Wall time,Step,Value\n" + rows)


def save_model(folder, nz, epochs=(0, 5, 10)):
    """Whole curves of a model: x falls from 4 to 2 bits/dim, layer i stays at 0.1 i."""
    save_curve(folder / "x.csv", epochs, np.linspace(4, 2, len(epochs)))
    for i in range(1, nz + 1):
        save_curve(folder / f"z{i}.csv", epochs, np.full(len(epochs), 0.1 * i))
