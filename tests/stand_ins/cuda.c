// The little of NVIDIA's driver library that we call, for tests on machines without a GPU. Modules are libraries that the
// stand-in for NVRTC compiled, "device memory" is the host's, and a launch has run when it returns.
//
// Boards: 0 is whole; 1 has a driver that is too old for the modules; 2 is older than any NVRTC knows, 3 newer.
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, INVALID_IMAGE = 200, INVALID_CONTEXT = 201, UNSUPPORTED_PTX = 222, NOT_FOUND = 500 };
enum { BOARDS = 4 };

struct Board { int number, capability; };
static struct Board boards[BOARDS] = {{0, 90}, {1, 90}, {2, 30}, {3, 999}};

static __thread struct Board *current[8];
static __thread int depth;

int cuInit(unsigned flags) { return flags != 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return ordinal < 0 || ordinal >= BOARDS; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (8ull << 30) - (136ull << 20); return device; }

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  switch (attribute) {
    case 16: *value = 1; return 0;  // multiprocessors
    case 75: *value = boards[device].capability / 10; return 0;
    case 76: *value = boards[device].capability % 10; return 0;
    default: return INVALID_VALUE;
  }
}

// A context takes 300 MiB of the board, on which somebody else holds 1 GiB.
static int contexts;
static int primaries;
int cuMemGetInfo_v2(size_t* free, size_t* total) {
  if (depth == 0) return INVALID_CONTEXT;
  cuDeviceTotalMem_v2(total, 0);
  *free = *total - (1ull << 30) - (size_t)(contexts + (primaries > 0)) * (300ull << 20);
  return 0;
}
int cuCtxCreate_v2(void** context, unsigned flags, int device) {
  *context = current[depth++] = &boards[device];
  ++contexts;
  return flags != 0;
}
int cuCtxDestroy_v2(void* context) {
  if (depth == 0 || current[depth - 1] != context) return INVALID_CONTEXT;
  --depth;
  --contexts;
  return 0;
}

int cuDevicePrimaryCtxRetain(void** context, int device) { *context = &boards[device]; ++primaries; return 0; }
int cuCtxPushCurrent_v2(void* context) { current[depth++] = context; return 0; }
int cuCtxPopCurrent_v2(void** context) {
  if (depth == 0) return INVALID_CONTEXT;
  *context = current[--depth];
  return 0;
}

int cuModuleLoadData(void** module, const void* image) {
  static const char mark[] = "stand-in:";
  if (depth == 0) return INVALID_CONTEXT;
  if (current[depth - 1]->number == 1) return UNSUPPORTED_PTX;
  if (strncmp(image, mark, sizeof mark - 1)) return INVALID_IMAGE;
  *module = dlopen((const char*)image + sizeof mark - 1, RTLD_NOW | RTLD_LOCAL);
  return *module ? 0 : INVALID_IMAGE;
}

typedef void Launch(void* kernel, const unsigned* grid, unsigned threads, void** arguments);
struct Function { Launch* launch; void* kernel; };

int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (depth == 0) return INVALID_CONTEXT;
  struct Function* found = malloc(sizeof *found);
  *(void**)&found->launch = dlsym(module, "stand_in_launch");
  found->kernel = dlsym(module, name);
  *function = found;
  return found->kernel ? 0 : NOT_FOUND;
}

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void* stream, void** arguments, void** extra) {
  if (depth == 0) return INVALID_CONTEXT;
  // The driver's own limits.
  if (!x || !y || !z || y > 65535 || z > 65535 || !threads || threads > 1024) return INVALID_VALUE;
  if (threads_y != 1 || threads_z != 1 || shared || stream || extra) return INVALID_VALUE;
  const unsigned grid[3] = {x, y, z};
  const struct Function* f = function;
  f->launch(f->kernel, grid, threads, arguments);
  return 0;
}

int cuGetErrorName(int error, const char** name) {
  *name = error == UNSUPPORTED_PTX ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" : "CUDA_ERROR_OF_THE_STAND_IN";
  return 0;
}
int cuGetErrorString(int error, const char** text) {
  *text = error == UNSUPPORTED_PTX ? "the provided PTX was compiled with an unsupported toolchain." : "refused";
  return 0;
}
