#!/usr/bin/env bash
# Every header compiles alone as C11, and those that .cu files may see (kernels/, src/util/) as C++17.
#TEST np: 1
#TEST timeout: 300
cd "$(dirname "$0")/../.." || exit 1
unset MAKEFLAGS MFLAGS MAKELEVEL
flags=$(make -s flags) || exit 1 # with the compiler in front

# compile COMPILER FLAGS...: the headers named on stdin, a few at a time
compile()
{
    xargs -r -d '\n' -P "$(nproc)" -n 4 "$@" -fsyntax-only
}

bad=0
find src kernels data_pipeline jobs tests -name '*.h' 2>/dev/null | LC_ALL=C sort |
    compile $flags -Wno-unused -x c || bad=1
find src/util kernels -name '*.h' 2>/dev/null | LC_ALL=C sort |
    compile $(sed "s/^[^ ]*/${CXX:-g++}/; s/-std=[^ ]*/-std=c++17/" <<<"$flags") -Wno-unused -x c++ || bad=1
exit $bad
