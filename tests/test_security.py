"""No file that is not trusted runs code or fills the memory: SECURITY.md, held."""

import ast
import gzip
import os
import pickle
import re
import struct
import zipfile
import zlib
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from checkout import copy_workflow, snakemake
from PIL import Image

from tandem_defense.classifiers.torchvision import Torchvision
from tandem_defense.cli import pictures
from tandem_defense.datasets.mnist import MNIST
from tandem_defense.datasets.nips2017 import NIPS2017
from tandem_defense.files import arrays, download
from tandem_defense.files.adversarial import read_adversarial
from tandem_defense.files.base import FileError
from tandem_defense.files.images import read_images
from tandem_defense.files.restored import read_restored

# --- the sources ---

# A call that could run what a file holds, and what makes it safe.
FORBIDDEN = {
    r"(^|\.)(c?[Pp]ickle|marshal|shelve|dill|joblib|cloudpickle)\.(loads?|open|Unpickler)$": None,
    r"(^|\.)read_pickle$": None,
    r"(^|\.)torch\.(load|hub\.load.*|jit\.load)$": ("weights_only", True),
    r"(^|\.)(np|numpy)\.load$": ("allow_pickle", False),
    r"(^|\.)yaml\.(load|load_all|full_load|unsafe_load)$": None,
    r"(^|\.)process_yaml$": None,
    r"^(eval|exec|compile|__import__)$": None,
    r"(^|\.)(extractall|extract|unpack_archive)$": None,
    r"(^|\.)os\.(system|popen)$": None,
    r"(^|\.)mktemp$": None,
}


def dangerous(source: str) -> list[str]:
    """The calls in Python source that may run or write what they should not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            found += [f"class {node.name}" for base in bases if base.endswith("Unpickler")]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: k.value for k in node.keywords}
        for pattern, safe in FORBIDDEN.items():
            if re.search(pattern, name) and not (safe and constant(keywords, *safe)):
                found.append(name)
        if constant(keywords, "shell", True):
            found.append(f"{name}(shell=True)")
        if name.endswith("Image.open") and "formats" not in keywords:
            found.append(name)
    return found


def constant(keywords: dict, name: str, value: object) -> bool:
    node = keywords.get(name)
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.load(f)",
        "pickle.Unpickler(f).load()",
        "class A(pickle.Unpickler): pass",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(f, yaml.Loader)",
        "yaml.unsafe_load(f)",
        "yte.process_yaml(f)",
        "eval(text)",
        "exec(text)",
        "archive.extractall(folder)",
        "archive.extract(member, folder)",
        "shutil.unpack_archive(path)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "pd.read_pickle(path)",
        "PIL.Image.open(path)",
    ],
)
def test_the_scan_finds_what_is_dangerous(source):
    assert dangerous(source)


def test_the_scan_lets_pass_what_is_not():
    safe = "torch.load(p, weights_only=True); np.load(p, allow_pickle=False); module.eval()"
    assert not dangerous(safe + "; yaml.safe_load(f); re.compile(p); json.load(f)")


def test_no_source_can_run_what_a_file_holds(root):
    tops = ("scripts", "performance", "reproduction", "demo", "report")
    files = {top: list((root / top).rglob("*.py")) for top in tops}
    assert all(files.values())
    sources = [path for some in files.values() for path in some]
    found = {p.name: calls for p in sources if (calls := dangerous(p.read_text()))}
    # ComDefend's released files, after their checksum: tests/files/test_released.py.
    # What is compiled to see what it imports is not run.
    assert found == {"comdefend.py": ["np.load"], "stale.py": ["compile"]}
    for path in [root / "Snakefile", *(root / "rules").glob("*.smk")]:
        calls = re.findall(
            r"\b(?:eval|exec|pickle|yaml\.\w+|torch\.load|shell)\b", path.read_text()
        )
        assert set(calls) <= {"yaml.safe_load", "yaml.YAMLError"}, path


# --- files that would run code ---


class Malicious:
    """Its pickle makes a folder where it is loaded."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def test_a_pickle_in_weights_is_not_run(tmp_path):
    """As a .pth in both of PyTorch's formats and bare, and in place of a file between jobs."""
    trace, path = tmp_path / "trace", tmp_path / "weights"
    net = Torchvision(architecture="shufflenet_v2_x0_5")
    for new in (True, False):
        torch.save({"a": Malicious(trace)}, path, _use_new_zipfile_serialization=new)
        with pytest.raises(FileError, match="which is code to run"):
            net.read_checkpoint(str(path))
    path.write_bytes(pickle.dumps(Malicious(trace)))
    with pytest.raises(FileError, match="which is code to run|is not a checkpoint"):
        net.read_checkpoint(str(path))
    for read in (read_images, read_adversarial, read_restored):
        with pytest.raises(arrays.CacheError, match="not one of ours"):
            read(path)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the file is what it claims to be
    assert trace.exists()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: !!python/object/apply:os.mkdir [{trace}]\n", "could not determine a constructor"),
        ('"\\x5f_use_yte__": true\na: ?__import__("os").mkdir("{trace}")\n', "remove the key"),
    ],
)
def test_a_configuration_runs_nothing(root, tmp_path, text, why):
    checkout = copy_workflow(root, tmp_path)
    trace = tmp_path / "trace"
    with (checkout / "demo/config.yaml").open("a") as file:
        file.write(text.format(trace=trace))
    done = snakemake(checkout, "--dry-run")
    assert done.returncode != 0 and why in done.stdout + done.stderr
    assert not trace.exists()


# --- files that lead elsewhere ---


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "r/../../out.png", "C:\\out.png"])
def test_an_archive_s_path_that_leads_out_is_refused(tmp_path, name):
    content = b"picture"
    with zipfile.ZipFile(tmp_path / "shelf.zip", "w") as archive:
        archive.writestr("r/images/a.png", content)
        archive.writestr(name, content)
    members = [{"file": "a.png", "size": len(content), "sha256": sha256(content).hexdigest()}]
    (tmp_path / "shelf.zip").rename(tmp_path / "images.zip")
    with pytest.raises(download.DownloadError, match="leads out of it"):
        download.get(
            "images",
            {"folder": "images"},
            tmp_path / "inside/images",
            members=members,
            offline=tmp_path,
        )
    assert not list((tmp_path / "inside").iterdir()) and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..\\secret"])
def test_a_table_s_name_that_leads_elsewhere_is_refused(tmp_path, name):
    table = f"ImageId,TrueLabel,Author,OriginalLandingURL,License\n{name},1,a,b,c\n"
    (tmp_path / "images.csv").write_text(table)
    with pytest.raises(ValueError, match="leads elsewhere"):
        NIPS2017(folder=str(tmp_path), test=1).load()


# --- files that unpack to more than there is room for ---


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A gray picture."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.fixture
def little_memory():
    """Reading the bombs would take gigabytes: half of one more is allowed."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("side", [300, 12_000, 60_000])
def test_a_picture_of_another_size_is_refused_before_it_is_decoded(tmp_path, side, little_memory):
    """The pixels are missing: decoding would say something else."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(png(side, side, b"\0" * 100_000))
    table = "ImageId,TrueLabel,Author,OriginalLandingURL,License\na,1,a,b,c\n"
    (tmp_path / "images.csv").write_text(table)
    with pytest.raises(ValueError, match=r"a\.png .*(expected 299|exceeds limit)"):
        NIPS2017(folder=str(tmp_path), test=1).load()
    if side > 1000:
        with pytest.raises(ValueError, match="make it smaller|cannot be read as a picture"):
            pictures.read(tmp_path / "images/a.png")


def test_a_format_that_starts_a_program_is_refused(tmp_path):
    """Pillow gives EPS to Ghostscript."""
    path = tmp_path / "a.png"
    Image.new("RGB", (70, 70)).save(path, "EPS")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        pictures.read(path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path, little_memory):
    bomb = tmp_path / "train-images-idx3-ubyte.gz"
    shape = struct.pack(">III", 4, 28, 28)
    with gzip.open(bomb, "wb", 1) as file:
        file.write(b"\0\0\x08\3" + shape)
        for _ in range(40):
            file.write(bytes(1 << 24))  # 670 MB
    with pytest.raises(ValueError, match="longer than its header says"):
        MNIST(folder=str(tmp_path)).load()
    with gzip.open(bomb, "wb") as file:
        file.write(b"\0\0\x08\3" + struct.pack(">III", 1 << 31, 28, 28))
    with pytest.raises(ValueError, match="expected at most 60000"):
        MNIST(folder=str(tmp_path)).load()
    entry = {"size": 1000, "sha256": "0", "unpack": "gzip"}
    (tmp_path / "f.gz").write_bytes(gzip.compress(bytes(1 << 24)))
    with pytest.raises(download.DownloadError, match="more than the expected 1000 bytes"):
        download.get("f", entry, tmp_path / "out/f", offline=tmp_path)


def test_a_header_that_claims_too_much_is_refused(tmp_path, little_memory):
    """safetensors with a huge header, and with a tensor larger than the file."""
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    for content in (struct.pack("<Q", 1 << 62), struct.pack("<Q", len(header)) + header):
        (tmp_path / "c").write_bytes(content + bytes(100))
        with pytest.raises(arrays.CacheError, match="not one of ours"):
            read_images(tmp_path / "c")
