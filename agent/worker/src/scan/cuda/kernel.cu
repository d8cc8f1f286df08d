// The selective scan on a GPU, for NVRTC: no headers. The host's half, and the words, are in mod.rs.
//
// A thread owns one channel of one sequence, and its states in registers; neighbours own neighbouring channels, so that
// every access to a (batch, length, channels) tensor is one line of memory per warp. Where that makes too few threads,
// sequences are cut into chunks, which is possible because a chunk acts on the state as one step does:
//
//   end = exp(a · sum of dt) · start + end from zero
//
// `*_states` compute the second term, `combine` goes over the chunks, and `outputs` does the work with the right start.
// Backward does the same once more against time, for the loss's derivative by the state.
//
// There are no atomics: what many threads add to is written as partial sums, which the host adds in a fixed order.
//
// Defined by the host: FORWARD and BACKWARD, how many states a thread owns at a time (1, 2, 4, 8 or 16; more states are
// more launches), SEGMENT, how many steps' inputs are fetched together and how many steps' states backward has in registers,
// MARK, after how many steps it writes the state down, THREADS of a block, and SCAN_BYTES.

constexpr float LOG2_E = 1.44269504088896341f;
constexpr float LN_2 = 0.69314718055994531f;

// A (batch, length, columns) tensor whose columns are contiguous; the others' distances are in elements.
struct Rows {
  const float* data;
  long long batch;
  int row;
};

// One group of states of one pass. What is not used by a launch is null.
struct Scan {
  Rows x, delta, b, c;     // b and c begin at the group
  Rows gate, grad;         // gate may be null; grad is the loss's derivative by the result
  const float *a;          // (channels, a_row), beginning at the group
  const float *d, *bias;   // (channels); d is null but in the first group
  // (batch, length, channels), contiguous.
  float *y, *dx, *ddelta, *dgate;
  float* carry;            // (batch, chunks, group, channels): the state that each chunk ends with, then starts with
  float* carry_back;       // the same for the derivative by the state, against time
  float* spans;            // (batch, chunks, channels): sums of dt
  float* marks;            // (batch, marks, group, channels): the state before each MARK steps
  float* sums;             // (batch, length, warps, 2 · group): derivatives by b and c, summed over a warp's channels
  float* totals;           // (batch · chunks, group + 2, channels): derivatives by a, d and bias, summed over a chunk
  float scale;
  int a_row, length, channels, chunk, chunks;
  int reverse;             // time runs from the last token to the first
  int add;                 // to y, dx and ddelta: an earlier group or pass has written them
  int add_gate;            // the same for dgate
  int finish;              // y is complete after this launch: apply gate and scale
  int back;                // combine: against time
};
static_assert(sizeof(Scan) == SCAN_BYTES, "the host means another Scan");

static __device__ float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }

// As torch computes it.
static __device__ float softplus(float v) { return v > 20.0f ? v : log1pf(expf(v)); }

// Where a thread is. Steps count in the pass's own time.
struct Thread {
  const Scan& s;
  const int channel, chunk, batch, first, last;
  const bool active;  // the last warps have channels to spare

  __device__ explicit Thread(const Scan& scan)
      : s(scan),
        channel(blockIdx.x * THREADS + threadIdx.x),
        chunk(blockIdx.y),
        batch(blockIdx.z),
        first(chunk * scan.chunk),
        last(first + scan.chunk < scan.length ? first + scan.chunk : scan.length),
        active(channel < scan.channels) {}

  __device__ int token(int step) const { return s.reverse ? s.length - 1 - step : step; }

  __device__ const float* row(const Rows& rows, int step) const {
    return rows.data + batch * rows.batch + static_cast<long long>(token(step)) * rows.row;
  }

  // This channel's value; zero where there is no channel.
  __device__ float at(const Rows& rows, int step) const { return active ? __ldg(row(rows, step) + channel) : 0.0f; }

  // dt before softplus.
  __device__ float raw(int step) const { return at(s.delta, step) + (active ? __ldg(s.bias + channel) : 0.0f); }

  // The loss's derivative by the pass's own output.
  __device__ float grad(int step) const {
    const float g = at(s.grad, step) * s.scale;
    if (!s.gate.data) return g;
    const float v = at(s.gate, step);
    return g * v * sigmoid(v);
  }

  // Into a contiguous (batch, length, channels).
  __device__ long long element(int step) const {
    return (static_cast<long long>(batch) * s.length + token(step)) * s.channels + channel;
  }

  // Into carry and its like: (batch, outer, inner, channels).
  __device__ long long index(int outers, int outer, int inners, int inner) const {
    return ((static_cast<long long>(batch) * outers + outer) * inners + inner) * s.channels + channel;
  }

  // a · log2(e), because 2^x is what the hardware computes.
  __device__ float rate(int state) const {
    return active ? __ldg(s.a + static_cast<long long>(channel) * s.a_row + state) * LOG2_E : 0.0f;
  }

  template <int WIDTH>
  __device__ void rates(float (&a)[WIDTH]) const {
#pragma unroll
    for (int n = 0; n < WIDTH; ++n) a[n] = rate(n);
  }

  // What flows into the chunk, from `carried`; zero where there is one chunk only.
  template <int WIDTH>
  __device__ void load(const float* carried, int outers, int outer, float (&h)[WIDTH]) const {
#pragma unroll
    for (int n = 0; n < WIDTH; ++n) h[n] = carried && active ? carried[index(outers, outer, WIDTH, n)] : 0.0f;
  }

  template <int WIDTH>
  __device__ void store(float* carried, int outers, int outer, const float (&h)[WIDTH]) const {
#pragma unroll
    for (int n = 0; n < WIDTH; ++n)
      if (active) carried[index(outers, outer, WIDTH, n)] = h[n];
  }

  // The state after a step.
  template <int WIDTH>
  __device__ void advance(float (&h)[WIDTH], const float (&a)[WIDTH], int step, float dt, float x) const {
    const float* b = row(s.b, step);
    const float dtx = dt * x;
#pragma unroll
    for (int n = 0; n < WIDTH; ++n) h[n] = exp2f(dt * a[n]) * h[n] + dtx * __ldg(b + n);
  }
};

// The channel's inputs of a segment, fetched together so that their way from memory is waited for once. After the
// chunk's end, and where there is no channel, no time passes and nothing comes in.
struct Segment {
  float dt[SEGMENT], x[SEGMENT];

  __device__ Segment(const Thread& me, int start) {
#pragma unroll
    for (int j = 0; j < SEGMENT; ++j) {
      const bool there = me.active && start + j < me.last;
      dt[j] = there ? me.raw(start + j) : 0.0f;
      x[j] = there ? me.at(me.s.x, start + j) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < SEGMENT; ++j) dt[j] = me.active && start + j < me.last ? softplus(dt[j]) : 0.0f;
  }
};

// The state after a whole segment.
template <int WIDTH>
static __device__ void advance_segment(const Thread& me, float (&h)[WIDTH], const float (&a)[WIDTH], int start) {
  const Segment in(me, start);
#pragma unroll
  for (int j = 0; j < SEGMENT; ++j) me.advance(h, a, start + j, in.dt[j], in.x[j]);
}

// ---- across chunks -------------------------------------------------------------------------------------

// What a chunk makes of the state zero, and how much time passes in it.
template <int WIDTH>
static __device__ void chunk_states(const Scan& s) {
  const Thread me(s);
  if (!me.active) return;
  float a[WIDTH], h[WIDTH] = {}, span = 0.0f;
  me.rates(a);
  for (int start = me.first; start < me.last; start += SEGMENT) {
    const Segment in(me, start);
#pragma unroll
    for (int j = 0; j < SEGMENT; ++j) {
      if (start + j >= me.last) break;
      me.advance(h, a, start + j, in.dt[j], in.x[j]);
      span += in.dt[j];
    }
  }
  me.store(s.carry, s.chunks, me.chunk, h);
  s.spans[me.index(s.chunks, me.chunk, 1, 0)] = span;
}

extern "C" __global__ void __launch_bounds__(THREADS) forward_states(const Scan s) { chunk_states<FORWARD>(s); }
extern "C" __global__ void __launch_bounds__(THREADS) backward_states(const Scan s) { chunk_states<BACKWARD>(s); }

// Against time: the derivative by the state before a chunk, if the one after it is zero.
extern "C" __global__ void __launch_bounds__(THREADS) backward_grads(const Scan s) {
  const Thread me(s);
  if (!me.active) return;
  float a[BACKWARD], k[BACKWARD] = {};
  me.rates(a);
#pragma unroll SEGMENT
  for (int step = me.last - 1; step >= me.first; --step) {
    const float g = me.grad(step), dt = softplus(me.raw(step));
    const float* c = me.row(s.c, step);
#pragma unroll
    for (int n = 0; n < BACKWARD; ++n) k[n] = exp2f(dt * a[n]) * (k[n] + g * __ldg(c + n));
  }
  me.store(s.carry_back, s.chunks, me.chunk, k);
}

// From what each chunk gives from zero to what flows into it. Here blockIdx.y is the state.
extern "C" __global__ void __launch_bounds__(THREADS) combine(const Scan s) {
  const Thread me(s);
  if (!me.active) return;
  const int state = blockIdx.y, width = gridDim.y;
  const float a = me.rate(state);
  float* const carried = s.back ? s.carry_back : s.carry;
  float into = 0.0f;
  for (int i = 0; i < s.chunks; ++i) {
    const int chunk = s.back ? s.chunks - 1 - i : i;
    float& place = carried[me.index(s.chunks, chunk, width, state)];
    const float own = place;
    place = into;
    into = exp2f(a * s.spans[me.index(s.chunks, chunk, 1, 0)]) * into + own;
  }
}

// ---- forward -------------------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS) outputs(const Scan s) {
  const Thread me(s);
  if (!me.active) return;
  float a[FORWARD], h[FORWARD];
  me.rates(a);
  me.load(s.carry, s.chunks, me.chunk, h);
  const float d = s.d ? __ldg(s.d + me.channel) : 0.0f;
  for (int start = me.first; start < me.last; start += SEGMENT) {
    const Segment in(me, start);
    float earlier[SEGMENT];  // fetched together, too
#pragma unroll
    for (int j = 0; j < SEGMENT; ++j)
      earlier[j] = s.add && start + j < me.last ? s.y[me.element(start + j)] : 0.0f;
#pragma unroll
    for (int j = 0; j < SEGMENT; ++j) {
      const int step = start + j;
      if (step >= me.last) break;
      me.advance(h, a, step, in.dt[j], in.x[j]);
      const float* c = me.row(s.c, step);
      float y = earlier[j] + d * in.x[j];
#pragma unroll
      for (int n = 0; n < FORWARD; ++n) y += __ldg(c + n) * h[n];
      if (s.finish) {
        y *= s.scale;
        if (s.gate.data) {
          const float v = me.at(s.gate, step);
          y *= v * sigmoid(v);
        }
      }
      s.y[me.element(step)] = y;
    }
  }
}

// ---- backward ------------------------------------------------------------------------------------------

// Sums each of COUNT values over the warp, in one tree for all of them: at each level a lane gives half of its values
// away and adds up the other half, and when one value is left, all of it. Lane i ends with the sum of value i · COUNT / 32
// in the first place. A template rather than a loop, so that the values stay in registers.
template <int OFFSET, int COUNT>
static __device__ void warp_sums(float (&v)[COUNT], int lane) {
  static_assert(COUNT <= 32, "a lane for each value");
  constexpr int HALF = COUNT * OFFSET / 32;
  const bool upper = lane & OFFSET;
  if constexpr (HALF == 0) v[0] += __shfl_xor_sync(0xffffffffu, v[0], OFFSET);
#pragma unroll
  for (int i = 0; i < HALF; ++i) {
    const float keep = upper ? v[i + HALF] : v[i], give = upper ? v[i] : v[i + HALF];
    v[i] = keep + __shfl_xor_sync(0xffffffffu, give, OFFSET);
  }
  if constexpr (OFFSET > 1) warp_sums<OFFSET / 2>(v, lane);
}

// All gradients of a chunk: once along time, marking the state on the way; then segment by segment against time, with the
// states of one in registers, recomputed from the last mark.
extern "C" __global__ void __launch_bounds__(THREADS) gradients(const Scan s) {
  const Thread me(s);
  const int lane = threadIdx.x % 32, warp = me.channel / 32, warps = (s.channels + 31) / 32;
  if (warp >= warps) return;  // a warp stays or goes as a whole
  const int marks = (s.length + MARK - 1) / MARK;
  const float d = s.d && me.active ? __ldg(s.d + me.channel) : 0.0f;

  float a[BACKWARD], h[BACKWARD];
  me.rates(a);
  me.load(s.carry, s.chunks, me.chunk, h);
  for (int start = me.first; start < me.last; start += SEGMENT) {
    if (start % MARK == 0) me.store(s.marks, marks, start / MARK, h);
    if (start + SEGMENT < me.last) advance_segment(me, h, a, start);
  }

  float k[BACKWARD], da[BACKWARD] = {}, dd = 0.0f, dbias = 0.0f;
  me.load(s.carry_back, s.chunks, me.chunk, k);
  for (int start = (me.last - 1) / SEGMENT * SEGMENT; start >= me.first; start -= SEGMENT) {
    me.load(s.marks, marks, start / MARK, h);
    for (int past = start / MARK * MARK; past < start; past += SEGMENT) advance_segment(me, h, a, past);
    const Segment in(me, start);
    float before[SEGMENT][BACKWARD];
#pragma unroll
    for (int j = 0; j < SEGMENT; ++j) {
#pragma unroll
      for (int n = 0; n < BACKWARD; ++n) before[j][n] = h[n];
      // After the end this changes nothing. A branch would have the compiler write all below once for each end.
      me.advance(h, a, min(start + j, me.last - 1), in.dt[j], in.x[j]);
    }
#pragma unroll
    for (int j = SEGMENT - 1; j >= 0; --j) {
      const int step = start + j;
      if (step >= me.last) continue;
      const float g = me.grad(step), dt = in.dt[j], x = in.x[j];
      const float *b = me.row(s.b, step), *c = me.row(s.c, step);
      float by_b = 0.0f, by_decay = 0.0f, out = d * x, bc[2 * BACKWARD];
#pragma unroll
      for (int n = 0; n < BACKWARD; ++n) {
        const float b_n = __ldg(b + n), c_n = __ldg(c + n);
        const float decay = exp2f(dt * a[n]), past = decay * before[j][n], now = past + dt * x * b_n;
        const float by_state = k[n] + g * c_n;
        by_b += by_state * b_n;
        by_decay += by_state * past * a[n];
        da[n] += by_state * past * dt;
        out += c_n * now;
        bc[n] = by_state * dt * x;
        bc[BACKWARD + n] = g * now;
        k[n] = decay * by_state;
      }
      const float ddelta = (by_decay * LN_2 + by_b * x) * sigmoid(me.raw(step));
      dd += g * x;
      dbias += ddelta;
      if (me.active) {
        const long long i = me.element(step);
        const float dx = by_b * dt + d * g;
        s.dx[i] = s.add ? s.dx[i] + dx : dx;
        s.ddelta[i] = s.add ? s.ddelta[i] + ddelta : ddelta;
        if (s.gate.data) {
          const float v = me.at(s.gate, step), z = sigmoid(v);
          const float dgate = me.at(s.grad, step) * s.scale * out * z * (1.0f + v * (1.0f - z));
          s.dgate[i] = s.add_gate ? s.dgate[i] + dgate : dgate;
        }
      }
      warp_sums<16>(bc, lane);
      constexpr int SHARE = 32 / (2 * BACKWARD);
      if (lane % SHARE == 0) {
        const long long row = (static_cast<long long>(me.batch) * s.length + me.token(step)) * warps + warp;
        s.sums[row * (2 * BACKWARD) + lane / SHARE] = bc[0];
      }
    }
  }

  if (!me.active) return;
  float* const totals = s.totals + (static_cast<long long>(me.batch) * s.chunks + me.chunk) * (BACKWARD + 2) * s.channels;
#pragma unroll
  for (int n = 0; n < BACKWARD; ++n) totals[static_cast<long long>(n) * s.channels + me.channel] = da[n];
  totals[static_cast<long long>(BACKWARD) * s.channels + me.channel] = dd;
  totals[static_cast<long long>(BACKWARD + 1) * s.channels + me.channel] = dbias;
}
