#!/usr/bin/env python3
"""Reads the headers of built files and says whether each can be what its name says.

    pip install lief==1.0.0
    python3 scripts/platforms/check.py [--platform NAME] FILE...

A package for musl that holds a library for glibc installs well and fails on the user's machine, so nothing is
packed before this has passed. The platform is told by the file's name (rwkv.linux-x64-gnu.node) or that of
its directory (linux-x64-gnu/librwkv.so), or by --platform. What each has to be is in table.json. One line for
each file; exits 1 if one of them is wrong.
"""

import json
import re
import sys
from pathlib import Path

import lief

# It writes to the screen what it finds odd about tables of Mach-O files that nothing here reads.
lief.logging.disable()

HERE = Path(__file__).resolve().parent
TABLE = json.loads((HERE / "table.json").read_text())
HEADER = (HERE / "../../crates/capi/include/rwkv.h").read_text()

# Everything else that a file needs would have to be installed by the user.
SYSTEM = {
    "glibc": r"(libc|libm|libdl|libpthread|librt|libutil)\.so\.\d+|ld-linux-(x86-64|aarch64)\.so\.\d+|libgcc_s\.so\.1",
    # A package cannot ask for libgcc on Alpine: the image has none.
    "musl": r"libc\.so|libc\.musl-(x86_64|aarch64)\.so\.1",
    "macOS": r"/usr/lib/lib(System\.B|iconv\.2|charset\.1|objc\.A)\.dylib|/System/Library/Frameworks/.*",
    # Not vcruntime140.dll: it is part of Visual C++, not of Windows. Link with -Ctarget-feature=+crt-static.
    "Windows": r"(?i)(kernel32|ntdll|advapi32|bcrypt|bcryptprimitives|userenv|ws2_32|ucrtbase|msvcrt|dbghelp|synchronization)"
    r"\.dll|api-ms-win-[a-z0-9-]+\.dll",
}
BINDING = {"napi_register_module_v1"}
LIBRARY = set(re.findall(r"\b(rwkv_[a-z_]+)\(", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.S)))
SONAMES = {"ELF": "librwkv.so.0", "Mach-O": "@rpath/librwkv.0.dylib"}


class Wrong(Exception):
    """A sentence that goes on after the file's name."""


def demand(condition, sentence):
    if not condition:
        raise Wrong(sentence)


def version(text):
    return tuple(int(part) for part in text.split("."))


def name_of(value):
    """The last part of an enumerator: X86_64 of ARCH.X86_64."""
    return str(value).rsplit(".", 1)[-1]


def check_elf(binary, want):
    demand(name_of(binary.header.file_type) == "DYN", "is not a shared object")
    versions = [
        symbol.name for needed in binary.symbols_version_requirement for symbol in needed.get_auxiliary_symbols()
    ]
    glibc = sorted((v for v in versions if re.fullmatch(r"GLIBC_[\d.]+", v)), key=lambda v: version(v[6:]))
    private = [v for v in versions if v.startswith("GLIBC_") and v not in glibc]
    demand(not private, f"needs {', '.join(private)}, which glibc promises nobody")
    if want["libc"] == "musl":
        demand(not glibc, f"is to run on musl and needs {glibc and glibc[-1]}: it was linked against glibc")
        demand("libc.so" in binary.libraries, "is to run on musl and does not need musl's libc.so")
        return "musl"
    demand("libc.so.6" in binary.libraries, "is to run on glibc and does not need its libc.so.6")
    demand(glibc, "is to run on glibc and names no version of it")
    newest = glibc[-1][6:]
    demand(version(newest) <= version(want["floor"]), f"needs glibc {newest}, and {want['floor']} is promised")
    return f"glibc >= {newest}"


def check_macho(binary, want):
    demand(name_of(binary.header.file_type) in ("DYLIB", "BUNDLE"), "is not a dynamic library")
    if binary.has_build_version:
        minimum = binary.build_version.minos
    else:
        demand(binary.has_version_min, "does not say which macOS it needs")
        minimum = binary.version_min.version
    minimum = ".".join(map(str, minimum[:2]))
    demand(version(minimum) <= version(want["floor"]), f"needs macOS {minimum}, and {want['floor']} is promised")
    # Apple's processors kill what has no signature, be it one without an identity. It covers every byte, so
    # what is stripped afterwards has to be signed again.
    if want["machine"] == "ARM64":
        demand(binary.has_code_signature, "has no code signature, and macOS on ARM loads nothing without")
    return f"macOS >= {minimum}" + (", signed" if binary.has_code_signature else "")


def check_pe(binary, want):
    demand("DLL" in [name_of(c) for c in binary.header.characteristics_list], "is not a DLL")
    return "Windows"


def read(path):
    demand(path.is_file(), "does not exist")
    binary = lief.parse(str(path))
    for kind, of, check in (
        ("ELF", lief.ELF.Binary, check_elf),
        ("Mach-O", lief.MachO.Binary, check_macho),
        ("PE", lief.PE.Binary, check_pe),
    ):
        if isinstance(binary, of):
            return binary, kind, check
    raise Wrong("is neither ELF nor Mach-O nor PE")


def soname(binary, kind):
    if kind == "ELF":
        entry = binary.get(lief.ELF.DynamicEntry.TAG.SONAME)
        return entry and entry.name
    own = binary.get(lief.MachO.LoadCommand.TYPE.ID_DYLIB)
    return own and own.name


def needed(binary, kind):
    names = [library if isinstance(library, str) else library.name for library in binary.libraries]
    # Mach-O lists a library's own name first.
    return [name for name in names if kind != "Mach-O" or name != soname(binary, kind)]


def platform_of(path):
    for name in TABLE:
        if path.name == f"rwkv.{name}.node" or path.parent.name == name:
            return name
    raise Wrong("does not tell its platform by its name or directory: give --platform")


def check(path, platform):
    platform = platform or platform_of(path)
    want = TABLE[platform]
    binary, kind, check_format = read(path)
    demand(kind == want["format"], f"is {kind}, and {platform} takes {want['format']}")
    field = {"ELF": "machine_type", "Mach-O": "cpu_type", "PE": "machine"}[kind]
    machine = getattr(binary.header, field)
    demand(name_of(machine) == want["machine"], f"is for {name_of(machine)}, and {platform} is {want['machine']}")
    about = check_format(binary, want)
    for library in needed(binary, kind):
        demand(re.fullmatch(SYSTEM[want["libc"]], library), f"needs {library}, which is not a part of {want['libc']}")

    is_binding = path.suffix == ".node" or "rwkv_node" in path.name
    exported = [symbol.name for symbol in binary.exported_symbols] if kind == "ELF" else [
        symbol.name for symbol in binary.exported_functions
    ]
    exported = {name.removeprefix("_") if kind == "Mach-O" else name for name in exported}
    missing = (BINDING if is_binding else LIBRARY) - exported
    demand(not missing, f"does not export {', '.join(sorted(missing))}")
    if not is_binding and kind in SONAMES:
        demand(
            soname(binary, kind) == SONAMES[kind],
            f"calls itself {soname(binary, kind)}, and programs are to ask for {SONAMES[kind]}",
        )
    return f"{platform}, {kind} {name_of(machine)}, {about}, {len(exported)} exported, {path.stat().st_size / 1e6:.2f} MB"


def main(arguments):
    platform = None
    if arguments[:1] == ["--platform"]:
        platform, arguments = arguments[1], arguments[2:]
        if platform not in TABLE:
            sys.exit(f"no platform {platform}: there are {', '.join(TABLE)}")
    if not arguments:
        sys.exit(__doc__)
    wrong = 0
    for argument in arguments:
        try:
            print(f"{argument}: {check(Path(argument), platform)}")
        except Wrong as sentence:
            wrong = 1
            print(f"{argument} {sentence}", file=sys.stderr)
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
