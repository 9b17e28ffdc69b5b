#include "tracked.h"

#include <cstring>

#include "lock.h"

namespace simt {
namespace detail {
namespace {
std::vector<Buffer> buffers;
size_t last_found = 0;  // kernels touch the same few buffers again and again
}  // namespace

std::recursive_mutex& emulator_lock() {
  static std::recursive_mutex mutex;
  return mutex;
}

Cell& Buffer::cell(size_t offset) {
  auto& page = pages[offset / kShadowPage];
  if (!page) {
    page = std::make_unique<Cell[]>(kShadowPage);
    if (access != Access::kUninitialised)
      for (size_t i = 0; i < kShadowPage; ++i) page[i].write.thread = kHost;
  }
  return page[offset % kShadowPage];
}

Buffer* find_buffer(const char* address, size_t bytes, bool is_write) {
  const auto allows = [&](const Buffer& b) {
    return b.holds(address, bytes) && !(is_write && b.access == Access::kReadOnly);
  };
  if (last_found < buffers.size() && allows(buffers[last_found])) return &buffers[last_found];
  for (size_t i = buffers.size(); i-- > 0;) {
    if (!allows(buffers[i])) continue;
    last_found = i;
    return &buffers[i];
  }
  return nullptr;
}

std::string describe_neighbour(const char* address, size_t bytes) {
  if (stacks.contains(address)) return "the stack (local memory) of another thread";
  std::string words = "no tracked buffer is near";
  ptrdiff_t nearest = ptrdiff_t{1} << 20;
  for (const Buffer& buffer : buffers) {
    if (buffer.holds(address, bytes)) return "'" + buffer.name + "' is read-only";
    const ptrdiff_t distance =
        address >= buffer.end ? address - buffer.end : buffer.begin - address;
    if (distance >= nearest) continue;
    nearest = distance;
    words = format("%td bytes from the start of '%s' of %td bytes", address - buffer.begin,
                   buffer.name.c_str(), buffer.end - buffer.begin);
  }
  return words;
}

void forget_launch() {
  for (Buffer& buffer : buffers)
    for (auto& page : buffer.pages) {
      if (!page) continue;
      for (size_t i = 0; i < kShadowPage; ++i) {
        const bool is_initialised = page[i].write.thread != 0;
        page[i] = Cell{};
        page[i].write.thread = is_initialised ? kHost : 0;
      }
    }
}
}  // namespace detail

using namespace detail;

Track::Track() { emulator_lock().lock(); }

void Track::add(const void* start, size_t bytes, Access access, const char* name) {
  Buffer buffer{
      static_cast<const char*>(start), static_cast<const char*>(start) + bytes, access, name, {}};
  if (access != Access::kReadOnly) buffer.pages.resize((bytes + kShadowPage - 1) / kShadowPage);
  buffers.push_back(std::move(buffer));
  last_found = buffers.size() - 1;
  ++count_;
}

void host_fill(void* memory, int value, size_t bytes) {
  std::memset(memory, value, bytes);
  const char* start = static_cast<const char*>(memory);
  Buffer* buffer = find_buffer(start, bytes, true);
  if (buffer == nullptr) throw Error("a host fills memory that no tracked buffer holds");
  for (size_t i = 0; i < bytes; ++i)
    buffer->cell(static_cast<size_t>(start - buffer->begin) + i).write.thread = kHost;
}

Track::~Track() {
  buffers.erase(buffers.end() - count_, buffers.end());
  emulator_lock().unlock();
}

}  // namespace simt
