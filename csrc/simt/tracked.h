// The global memory a kernel may touch, with the shadow of what it writes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "state.h"

namespace simt::detail {

constexpr size_t kShadowPage =
    4096;  // bytes of a buffer whose cells are allocated together, at first use

struct Buffer {
  const char *begin, *end;
  Access access;
  std::string name;
  std::vector<std::unique_ptr<Cell[]>> pages;

  bool holds(const char* address, size_t bytes) const {
    return address >= begin && address + bytes <= end;
  }
  Cell& cell(size_t offset);
};

// The newest buffer that allows the access, or null.
Buffer* find_buffer(const char* address, size_t bytes, bool is_write);

// Words for an address that no buffer allows.
std::string describe_neighbour(const char* address, size_t bytes);

}  // namespace simt::detail
