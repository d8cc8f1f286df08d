// NVIDIA's management library as its header describes it, with boards that exist nowhere: for tests on machines
// without a GPU. The tests play devices with it:
//   beside the library, a file `script` says what the boards do, and a file `now` what time it is, in seconds; without
//   `now` time runs by itself from when the library was loaded. Both are read again at every question.
//
//   boards N                          how many (3)
//   init CODE                         what nvmlInit answers
//   driver VERSION
//   BOARD name TEXT
//   BOARD power T:W T:W ...           power over time, watts, linear between the corners and constant outside
//   BOARD averaging S                 the default power is a mean over the last S seconds
//   BOARD update S                    sensors and counter change every S seconds only
//   BOARD instant 0|1                 power of the moment and on average can be asked for apart
//   BOARD counter 0|1                 there is an energy counter
//   BOARD reset T                     the counter starts again at T seconds
//   BOARD temperature|sm|throttle|others|limit|memory T:V ...   over time, each value until the next
//   BOARD ecc T:N ...                 memory errors that could not be corrected
//   BOARD pending T:0|1 ...           memory pages are to be retired
//   BOARD xid T:N                     the driver reports Xid N at T seconds, once
//   BOARD lost T                      falls off the bus at T seconds
//   BOARD refuse CALL CODE            CALL (power, energy, temperature, ...) answers CODE
//   BOARD mig 1                       is divided
//   BOARD nan 1                       power of the moment is not a number
//   BOARD capability MAJOR MINOR
// Without a script board 0 is sound and draws 150 W, board 1 is divided by MIG, board 2 does not tell its memory.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { MOST_BOARDS = 8, MOST_CORNERS = 64, MOST_REFUSALS = 8 };

struct curve { int n; double at[MOST_CORNERS], value[MOST_CORNERS]; };
struct board {
  char name[96];
  struct curve power, temperature, sm, throttle, others, limit, memory, ecc, pending, xid;
  double averaging, update, lost, reset;
  int instant, counter, mig, nan, major, minor;
  struct { char call[32]; int code; } refusals[MOST_REFUSALS];
  int n_refusals;
};

static struct board boards[MOST_BOARDS];
static int n_boards, init_code;
static char driver[32];
static int handles[MOST_BOARDS] = {0, 1, 2, 3, 4, 5, 6, 7};
static int index_of(void* device) { return (int)((int*)device - handles); }

static void beside(const char* name, char* path, size_t size) {
  Dl_info info;
  dladdr((void*)&beside, &info);
  snprintf(path, size, "%s", info.dli_fname);
  char* slash = strrchr(path, '/');
  snprintf(slash ? slash + 1 : path, size - (slash ? slash + 1 - path : 0), "%s", name);
}

static double running(void) {
  static double loaded = -1;
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  double s = t.tv_sec + t.tv_nsec * 1e-9;
  if (loaded < 0) loaded = s;
  return s - loaded;
}

static double now(void) {
  char path[4096];
  beside("now", path, sizeof path);
  double s = running();
  FILE* file = fopen(path, "r");
  if (file) {
    if (fscanf(file, "%lf", &s) != 1) s = running();
    fclose(file);
  }
  return s;
}

static void constant(struct curve* c, double value) { c->n = 1; c->at[0] = 0; c->value[0] = value; }

static void parse_curve(struct curve* c, char* text) {
  char* rest;
  c->n = 0;
  for (char* word = strtok_r(text, " ", &rest); word && c->n < MOST_CORNERS; word = strtok_r(NULL, " ", &rest))
    if (sscanf(word, "%lf:%lf", &c->at[c->n], &c->value[c->n]) == 2) c->n++;
}

static void plain(struct board* b, int index) {
  memset(b, 0, sizeof *b);
  snprintf(b->name, sizeof b->name, index ? "NVIDIA Stand-in B" : "NVIDIA Stand-in A");
  constant(&b->power, 150);
  constant(&b->temperature, 61);
  constant(&b->sm, 1500);
  constant(&b->throttle, 0);
  constant(&b->others, 0);
  constant(&b->limit, 200);
  constant(&b->memory, 1024);
  constant(&b->ecc, 0);
  constant(&b->pending, 0);
  constant(&b->xid, 0);
  b->lost = b->reset = INFINITY;
  b->counter = 1;
  b->major = 8;
  b->minor = 9;
}

static void read_script(void) {
  char path[4096], line[4096];
  n_boards = 3;
  init_code = SUCCESS;
  snprintf(driver, sizeof driver, "580.65.06");
  for (int i = 0; i < MOST_BOARDS; i++) plain(&boards[i], i);
  beside("script", path, sizeof path);
  FILE* file = fopen(path, "r");
  if (!file) {
    boards[1].mig = 1;
    snprintf(boards[2].refusals[0].call, 32, "memory");
    boards[2].refusals[0].code = GPU_IS_LOST;
    boards[2].n_refusals = 1;
    return;
  }
  while (fgets(line, sizeof line, file)) {
    int index, used = 0;
    char key[32];
    if (sscanf(line, "boards %d", &n_boards) == 1 || sscanf(line, "init %d", &init_code) == 1) continue;
    if (sscanf(line, "driver %31s", driver) == 1) continue;
    if (sscanf(line, "%d %31s %n", &index, key, &used) < 2 || index < 0 || index >= MOST_BOARDS) continue;
    struct board* b = &boards[index];
    char* rest = line + used;
    rest[strcspn(rest, "\n")] = 0;
    if (!strcmp(key, "name")) snprintf(b->name, sizeof b->name, "%s", rest);
    else if (!strcmp(key, "power")) parse_curve(&b->power, rest);
    else if (!strcmp(key, "temperature")) parse_curve(&b->temperature, rest);
    else if (!strcmp(key, "sm")) parse_curve(&b->sm, rest);
    else if (!strcmp(key, "throttle")) parse_curve(&b->throttle, rest);
    else if (!strcmp(key, "others")) parse_curve(&b->others, rest);
    else if (!strcmp(key, "limit")) parse_curve(&b->limit, rest);
    else if (!strcmp(key, "memory")) parse_curve(&b->memory, rest);
    else if (!strcmp(key, "ecc")) parse_curve(&b->ecc, rest);
    else if (!strcmp(key, "pending")) parse_curve(&b->pending, rest);
    else if (!strcmp(key, "xid")) parse_curve(&b->xid, rest);
    else if (!strcmp(key, "averaging")) b->averaging = atof(rest);
    else if (!strcmp(key, "update")) b->update = atof(rest);
    else if (!strcmp(key, "lost")) b->lost = atof(rest);
    else if (!strcmp(key, "reset")) b->reset = atof(rest);
    else if (!strcmp(key, "instant")) b->instant = atoi(rest);
    else if (!strcmp(key, "counter")) b->counter = atoi(rest);
    else if (!strcmp(key, "mig")) b->mig = atoi(rest);
    else if (!strcmp(key, "nan")) b->nan = atoi(rest);
    else if (!strcmp(key, "capability")) sscanf(rest, "%d %d", &b->major, &b->minor);
    else if (!strcmp(key, "refuse") && b->n_refusals < MOST_REFUSALS)
      b->n_refusals += sscanf(rest, "%31s %d", b->refusals[b->n_refusals].call, &b->refusals[b->n_refusals].code) == 2;
  }
  fclose(file);
}

// Joules from 0 to t under a piecewise-linear curve that is constant outside of its corners.
static double joules(const struct curve* c, double t) {
  if (t < c->at[0]) return c->value[0] * t;
  double sum = c->value[0] * c->at[0];
  for (int i = 0; i + 1 < c->n; i++) {
    double a = c->at[i], b = c->at[i + 1], end = t < b ? t : b;
    if (b <= a) continue;
    if (end <= a) return sum;
    double at_end = c->value[i] + (c->value[i + 1] - c->value[i]) * (end - a) / (b - a);
    sum += (end - a) * (c->value[i] + at_end) / 2;
  }
  double last = c->at[c->n - 1];
  return t > last ? sum + c->value[c->n - 1] * (t - last) : sum;
}

static double mean_power(const struct curve* c, double t, double window) {
  if (window < 1e-3) window = 1e-3;
  return (joules(c, t) - joules(c, t - window)) / window;
}

static double step(const struct curve* c, double t) {
  double value = c->value[0];
  for (int i = 0; i < c->n && c->at[i] <= t; i++) value = c->value[i];
  return value;
}

// The board, the time of its latest update, and what it answers to a call where it does not answer properly.
static int ask(void* device, const char* call, struct board** b, double* t) {
  read_script();
  *b = &boards[index_of(device)];
  *t = now();
  if (*t >= (*b)->lost) return GPU_IS_LOST;
  if ((*b)->update > 0) *t = floor(*t / (*b)->update + 1e-9) * (*b)->update;
  for (int i = 0; i < (*b)->n_refusals; i++)
    if (!strcmp((*b)->refusals[i].call, call)) return (*b)->refusals[i].code;
  return SUCCESS;
}
#define ASK(call)                            \
  struct board* b;                           \
  double t;                                  \
  int answer = ask(device, call, &b, &t);    \
  if (answer != SUCCESS) return answer

int nvmlInit_v2(void) { read_script(); running(); return init_code; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; return nvmlInit_v2(); }
int nvmlShutdown(void) { return SUCCESS; }
const char* nvmlErrorString(int code) { (void)code; return "as the test wants it"; }
int nvmlSystemGetDriverVersion(char* version, unsigned length) { snprintf(version, length, "%s", driver); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int* version) { *version = 13000; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned* count) { read_script(); *count = n_boards; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** device) {
  read_script();
  if ((int)index >= n_boards) return INVALID_ARGUMENT;
  if (now() >= boards[index].lost) return GPU_IS_LOST;
  *device = &handles[index];
  return SUCCESS;
}
int nvmlDeviceGetName(void* device, char* name, unsigned length) {
  ASK("name");
  snprintf(name, length, "%s", b->name);
  return SUCCESS;
}
int nvmlDeviceGetUUID(void* device, char* uuid, unsigned length) {
  snprintf(uuid, length, "GPU-00000000-0000-0000-0000-00000000000%d", index_of(device));
  return SUCCESS;
}
int nvmlDeviceGetVbiosVersion(void* device, char* version, unsigned length) {
  (void)device; snprintf(version, length, "95.02.18.00.01"); return SUCCESS;
}
int nvmlDeviceGetMigMode(void* device, unsigned* current, unsigned* pending) {
  ASK("mig");
  if (!b->mig) return NOT_SUPPORTED;
  *current = *pending = 1;
  return SUCCESS;
}

struct memory { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(void* device, struct memory* memory) {
  ASK("memory");
  memory->total = 8ull << 30;
  memory->used = (unsigned long long)step(&b->memory, t) << 20;
  memory->reserved = 256ull << 20;
  memory->free = memory->total - memory->used - memory->reserved;
  return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
  ASK("capability");
  *major = b->major;
  *minor = b->minor;
  return SUCCESS;
}
int nvmlDeviceGetEnforcedPowerLimit(void* device, unsigned* milliwatts) {
  ASK("limit");
  *milliwatts = step(&b->limit, t) * 1000;
  return SUCCESS;
}
int nvmlDeviceGetPowerManagementDefaultLimit(void* device, unsigned* milliwatts) {
  (void)device; *milliwatts = 220000; return SUCCESS;
}
int nvmlDeviceGetPowerUsage(void* device, unsigned* milliwatts) {
  ASK("power");
  *milliwatts = lround(mean_power(&b->power, t, b->averaging) * 1000);
  return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(void* device, unsigned long long* millijoules) {
  ASK("energy");
  if (!b->counter) return NOT_SUPPORTED;
  double since = t >= b->reset ? joules(&b->power, t) - joules(&b->power, b->reset) : joules(&b->power, t) + 5000;
  *millijoules = since * 1000;
  return SUCCESS;
}

struct field {
  unsigned id, scope;
  long long timestamp, latency;
  unsigned type;
  int answer;
  union { double d; int i; unsigned u; unsigned long ul; unsigned long long ull; long long ll; } value;
};
enum { POWER_AVERAGE = 185, POWER_INSTANT = 186, DOUBLE = 0, UNSIGNED_INT = 1 };
int nvmlDeviceGetFieldValues(void* device, int count, struct field* fields) {
  ASK("fields");
  for (int i = 0; i < count; i++) {
    struct field* f = &fields[i];
    int known = b->instant && (f->id == POWER_AVERAGE || f->id == POWER_INSTANT);
    f->answer = known ? SUCCESS : NOT_SUPPORTED;
    f->type = UNSIGNED_INT;
    f->value.u = lround(mean_power(&b->power, t, f->id == POWER_AVERAGE ? b->averaging : 0) * 1000);
    if (b->nan) f->type = DOUBLE, f->value.d = NAN;
  }
  return SUCCESS;
}
int nvmlDeviceGetTemperature(void* device, int sensor, unsigned* celsius) {
  (void)sensor;
  ASK("temperature");
  *celsius = step(&b->temperature, t);
  return SUCCESS;
}
struct rates { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(void* device, struct rates* rates) {
  ASK("utilisation");
  rates->gpu = 97;
  rates->memory = 40;
  return SUCCESS;
}
int nvmlDeviceGetClockInfo(void* device, int which, unsigned* megahertz) {
  ASK("clocks");
  *megahertz = which == 1 ? step(&b->sm, t) : 7000;
  return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void* device, unsigned long long* reasons) {
  ASK("throttle");
  *reasons = step(&b->throttle, t);
  return SUCCESS;
}
int nvmlDeviceGetCurrPcieLinkGeneration(void* device, unsigned* generation) {
  ASK("pcie");
  *generation = 4;
  return SUCCESS;
}
int nvmlDeviceGetCurrPcieLinkWidth(void* device, unsigned* width) {
  ASK("pcie");
  *width = 8;
  return SUCCESS;
}
int nvmlDeviceGetMaxPcieLinkGeneration(void* device, unsigned* generation) { (void)device; *generation = 4; return SUCCESS; }
int nvmlDeviceGetMaxPcieLinkWidth(void* device, unsigned* width) { (void)device; *width = 16; return SUCCESS; }

struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, struct process* processes) {
  ASK("processes");
  unsigned others = step(&b->others, t), room = *count;
  *count = others;
  if (others > room || (others && !processes)) return INSUFFICIENT_SIZE;
  for (unsigned i = 0; i < others; i++) processes[i] = (struct process){400000 + i, 1 << 20, ~0u, ~0u};
  return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(void* device, int type, int counter, unsigned long long* count) {
  ASK("ecc");
  *count = type == 1 && counter == 0 ? step(&b->ecc, t) : 0;
  return SUCCESS;
}
int nvmlDeviceGetRetiredPagesPendingStatus(void* device, int* pending) {
  ASK("pending");
  *pending = step(&b->pending, t) != 0;
  return SUCCESS;
}

struct event { void* device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
enum { TIMEOUT = 10, XID = 8 };
static int set, waited_for[MOST_BOARDS], reported[MOST_BOARDS];
int nvmlEventSetCreate(void** created) { *created = &set; return SUCCESS; }
int nvmlEventSetFree(void* freed) { (void)freed; return SUCCESS; }
int nvmlDeviceRegisterEvents(void* device, unsigned long long types, void* to) {
  ASK("events");
  (void)to;
  waited_for[index_of(device)] = (types & XID) != 0;
  return SUCCESS;
}
int nvmlEventSetWait_v2(void* from, struct event* event, unsigned milliseconds) {
  (void)from;
  for (unsigned waited = 0; waited <= milliseconds; waited += 20) {
    read_script();
    for (int i = 0; i < n_boards; i++) {
      int xid = now() >= boards[i].xid.at[0] ? step(&boards[i].xid, now()) : 0;
      if (!waited_for[i] || !xid || reported[i] == xid) continue;
      reported[i] = xid;
      *event = (struct event){&handles[i], XID, xid, ~0u, ~0u};
      return SUCCESS;
    }
    nanosleep(&(struct timespec){0, 20000000}, NULL);
  }
  return TIMEOUT;
}
