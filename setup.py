"""Builds the native libraries of seo_kernels; what the package is stands in pyproject.toml.

These shared objects come out. The package works without them (the plain-torch reference serves):

- ``seo_kernels/lib/libseo_kernels_cpu.so``: schemas, checks and dispatch, on the LibTorch stable ABI;
- ``seo_kernels/lib/libseo_kernels_cpu_<isa>.so``: the same sources for each instruction set, no torch;
- ``seo_kernels/_C``: pybind11, the only one that is tied to a Python version; optional;
- ``seo_kernels/lib/libseo_kernels_host.so``, for the tests: the GPU's kernels on the host, sanitized;
- ``seo_kernels/lib/libseo_kernels_cuda.so``, where SEO_KERNELS_CUDA says so: by ``csrc/cuda/build.py``.

Environment:
    CXX                           the compiler
    MAX_JOBS                      how many files are compiled at a time
    SEO_KERNELS_TORCH             the site-packages folder of the torch to build against
    SEO_KERNELS_REQUIRE_NATIVE=1  a native build that fails is an error, as for `setup.py build_ext`
    SEO_KERNELS_WHEEL=1           build a wheel for every Python 3: without _C
    SEO_KERNELS_CUDA=0|1|auto     whether to build the GPU's kernels; auto, the default: where nvcc is
                                  there and the torch has CUDA; csrc/cuda/build.py names further variables
    SEO_KERNELS_HOST_KERNELS=1    build libseo_kernels_host.so as well
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARIES = "seo_kernels.lib"
HOST_LIBRARY = "libseo_kernels_host"
BUILT_ELSEWHERE = {f"{HOST_LIBRARY}.so", "libseo_kernels_cuda.so"}  # or when asked for
FAILURE = "build_failure.txt"  # in seo_kernels/lib; seo_kernels/_library.py tells its reason
MINIMUM_TORCH = (2, 11)
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"

COMPILE_FLAGS = [
    "-std=c++20",
    "-O3",
    "-Wall",
    "-Wno-maybe-uninitialized",  # g++ 12 means its own AVX-512 headers
    "-Wno-uninitialized",
    "-fno-math-errno",
    "-ffp-contract=fast",
    "-fvisibility=hidden",
    "-fvisibility-inlines-hidden",
    "-fno-semantic-interposition",
]
AVX512_FLAGS = [
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
    *("-mfma", "-mf16c", "-mprefer-vector-width=512"),
]
AVX512_BF16_FLAGS = [*AVX512_FLAGS, "-mavx512bf16", "-DSK_ISA_AVX512_BF16"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
HOST_KERNEL_FLAGS = [
    # products and sums are fused, as on a GPU
    *("-DSK_HOST_EXECUTOR", "-O1", "-g1", "-march=native", "-Wno-unknown-pragmas"),
    *SANITIZERS,
]
INSTRUCTION_SETS = {
    "portable": ["-DSK_ISA_PORTABLE"],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-DSK_ISA_AVX2"],
    "avx512": [*AVX512_FLAGS, "-DSK_ISA_AVX512"],
    "avx512_bf16": AVX512_BF16_FLAGS,
    "amx_bf16": [*AVX512_BF16_FLAGS, "-mamx-tile", "-mamx-bf16", "-DSK_ISA_AMX_BF16"],
}

WHEEL_FOR_EVERY_PYTHON = os.environ.get("SEO_KERNELS_WHEEL") == "1"


class NativeBuildError(Exception):
    """The native libraries can't be built here; the text says what is missing and what to type."""


def find_compiler() -> list[str]:
    """The C++ compiler's command: ``CXX``, else g++, clang++ or c++, whichever is first on PATH."""
    if not sys.platform.startswith("linux"):
        raise NativeBuildError(f"the native build knows Linux only, not {sys.platform}")
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    for name in names:
        command = shlex.split(name)
        if shutil.which(command[0]):
            if not accepts(command, ["-std=c++20"]):
                raise NativeBuildError(
                    f"the C++ compiler {name} does not know -std=c++20: install g++ 12 or newer"
                )
            return command
    raise NativeBuildError(
        f"no C++ compiler: none of {', '.join(names)} is on PATH; install g++ 12 or newer, or name one in CXX"
    )


def accepts(compiler: list[str], flags: list[str]) -> bool:
    """Whether the compiler takes the flags (an empty translation unit is compiled)."""
    command = [*compiler, *flags, "-Werror", "-fsyntax-only", "-x", "c++", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def links_sanitizers(compiler: list[str]) -> bool:
    """Whether the sanitizers' libraries are there: some systems have them in a package of their own."""
    command = [*compiler, *SANITIZERS, "-shared", "-fPIC", "-x", "c++", os.devnull, "-o", os.devnull]
    return subprocess.run(command, capture_output=True).returncode == 0


def wants_cuda() -> bool:
    """Whether the GPU's kernels are built. torch must be importable."""
    choice = os.environ.get("SEO_KERNELS_CUDA", "auto")
    if choice not in ("0", "1", "auto"):
        raise NativeBuildError(f"SEO_KERNELS_CUDA is {choice!r}, expected 0, 1 or auto")
    if choice != "auto":
        return choice == "1"
    import torch

    return torch.version.cuda is not None and shutil.which(os.environ.get("NVCC") or "nvcc") is not None


def build_cuda(folder: Path) -> None:
    """The GPU's kernels into a folder, by the torch that was found."""
    paths = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, str(ROOT / "csrc" / "cuda" / "build.py"), str(folder.absolute())]
    if subprocess.run(command, env={**os.environ, "PYTHONPATH": paths}).returncode:
        raise NativeBuildError(
            "the GPU's kernels were not built, see above; SEO_KERNELS_CUDA=0 leaves them out"
        )


def compiler_version(compiler: list[str]) -> str:
    return subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]


def instruction_sets(compiler: list[str]) -> dict[str, list[str]]:
    """The instruction sets to build for this processor family, with their flags."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {"portable": INSTRUCTION_SETS["portable"]}
    usable = {}
    for name, flags in INSTRUCTION_SETS.items():
        if accepts(compiler, flags):
            usable[name] = flags
        else:
            print(
                f"seo_kernels: {shlex.join(compiler)} does not know the flags of {name}: left out", flush=True
            )
    return usable


def site_folders() -> list[Path]:
    """Where torch may be installed: an isolated build doesn't see the environment that it builds for."""
    folders = [*sys.path, *site.getsitepackages(), site.getusersitepackages()]
    packages = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    prefixes = [os.environ.get("VIRTUAL_ENV"), os.environ.get("CONDA_PREFIX"), sys.base_prefix]
    folders += [os.path.join(prefix, packages) for prefix in prefixes if prefix]
    named = os.environ.get("SEO_KERNELS_TORCH")
    return [Path(folder) for folder in ([named] if named else folders) if folder]


def add_torch_to_path() -> None:
    """Makes ``import torch`` work, or says what to type."""
    advice = (
        "install torch 2.11 or newer, then install seo_kernels once more (pip install --force-reinstall "
        "--no-deps), or name the site-packages folder of a torch in SEO_KERNELS_TORCH"
    )
    folder = next((folder for folder in site_folders() if (folder / "torch" / "version.py").is_file()), None)
    if folder is None:
        raise NativeBuildError(f"no torch in the environment that is built for: {advice}")
    text = (folder / "torch" / "version.py").read_text()
    version = re.search(r"__version__ = '(\d+)\.(\d+)", text)
    if version is None or tuple(map(int, version.groups())) < MINIMUM_TORCH:
        raise NativeBuildError(f"the torch in {folder} is older than 2.11: {advice}")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def sources(*folders: str) -> list[str]:
    """The .cpp files of the folders, relative to the root; ``folder/**`` goes into subfolders."""
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in ROOT.glob(f"{folder}/*.cpp"))


def extension(name: str, files: list[str], flags: list[str], **options: Any) -> Extension:
    return Extension(
        name,
        files,
        language="c++",
        include_dirs=[str(ROOT / "csrc")],  # absolute: ninja runs elsewhere
        extra_compile_args=[*COMPILE_FLAGS, *flags],
        extra_link_args=["-Wl,--as-needed"],
        **options,
    )


def extensions(compiler: list[str], version: str) -> list[Extension]:
    """All that can be built here. torch must be importable."""
    from torch.utils.cpp_extension import include_paths, library_paths

    # torch's own copy of pybind11 serves the Python module
    torch_headers = [part for path in include_paths() for part in ("-isystem", path)]
    isas = instruction_sets(compiler)
    built = [
        extension(
            f"{LIBRARIES}.libseo_kernels_cpu",
            sources("csrc/torch", "csrc/cpu", "csrc/params"),
            [STABLE_ABI, *torch_headers],
            libraries=["torch_cpu", "dl"],
            library_dirs=library_paths(),
        )
    ]
    for isa, flags in isas.items():
        built.append(extension(f"{LIBRARIES}.libseo_kernels_cpu_{isa}", sources("csrc/cpu/isa/**"), flags))
    if os.environ.get("SEO_KERNELS_HOST_KERNELS") == "1" and not links_sanitizers(compiler):
        print(
            f"seo_kernels: {HOST_LIBRARY} is left out: {shlex.join(compiler)} has no sanitizers", flush=True
        )
    elif os.environ.get("SEO_KERNELS_HOST_KERNELS") == "1":
        files = sources("csrc/torch/cuda", "csrc/cuda/host", "csrc/params")
        host = extension(
            f"{LIBRARIES}.{HOST_LIBRARY}", files, [STABLE_ABI, *torch_headers, *HOST_KERNEL_FLAGS]
        )
        host.libraries, host.library_dirs = ["torch_cpu"], library_paths()
        host.extra_link_args += SANITIZERS
        built.append(host)
    for library in built:
        if not library.name.endswith(HOST_LIBRARY):  # the sanitizers' own come with the process
            library.extra_link_args.append("-Wl,-z,defs")  # a missing definition fails here, not when loaded
    if not WHEEL_FOR_EVERY_PYTHON:
        facts = {"VERSION": version, "ISAS": ",".join(isas), "COMPILER": compiler_version(compiler)}
        definitions = [f'-DSEO_KERNELS_{name}="{text}"' for name, text in facts.items()]
        built.append(
            extension("seo_kernels._C", sources("csrc/python"), [*definitions, *torch_headers], optional=True)
        )
    return built


class LibraryNames(build_ext):
    """What lies in seo_kernels/lib is not imported by Python: its names carry no Python ABI."""

    def get_ext_filename(self, fullname: str) -> str:
        filename = Path(super().get_ext_filename(fullname))
        if filename.name.startswith("libseo_kernels"):
            filename = filename.with_name(filename.name.split(".")[0] + ".so")
        return str(filename)


class BuildNative(LibraryNames):
    """Builds with torch's BuildExtension and ninja; torch is imported when this runs and not before."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # kept between builds, editable ones included: ninja rebuilds what changed
        platform_tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        self.build_temp = str(ROOT / "build" / f"native-{platform_tag}")

    def run(self) -> None:
        bases = [self.build_lib, ROOT] if self.inplace else [self.build_lib]
        folders = [Path(base, *LIBRARIES.split(".")) for base in bases]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILURE).unlink(missing_ok=True)
        try:
            self.build()
        except NativeBuildError as error:
            asked_for = "build_ext" in self.distribution.commands  # on the command line
            if asked_for or os.environ.get("SEO_KERNELS_REQUIRE_NATIVE") == "1":
                raise SystemExit(f"\nseo_kernels: the native build failed: {error}") from None
            print(f"seo_kernels: built without native kernels: {error}", flush=True)
            self.extensions = []
            for folder in folders:
                (folder / FAILURE).write_text(f"{error}\n")
        expected = {Path(self.get_ext_filename(self.get_ext_fullname(e.name))).name for e in self.extensions}
        for folder in folders:
            for left_over in (
                path for path in folder.glob("*.so") if path.name not in expected | BUILT_ELSEWHERE
            ):
                left_over.unlink()

    def build(self) -> None:
        compiler = find_compiler()
        add_torch_to_path()
        os.environ["CXX"] = shlex.join(compiler)
        os.environ.setdefault("MAX_JOBS", str(len(os.sched_getaffinity(0))))
        # ninja from a virtual environment that is not activated
        os.environ["PATH"] = os.environ.get("PATH", os.defpath) + os.pathsep + sysconfig.get_path("scripts")
        version = self.distribution.get_version()
        try:
            self.extensions = self.distribution.ext_modules = extensions(compiler, version)
            command = torch_builder(compiler)(self.distribution)
            for option in ("build_lib", "build_temp", "inplace", "debug"):
                setattr(command, option, getattr(self, option))
            command.ensure_finalized()
            command.run()
            if wants_cuda():
                build_cuda(Path(ROOT if self.inplace else self.build_lib, *LIBRARIES.split(".")))
        except NativeBuildError:
            raise
        except Exception as error:  # those of ninja, the linker, distutils and torch have no class in common
            raise NativeBuildError(
                f"{shlex.join(compiler)} or torch's BuildExtension failed: {error}"
            ) from error


def torch_builder(compiler: list[str]) -> type[build_ext]:
    """torch's BuildExtension, with a folder of objects per library: one source is compiled for several."""
    from torch.utils.cpp_extension import BuildExtension

    class Builder(LibraryNames, BuildExtension):  # type: ignore[misc]
        def build_extensions(self) -> None:
            # our flags only: those that this Python was built with differ from machine to machine
            self.compiler.set_executables(
                compiler_so=[*compiler, "-fPIC"],
                compiler_so_cxx=[*compiler, "-fPIC"],
                compiler_cxx=compiler,
                linker_so=[*compiler, "-shared"],
                linker_so_cxx=[*compiler, "-shared"],
            )
            super().build_extensions()

        def build_extension(self, extension: Extension) -> None:
            objects = self.build_temp
            self.build_temp = str(Path(objects, extension.name.rpartition(".")[2]))
            Path(self.build_temp).mkdir(parents=True, exist_ok=True)
            try:
                super().build_extension(extension)
            except Exception as error:
                if not extension.optional:
                    raise
                print(f"seo_kernels: {extension.name} is left out: {error}", flush=True)
            finally:
                self.build_temp = objects

    return Builder


class Wheel(bdist_wheel):
    """Without ``_C`` nothing in the wheel depends on the Python version."""

    def run(self) -> None:
        left_over = self.get_finalized_command("build").build_lib  # by earlier builds
        shutil.rmtree(left_over, ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        interpreter, abi, system = super().get_tag()
        return ("py3", "none", system) if WHEEL_FOR_EVERY_PYTHON else (interpreter, abi, system)


if __name__ == "__main__":
    os.chdir(ROOT)
    # one stands for all: BuildNative finds out what to build when it runs
    placeholder = Extension(
        f"{LIBRARIES}.libseo_kernels_cpu", sources("csrc/torch", "csrc/cpu", "csrc/params")
    )
    setup(ext_modules=[placeholder], cmdclass={"build_ext": BuildNative, "bdist_wheel": Wheel})
