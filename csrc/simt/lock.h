// One caller at a time: the emulator is one set of globals on one host thread.
#pragma once

#include <mutex>

namespace simt::detail {
std::recursive_mutex& emulator_lock();
}
