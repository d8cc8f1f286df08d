// The selective scan on a GPU, compiled at run time for a number of states N. One thread has one channel of one batch entry
// and one chunk of time, with its states in registers; neighbouring threads have neighbouring channels, which lie side by side.
//
// Chunks depend on each other only by the state between them. A chunk turns the state before it into
// exp(a·Σdt)·state + (the state that it ends with if it begins with zero), so three kernels do a scan: `ends` finds each
// chunk's Σdt and end state, `join` goes through the chunks in turn, `forward` runs each chunk from the right state. Backward
// is the same with the gradient of the state, from the last chunk to the first.
//
// Sums over channels, batch entries and chunks are written in parts and added by the caller: atomics would add them in another
// order each time.

#ifndef LANES
#define LANES 32  // threads whose sums are added by shuffles; an emulation has 1
#endif
#ifndef CHUNK
#define CHUNK 16  // most steps of a chunk in backward
#endif

struct Job {
  // (batch, length, …) with these strides, the last dimension contiguous.
  const float *x, *delta, *b, *c, *gate;
  // (channels, N), (channels), (channels).
  const float *a, *d, *bias;
  // Contiguous, (batch, length, channels).
  const float* dy;
  float *y, *dx, *ddelta, *dgate;
  // Between the kernels: (batch, chunks, channels), and twice (batch, chunks, N, channels).
  float *sums, *states, *carries;
  // Parts of sums: (batch, chunks, N, channels), twice (batch, chunks, channels), twice (groups, batch, length, N).
  float *da, *dd, *dbias, *db, *dc;
  long long x_batch, x_row, delta_batch, delta_row, b_batch, b_row, c_batch, c_row, gate_batch, gate_row;
  float scale;
  int batch, length, channels, chunk, chunks, reverse, first, last;
};

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ inline float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

#if LANES > 1
__device__ inline float sum_of_lanes(float x) {
  for (int far = LANES / 2; far > 0; far /= 2) x += __shfl_down_sync(0xffffffffu, x, far);
  return x;
}
#else
__device__ inline float sum_of_lanes(float x) { return x; }
#endif

// One thread's channel, and its place in the arrays.
struct Lane {
  const Job& j;
  int channel, batch, chunk;
  bool there;  // threads beyond the last channel only take part in sums

  __device__ Lane(const Job& job)
      : j(job), channel(blockIdx.x * blockDim.x + threadIdx.x), batch(blockIdx.z), chunk(blockIdx.y), there(true) {
    if (channel >= j.channels) {
      there = false;
      channel = j.channels - 1;
    }
  }

  __device__ int begin() const { return chunk * j.chunk; }
  __device__ int end() const { return min(j.length, begin() + j.chunk); }
  __device__ int time(int step) const { return j.reverse ? j.length - 1 - step : step; }
  __device__ long long row(int t) const { return ((long long)batch * j.length + t) * j.channels + channel; }
  __device__ long long of_chunk(int chunk) const { return ((long long)batch * j.chunks + chunk) * j.channels + channel; }
  __device__ long long of_state(int chunk, int n) const {
    return (((long long)batch * j.chunks + chunk) * N + n) * j.channels + channel;
  }
  __device__ float x(int t) const { return j.x[batch * j.x_batch + t * j.x_row + channel]; }
  __device__ float raw(int t) const { return j.delta[batch * j.delta_batch + t * j.delta_row + channel] + j.bias[channel]; }
  __device__ const float* b(int t) const { return j.b + batch * j.b_batch + t * j.b_row; }
  __device__ const float* c(int t) const { return j.c + batch * j.c_batch + t * j.c_row; }
  __device__ float gate(int t) const { return j.gate[batch * j.gate_batch + t * j.gate_row + channel]; }
  __device__ void load_a(float* a) const {
    for (int n = 0; n < N; ++n) a[n] = j.a[(long long)channel * N + n] * 1.4426950408889634f;  // log₂e
  }
  // The gradient of what is read at `t`, before the gate's part.
  __device__ float ds(int t) const {
    float ds = j.dy[row(t)] * j.scale;
    if (j.gate) {
      const float z = gate(t);
      ds *= z * sigmoid(z);
    }
    return ds;
  }
};

// Each chunk's Σdt, and its end state from zero.
extern "C" __global__ void ends(const Job j) {
  const Lane lane(j);
  if (!lane.there) return;
  float a[N], h[N];
  lane.load_a(a);
  for (int n = 0; n < N; ++n) h[n] = 0;
  float sum = 0;
  for (int step = lane.begin(); step < lane.end(); ++step) {
    const int t = lane.time(step);
    const float dt = softplus(lane.raw(t)), u = dt * lane.x(t);
    const float* b = lane.b(t);
    sum += dt;
    for (int n = 0; n < N; ++n) h[n] = exp2f(dt * a[n]) * h[n] + u * b[n];
  }
  j.sums[lane.of_chunk(lane.chunk)] = sum;
  for (int n = 0; n < N; ++n) j.states[lane.of_state(lane.chunk, n)] = h[n];
}

// From each chunk's end state from zero to the state before it.
extern "C" __global__ void join(const Job j) {
  const Lane lane(j);
  if (!lane.there) return;
  float a[N], h[N];
  lane.load_a(a);
  for (int n = 0; n < N; ++n) h[n] = 0;
  for (int chunk = 0; chunk < j.chunks; ++chunk) {
    const float sum = j.sums[lane.of_chunk(chunk)];
    for (int n = 0; n < N; ++n) {
      float* state = j.states + lane.of_state(chunk, n);
      const float end = *state;
      *state = h[n];
      h[n] = exp2f(sum * a[n]) * h[n] + end;
    }
  }
}

extern "C" __global__ void forward(const Job j) {
  const Lane lane(j);
  if (!lane.there) return;
  float a[N], h[N];
  lane.load_a(a);
  for (int n = 0; n < N; ++n) h[n] = j.states ? j.states[lane.of_state(lane.chunk, n)] : 0.0f;
  const float d = j.d[lane.channel];
  for (int step = lane.begin(); step < lane.end(); ++step) {
    const int t = lane.time(step);
    const float x = lane.x(t), dt = softplus(lane.raw(t)), u = dt * x;
    const float *b = lane.b(t), *c = lane.c(t);
    float s = d * x;
    for (int n = 0; n < N; ++n) {
      h[n] = exp2f(dt * a[n]) * h[n] + u * b[n];
      s += c[n] * h[n];
    }
    float* y = j.y + lane.row(t);
    if (!j.first) s += *y;
    if (j.last) {
      s *= j.scale;
      if (j.gate) {
        const float z = lane.gate(t);
        s *= z * sigmoid(z);
      }
    }
    *y = s;
  }
}

// What each chunk hands to the one before it, if nothing comes from behind: the gradient of the state, times its decay.
extern "C" __global__ void carries(const Job j) {
  const Lane lane(j);
  if (!lane.there) return;
  float a[N], carry[N];
  lane.load_a(a);
  for (int n = 0; n < N; ++n) carry[n] = 0;
  for (int step = lane.end() - 1; step >= lane.begin(); --step) {
    const int t = lane.time(step);
    const float dt = softplus(lane.raw(t)), ds = lane.ds(t);
    const float* c = lane.c(t);
    for (int n = 0; n < N; ++n) carry[n] = exp2f(dt * a[n]) * (carry[n] + c[n] * ds);
  }
  for (int n = 0; n < N; ++n) j.carries[lane.of_state(lane.chunk, n)] = carry[n];
}

// From what each chunk hands on to what it gets from behind.
extern "C" __global__ void join_back(const Job j) {
  const Lane lane(j);
  if (!lane.there) return;
  float a[N], carry[N];
  lane.load_a(a);
  for (int n = 0; n < N; ++n) carry[n] = 0;
  for (int chunk = j.chunks - 1; chunk >= 0; --chunk) {
    const float sum = j.sums[lane.of_chunk(chunk)];
    for (int n = 0; n < N; ++n) {
      float* place = j.carries + lane.of_state(chunk, n);
      const float own = *place;
      *place = carry[n];
      carry[n] = exp2f(sum * a[n]) * carry[n] + own;
    }
  }
}

extern "C" __global__ void backward(const Job j) {
  const Lane lane(j);
  float a[N], h[N], carry[N], da[N];
  float states[CHUNK][N], read[CHUNK];
  lane.load_a(a);
  for (int n = 0; n < N; ++n) {
    h[n] = j.states[lane.of_state(lane.chunk, n)];
    carry[n] = j.carries[lane.of_state(lane.chunk, n)];
    da[n] = 0;
  }
  const int begin = lane.begin(), end = lane.end();
  for (int step = begin; step < end; ++step) {
    const int t = lane.time(step);
    const float dt = softplus(lane.raw(t)), u = dt * lane.x(t);
    const float *b = lane.b(t), *c = lane.c(t);
    float s = 0;
    for (int n = 0; n < N; ++n) {
      states[step - begin][n] = h[n];  // before the step
      h[n] = exp2f(dt * a[n]) * h[n] + u * b[n];
      s += c[n] * h[n];
    }
    read[step - begin] = s;
  }
  const float d = j.d[lane.channel];
  const long long group = lane.channel / LANES;
  const bool speaks = lane.there && threadIdx.x % LANES == 0;
  float dd = 0, dbias = 0;
  for (int step = end - 1; step >= begin; --step) {
    const int t = lane.time(step);
    const float raw = lane.raw(t), dt = softplus(raw), x = lane.x(t), u = dt * x;
    const float *b = lane.b(t), *c = lane.c(t);
    // Threads beyond the last channel must add nothing to the sums.
    const float ds = lane.there ? lane.ds(t) : 0.0f;
    float du = 0, exponent = 0;
    const long long place = ((group * j.batch + lane.batch) * j.length + t) * N;
    for (int n = 0; n < N; ++n) {
      const float decay = exp2f(dt * a[n]), before = states[step - begin][n];
      const float dh = lane.there ? carry[n] + c[n] * ds : 0.0f;
      const float db = sum_of_lanes(dh * u), dc = sum_of_lanes(ds * (decay * before + u * b[n]));
      if (speaks) {
        j.db[place + n] = db;
        j.dc[place + n] = dc;
      }
      du += dh * b[n];
      carry[n] = decay * dh;
      const float moved = carry[n] * before;
      exponent += moved * a[n];
      da[n] += moved * dt;
    }
    if (!lane.there) continue;
    // a is a·log₂e here; ln 2 takes that back.
    const float ddelta = (du * x + exponent * 0.6931471805599453f) * sigmoid(raw);
    const long long at = lane.row(t);
    j.dx[at] = du * dt + ds * d;
    j.ddelta[at] = ddelta;
    dd += ds * x;
    dbias += ddelta;
    if (j.gate) {
      const float z = lane.gate(t), share = sigmoid(z);
      const float dz = j.dy[at] * j.scale * (read[step - begin] + d * x) * share * (1.0f + z * (1.0f - share));
      j.dgate[at] = j.first ? dz : j.dgate[at] + dz;
    }
  }
  if (!lane.there) return;
  j.dd[lane.of_chunk(lane.chunk)] = dd;
  j.dbias[lane.of_chunk(lane.chunk)] = dbias;
  for (int n = 0; n < N; ++n) j.da[lane.of_state(lane.chunk, n)] = da[n];
}
