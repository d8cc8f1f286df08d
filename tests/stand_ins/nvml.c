// NVIDIA's management library as its header describes it, with boards that exist nowhere: for tests on machines
// without a GPU. Each test compiles the variant that it needs:
//   -DINIT=n            what nvmlInit answers (0: success)
//   -DENERGY=0          no energy counter (boards before Volta)
//   -DPOWER=0           no power either
// Board 0 is sound, board 1 is divided by MIG, board 2 does not tell its memory.
#include <stdio.h>
#include <string.h>
#include <time.h>

#ifndef INIT
#define INIT 0
#endif
#ifndef ENERGY
#define ENERGY 1
#endif
#ifndef POWER
#define POWER 1
#endif

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };
#define WATTS 150

static int boards[3] = {0, 1, 2};
static int index_of(void* device) { return (int)((int*)device - boards); }

int nvmlInit_v2(void) { return INIT; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return INIT; }
int nvmlShutdown(void) { return SUCCESS; }
const char* nvmlErrorString(int code) { (void)code; return "as the test wants it"; }
int nvmlSystemGetDriverVersion(char* version, unsigned length) { snprintf(version, length, "580.65.06"); return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = 3; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  if (index > 2) return INVALID_ARGUMENT;
  *device = &boards[index];
  return SUCCESS;
}
int nvmlDeviceGetName(void* device, char* name, unsigned length) {
  snprintf(name, length, index_of(device) ? "NVIDIA Stand-in B" : "NVIDIA Stand-in A");
  return SUCCESS;
}
int nvmlDeviceGetUUID(void* device, char* uuid, unsigned length) {
  snprintf(uuid, length, "GPU-00000000-0000-0000-0000-00000000000%d", index_of(device));
  return SUCCESS;
}
int nvmlDeviceGetMigMode(void* device, unsigned* current, unsigned* pending) {
  if (index_of(device) != 1) return NOT_SUPPORTED;
  *current = *pending = 1;
  return SUCCESS;
}

struct memory { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(void* device, struct memory* memory) {
  if (index_of(device) == 2) return GPU_IS_LOST;
  memory->total = 8ull << 30;
  memory->used = 1ull << 30;
  memory->reserved = 256ull << 20;
  memory->free = memory->total - memory->used - memory->reserved;
  return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
  (void)device; *major = 8; *minor = 9; return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(void* device, unsigned* milliwatts) {
  (void)device; *milliwatts = 200000; return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  (void)device; *milliwatts = WATTS * 1000; return POWER ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  (void)device;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  *millijoules = WATTS * 1000ull * now.tv_sec + WATTS * (unsigned long long)(now.tv_nsec / 1000000);
  return ENERGY ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetTemperature(void* device, int sensor, unsigned* celsius) {
  (void)device; (void)sensor; *celsius = 61; return SUCCESS;
}
struct rates { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void* device, struct rates* rates) {
  (void)device; rates->gpu = 97; rates->memory = 40; return SUCCESS;
}
