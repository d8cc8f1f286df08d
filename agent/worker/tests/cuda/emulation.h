// The words of CUDA that the scan's kernels use, for an ordinary C++ compiler: threads run one after another, so a kernel whose
// threads need each other (LANES > 1) cannot be emulated.
#include <algorithm>
#include <cmath>
#include <cstring>

using std::min;

#define __global__
#define __device__
#define LANES 1

struct Index {
  unsigned x, y, z;
};
static thread_local Index threadIdx, blockIdx, blockDim;

#include KERNELS

extern "C" int run(const char* kernel, unsigned x, unsigned y, unsigned z, unsigned threads, const void* given) {
  static const struct {
    const char* name;
    void (*kernel)(Job);
  } all[] = {{"ends", ends},       {"join", join},           {"forward", forward},
             {"carries", carries}, {"join_back", join_back}, {"backward", backward}};
  Job job;
  std::memcpy(&job, given, sizeof job);
  for (const auto& one : all) {
    if (std::strcmp(one.name, kernel)) continue;
    blockDim = {threads, 1, 1};
    for (unsigned bz = 0; bz < z; ++bz)
      for (unsigned by = 0; by < y; ++by)
        for (unsigned bx = 0; bx < x; ++bx)
          for (unsigned t = 0; t < threads; ++t) {
            blockIdx = {bx, by, bz};
            threadIdx = {t, 0, 0};
            one.kernel(job);
          }
    return 0;
  }
  return 1;
}

extern "C" unsigned long job_size() { return sizeof(Job); }
