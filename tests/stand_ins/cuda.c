// The little of NVIDIA's driver library that tells how much memory a board has, for tests on machines without a GPU.
#include <stddef.h>

int cuInit(unsigned flags) { return flags != 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (8ull << 30) - (136ull << 20); return device; }
