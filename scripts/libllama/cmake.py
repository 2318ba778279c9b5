"""What CMake is told: the options that all sets of a target share, and where OpenBLAS is.

Knows llama.cpp's options, the cross compiler's and where packages put their files. Knows nothing of CPU levels: a set
brings its own options (build.py). Standard library only.
"""

from __future__ import annotations

from pathlib import Path

OPTIONS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
    "CMAKE_INSTALL_RPATH": "$ORIGIN",
    "BUILD_SHARED_LIBS": "ON",
    "GGML_BACKEND_DL": "OFF",  # the binding never calls ggml_backend_load_all
    "GGML_CCACHE": "OFF",
    "GGML_OPENMP": "OFF",  # ggml's own thread pool does the same, and the image needs no second runtime library
    "GIT_EXE": "",  # else ggml asks git for a commit; the pinned one is handed in and read back when the service starts
    "LLAMA_ALL_WARNINGS": "OFF",
    "LLAMA_BUILD_APP": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_NUMBER": "0",
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_UI": "OFF",  # llama-cli brings the server's code along; its page, TLS and subprocesses have no use
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_SUBPROCESS": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
}


def find_openblas(root: Path, machine: str) -> dict[str, str]:
    """CMake options for the OpenBLAS below `root`, or {}. The files are named outright, because the links that CMake
    looks for are made when the package is configured, and in a sysroot packages are only unpacked."""
    for library in sorted(root.glob(f"usr/lib/{machine}-linux-gnu/openblas-*/libopenblas.so")):
        include = root / f"usr/include/{machine}-linux-gnu" / library.parent.name
        if (include / "cblas.h").exists():
            return {"BLAS_LIBRARIES": str(library), "BLAS_INCLUDE_DIRS": str(include), "GGML_BLAS_VENDOR": "OpenBLAS"}
    return {}


def cross_options(sysroot: Path) -> dict[str, str]:
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_SYSROOT": str(sysroot),
        "CMAKE_FIND_ROOT_PATH_MODE_PROGRAM": "NEVER",
        **{f"CMAKE_FIND_ROOT_PATH_MODE_{kind}": "ONLY" for kind in ("LIBRARY", "INCLUDE", "PACKAGE")},
    }
    for language, compiler in (("C", "clang"), ("CXX", "clang++"), ("ASM", "clang")):
        options[f"CMAKE_{language}_COMPILER"] = compiler
        options[f"CMAKE_{language}_COMPILER_TARGET"] = "aarch64-linux-gnu"
    return options


def common_options(source: Path, sysroot: Path | None, commit: str) -> dict[str, str]:
    """CMake options that all sets of a target share. Files are linked stripped, and name no path of this machine."""
    link = "-s -fuse-ld=lld" if sysroot else "-s"
    return {
        **OPTIONS,
        "LLAMA_BUILD_COMMIT": commit,
        **{f"CMAKE_{kind}_LINKER_FLAGS": link for kind in ("EXE", "SHARED")},
        **{f"CMAKE_{language}_FLAGS": f"-ffile-prefix-map={source}=llama.cpp" for language in ("C", "CXX")},
        **(cross_options(sysroot) if sysroot else {}),
    }
