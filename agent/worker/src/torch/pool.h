// Memory for large tensors on the CPU: what a step frees, the next step uses again, without growing the process.
//
// glibc offers two choices, and neither is good for training. It keeps freed memory, and the process then holds up to
// twice of what its tensors hold at their peak; or it returns freed memory, and each step pays for fresh pages, which the
// kernel has to find and to zero. A training step asks for the same sizes as the one before, so it can have both:
//
//   what tensors hold + what the pool keeps for later  <=  the most that tensors ever held at once   (all in pages)
//
// Where a new block needs fresh pages and that would no longer hold, the pool gives kept pages back first. So keeping
// costs nothing at the moment that decides whether a trial fits, and a cap that tensors respect holds for the pool too.
//
// Blocks lie in one reserved range of addresses, of which only what is touched is memory. Neighbouring free ranges
// serve together, so that there is nothing to be lost between sizes: in the worst case a block gets fresh pages.

#pragma once

#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace fleet {

class Pool {
 public:
  // Smaller blocks are left to malloc: many, and together little.
  static constexpr size_t kSmallest = 64 << 10;

  // A block of at least `bytes`, aligned to a page, or nullptr: too small, too large for this machine, or no addresses
  // could be reserved. The caller then asks malloc.
  void* take(size_t bytes) {
    if (bytes < kSmallest) return nullptr;
    const std::lock_guard<std::mutex> hold(lock);
    if (!reserve() || bytes > memory) return nullptr;
    const size_t size = pages(bytes);
    const size_t at = place(size);
    if (at + size > reserved) return nullptr;
    occupy(at, size);
    live += size;
    most = std::max(most, live);
    while (live + kept > most) give_back_largest();
    return base + at;
  }

  // Whether the pool handed out `block`.
  bool owns(const void* block) const {
    const auto p = static_cast<const char*>(block);
    return base && p >= base && p < base + reserved;
  }

  // Takes back a block of `bytes`, as they were asked for. Its pages stay, for later.
  void put(void* block, size_t bytes) {
    const std::lock_guard<std::mutex> hold(lock);
    const size_t size = pages(bytes);
    live -= size;
    add(static_cast<size_t>(static_cast<char*>(block) - base), size, true);
  }

  // Bytes kept for later.
  int64_t kept_bytes() const { return static_cast<int64_t>(kept.load(std::memory_order_relaxed)); }

 private:
  struct Range {
    size_t size;
    bool resident;  // has pages; else it was never used, or its pages were given back
  };
  using Ranges = std::map<size_t, Range>;  // by offset from base

  std::mutex lock;
  char* base = nullptr;
  bool failed = false;
  size_t reserved = 0, memory = 0, page = 4096;  // addresses; the machine's memory and swap
  size_t live = 0, most = 0;        // bytes of blocks, in pages; at most, since the process began
  std::atomic<size_t> kept{0};      // bytes of resident free ranges; read without the lock
  Ranges free;
  std::set<std::pair<size_t, size_t>> by_size;  // resident free ranges: size, offset

  size_t pages(size_t bytes) const { return (bytes + page - 1) / page * page; }

  bool reserve() {
    if (base || failed) return base;
    struct sysinfo info;
    page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    failed = sysinfo(&info) != 0;
    if (failed) return false;
    memory = static_cast<size_t>(info.totalram + info.totalswap) * info.mem_unit;
    // Addresses cost nothing; there are several times as many as memory, so that holes never matter.
    const size_t wanted = 8 * pages(memory);
    void* const range =
        mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    failed = range == MAP_FAILED;  // addresses are limited (ulimit -v), or the kernel commits strictly
    if (failed) return false;
    base = static_cast<char*>(range);
    reserved = wanted;
    free.emplace(0, Range{reserved, false});
    return true;
  }

  // Where a block of `size` goes: the smallest kept range that has room for it, else wherever it needs the fewest fresh
  // pages. `reserved` if there is no place.
  size_t place(size_t size) const {
    const auto fits = by_size.lower_bound({size, 0});
    if (fits != by_size.end()) return fits->second;
    size_t best = reserved, fewest = SIZE_MAX;
    // A run is a row of free ranges without a gap. It is filled from its beginning.
    for (auto run = free.begin(); run != free.end();) {
      size_t room = 0, fresh = 0;
      auto next = run;
      for (size_t end = run->first; next != free.end() && next->first == end; ++next) {
        if (room < size && !next->second.resident) fresh += std::min(next->second.size, size - room);
        room += next->second.size;
        end += next->second.size;
      }
      if (room >= size && fresh < fewest) {
        best = run->first;
        fewest = fresh;
      }
      run = next;
    }
    return best;
  }

  // Takes the `size` bytes at `at`, which are free, out of the free ranges.
  void occupy(size_t at, size_t size) {
    for (size_t end = at + size; at < end;) {
      const auto range = std::prev(free.upper_bound(at));
      const size_t start = range->first, length = range->second.size;
      const bool resident = range->second.resident;
      remove(range);
      const size_t taken = std::min(end, start + length) - at;
      if (start < at) add(start, at - start, resident);
      if (at + taken < start + length) add(at + taken, start + length - at - taken, resident);
      at += taken;
    }
  }

  void remove(Ranges::iterator range) {
    if (range->second.resident) {
      by_size.erase({range->second.size, range->first});
      kept -= range->second.size;
    }
    free.erase(range);
  }

  // Adds a free range, as one with neighbours of its kind.
  void add(size_t at, size_t size, bool resident) {
    const auto after = free.find(at + size);
    if (after != free.end() && after->second.resident == resident) {
      size += after->second.size;
      remove(after);
    }
    const auto behind = free.lower_bound(at);
    if (behind != free.begin()) {
      const auto before = std::prev(behind);
      if (before->first + before->second.size == at && before->second.resident == resident) {
        at = before->first;
        size += before->second.size;
        remove(before);
      }
    }
    free.emplace(at, Range{size, resident});
    if (resident) {
      by_size.emplace(size, at);
      kept += size;
    }
  }

  // Returns pages of the largest resident free range: as many as there are too many, or all of it.
  void give_back_largest() {
    const auto [size, at] = *by_size.rbegin();
    const size_t part = std::min(size, pages(live + kept - most));
    madvise(base + at + size - part, part, MADV_DONTNEED);
    remove(free.find(at));
    if (part < size) add(at, size - part, true);
    add(at + size - part, part, false);
  }
};

}  // namespace fleet
