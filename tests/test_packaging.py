"""What a wheel holds, and that it installs and answers where nothing of this checkout is."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
def test_pipx_install(tmp_path: Path) -> None:
    environment = {**os.environ, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIPX_HOME": str(tmp_path / "home"),
                   "PIPX_BIN_DIR": str(tmp_path / "bin")}
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    pip = str(tmp_path / "venv" / "bin" / "pip")
    subprocess.run([pip, "install", "-q", "pipx"], check=True, env={**os.environ, "PIP_CONSTRAINT": ""})
    pipx = [str(tmp_path / "venv" / "bin" / "pipx"), "install", str(ROOT)]
    assert install_and_run(pipx, tmp_path / "bin" / "specexec", environment).strip()
