// Arrays for kernels, between pages that nobody may touch; the bytes left over beside an array are checked for writes.
#pragma once

#include <string>

namespace emulator {
std::string describe(const void* address);  // where it lies relative to the arrays
}
