#!/usr/bin/env python3
"""What check.py has to refuse, by small libraries that zig makes: python3 scripts/platforms/check_test.py."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
TABLE = json.loads((HERE / "table.json").read_text())
sys.path.insert(0, str(HERE))
import check  # noqa: E402

EXPORT = "__attribute__((visibility(\"default\"))) "
BINDING = f"#include <stdio.h>\n{EXPORT}void *napi_register_module_v1(void) {{ puts(\"\"); return 0; }}\n"


class Headers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.directory = Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.directory)

    def build(self, file, target, *arguments, source=BINDING):
        path = self.directory / file
        path.parent.mkdir(exist_ok=True)
        code = self.directory / "source.c"
        code.write_text(source)
        command = [sys.executable, "-m", "ziglang", "cc", "-target", target, "-shared", "-o", path, code, *arguments]
        subprocess.run(command, check=True, capture_output=True)
        return path

    def refuse(self, sentence, path, platform=None):
        with self.assertRaisesRegex(check.Wrong, sentence):
            check.check(path, platform)

    def test_what_was_built_for_a_platform_is_taken_for_that_one_alone(self):
        paths = {name: self.build(f"rwkv.{name}.node", row["zig"]) for name, row in TABLE.items()}
        for name, path in paths.items():
            self.assertIn(f"{name}, {TABLE[name]['format']}", check.check(path, None))
            for other in TABLE:
                if other != name:
                    self.refuse("^(is|needs) ", path, other)
        self.refuse("needs GLIBC_2.* it was linked against glibc", paths["linux-x64-gnu"], "linux-x64-musl")
        self.refuse("does not need its libc.so.6", paths["linux-x64-musl"], "linux-x64-gnu")

    def test_a_newer_system_than_is_promised_is_refused(self):
        source = BINDING.replace("puts", "extern int pthread_timedjoin_np(); pthread_timedjoin_np").replace(
            '("")', "(0, 0, 0)"
        )
        self.refuse(
            "needs glibc 2.3[0-9], and 2.17 is promised",
            self.build("new.node", "x86_64-linux-gnu.2.36", source=source),
            "linux-x64-gnu",
        )
        self.refuse("needs macOS 13.0, and 11.0", self.build("new.node", "aarch64-macos.13.0"), "darwin-arm64")

    def test_a_library_that_is_no_part_of_the_system_is_refused(self):
        self.build("libextra.so", "x86_64-linux-musl")
        path = self.build("rwkv.linux-x64-musl.node", "x86_64-linux-musl", f"-L{self.directory}", "-Wl,--no-as-needed", "-lextra")
        self.refuse("needs libextra.so, which is not a part of musl", path)

    def test_every_function_of_the_header_has_to_be_exported(self):
        source = BINDING + "".join(f"{EXPORT}void {name}(void) {{}}\n" for name in sorted(check.LIBRARY))
        self.assertGreater(len(check.LIBRARY), 15)
        whole = self.build("linux-x64-gnu/librwkv.so", "x86_64-linux-gnu.2.17", "-Wl,-soname,librwkv.so.0", source=source)
        self.assertIn("linux-x64-gnu", check.check(whole, None))
        unversioned = self.build("linux-x64-gnu/other.so", "x86_64-linux-gnu.2.17", "-Wl,-soname,librwkv.so", source=source)
        self.refuse("calls itself librwkv.so, and", unversioned)
        source = source.replace("rwkv_eval_sequence(", "rwkv_eval_all(")
        self.refuse(
            "does not export rwkv_eval_sequence$",
            self.build("win32-x64-msvc/rwkv.dll", "x86_64-windows-gnu", source=source),
        )

    def test_an_unsigned_library_for_apples_processors_is_refused(self):
        path = self.build("rwkv.darwin-arm64.node", "aarch64-macos.11.0")
        binary = check.lief.parse(str(path))
        binary.remove_signature()
        binary.write(str(path))
        self.refuse("has no code signature", path)

    def test_what_is_no_library_is_refused(self):
        text = self.directory / "rwkv.linux-x64-gnu.node"
        text.write_text("not a library\n" * 100)
        self.refuse("is neither ELF nor Mach-O nor PE", text)
        self.refuse("does not exist", self.directory / "rwkv.win32-x64-msvc.node")
        self.refuse("does not tell its platform", HERE / "table.json")


if __name__ == "__main__":
    unittest.main()
