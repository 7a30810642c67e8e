#!/usr/bin/env bash
# Tries an archive of librwkv as a C or C++ programmer would: generate.c in C99 and C++17, found by pkg-config and by
# CMake, linked to the shared library and to the static one. Each program writes the same text.
#
#     scripts/try-librwkv.sh ARCHIVE MODEL.bin
set -euo pipefail
archive=$(realpath "$1") model=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
tar -xzf "$archive"
root=$work/$(ls)
export PKG_CONFIG_PATH=$root/lib/pkgconfig
source=$root/share/rwkv/generate.c

write() { # NAME PROGRAM
  "$2" "$model" "The " 40 0 > "$1.txt"
  cmp -s "$1.txt" "${first:=$work/$1.txt}" || { echo "$1 wrote something else" >&2; exit 1; }
  echo "$1: $(tr '\n' ' ' < "$1.txt")"
}

for language in c cpp; do
  compiler=(cc -std=c99)
  [ $language = c ] || compiler=(c++ -x c++ -std=c++17)
  read -ra flags <<< "$(pkg-config --cflags rwkv)"
  "${compiler[@]}" -c "${flags[@]}" "$source" -o $language.o
  linker=cc
  [ $language = c ] || linker=c++
  read -ra shared <<< "$(pkg-config --libs rwkv)"
  $linker $language.o "${shared[@]}" -lm -o $language-shared
  LD_LIBRARY_PATH=$root/lib write "pkg-config-$language-shared" ./$language-shared
  # -Bstatic for rwkv alone: the system's libraries stay shared.
  read -ra private <<< "$(pkg-config --libs --static rwkv)"
  $linker $language.o "${private[@]/#-lrwkv/-l:librwkv.a}" -lm -o $language-static
  write "pkg-config-$language-static" ./$language-static

  mkdir "cmake-$language"
  cp "$source" "cmake-$language/generate.$language"
  cat > "cmake-$language/CMakeLists.txt" <<CMAKE
cmake_minimum_required(VERSION 3.16)
project(try LANGUAGES $([ $language = c ] && echo C || echo CXX))
find_package(rwkv $(sed -n 's/^Version: //p' "$root/lib/pkgconfig/rwkv.pc") REQUIRED)
foreach(kind rwkv static)
  add_executable(with-\${kind} generate.$language)
  target_link_libraries(with-\${kind} PRIVATE rwkv::\${kind} m)
endforeach()
CMAKE
  cmake -S "cmake-$language" -B "cmake-$language/build" -DCMAKE_PREFIX_PATH="$root" > "cmake-$language.log" 2>&1 &&
    cmake --build "cmake-$language/build" >> "cmake-$language.log" 2>&1 ||
    { cat "cmake-$language.log" >&2; exit 1; }
  write "cmake-$language-shared" "cmake-$language/build/with-rwkv"
  write "cmake-$language-static" "cmake-$language/build/with-static"
done
