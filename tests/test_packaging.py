"""What a wheel holds, and that it installs and answers where nothing of this checkout is."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from specexec.kernels import sources

ROOT = Path(__file__).parents[1]
LARGEST = 16_000_000


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)],
                   check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_the_three_packages_and_the_pair(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"specexec", "cli", "offload", "specexec-0.1.0.dist-info"}
    for role in ("target", "draft"):
        for file in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
            assert f"specexec/bundled/{role}/{file}" in names
    assert wheel.stat().st_size < LARGEST


def test_the_wheel_holds_the_compiled_kernels_for_any_python_of_this_platform(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert f"specexec/kernels/{sources.LIBRARY.name}" in names
    assert not [name for name in names if name.endswith((".cpp", ".h"))]
    assert wheel.name.startswith("specexec-0.1.0-py3-none-")
    assert not wheel.name.endswith("-any.whl")


def test_the_source_distribution_holds_what_the_kernels_are_compiled_from(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
                   check=True, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"setup.py", "specexec/kernels/sources.py"} <= names
    assert {f"specexec/kernels/{path.name}" for path in sources.files()} <= names
    assert f"specexec/kernels/{sources.LIBRARY.name}" not in names


def install_and_run(command: list[str], specexec: Path, environment: dict[str, str]) -> str:
    subprocess.run(command, check=True, env=environment, cwd="/")
    ran = subprocess.run([str(specexec), "run", "Once upon a time", "-n", "10", "--seed", "7"], check=True, cwd="/",
                         stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return ran.stdout


@pytest.mark.slow
def test_pip_install(tmp_path: Path) -> None:
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / "bin"
    assert install_and_run([str(binaries / "pip"), "install", "-q", str(ROOT)], binaries / "specexec", environment).strip()


@pytest.mark.slow
def test_pip_install_without_a_compiler(tmp_path: Path) -> None:
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "CXX": "/bin/false"}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    binaries = tmp_path / "venv" / "bin"
    assert install_and_run([str(binaries / "pip"), "install", "-q", str(ROOT)], binaries / "specexec", environment).strip()
    asked = [str(binaries / "python"), "-c", "from specexec.kernels import library; print(library.why_not())"]
    said = subprocess.run(asked, check=True, cwd="/", capture_output=True, text=True).stdout
    assert said == "no kernels were compiled when specexec was installed; the torch reference runs, several times slower\n"


def test_a_required_kernel_that_does_not_compile_is_an_error() -> None:
    environment = {**os.environ, "CXX": "/bin/false", "SPECEXEC_REQUIRE_KERNELS": "1"}
    ran = subprocess.run([sys.executable, "setup.py", "-q", "build_kernels"], cwd=ROOT, env=environment, capture_output=True,
                         text=True)
    assert ran.returncode != 0
    assert "no kernels: /bin/false failed" in ran.stderr


@pytest.mark.slow
def test_pipx_install(tmp_path: Path) -> None:
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIPX_HOME": str(tmp_path / "home"),
                   "PIPX_BIN_DIR": str(tmp_path / "bin")}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = str(tmp_path / "venv" / "bin" / "pip")
    subprocess.run([pip, "install", "-q", "pipx"], check=True, env={**os.environ, "PIP_CONSTRAINT": ""})
    pipx = [str(tmp_path / "venv" / "bin" / "pipx"), "install", str(ROOT)]
    assert install_and_run(pipx, tmp_path / "bin" / "specexec", environment).strip()
