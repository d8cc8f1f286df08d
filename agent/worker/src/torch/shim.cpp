// What tch does not bind: an autograd node whose backward is a Rust callback, gradients of chosen outputs and of a
// convolution, an allocator with a cap and statistics, CUDA's allocator statistics, and the fused AdamW step.
//
// No exception crosses this file's border: every entry returns nullptr, or a message that the caller frees.
// No panic does either: the callbacks report failure by value (see function.rs).

#include <ATen/Context.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/version.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "pool.h"

using at::Tensor;
using torch::autograd::variable_list;

namespace {

template <class F>
char* guarded(F&& f) noexcept {
  try {
    f();
    return nullptr;
  } catch (const c10::Error& e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}

variable_list list(Tensor* const* tensors, int64_t n) {
  variable_list out;
  out.reserve(n);
  for (int64_t i = 0; i < n; ++i) out.push_back(tensors[i] ? *tensors[i] : Tensor());
  return out;
}

void give(const variable_list& from, Tensor** to) {
  for (size_t i = 0; i < from.size(); ++i) to[i] = from[i].defined() ? new Tensor(from[i]) : nullptr;
}

// ---- CPU allocator ------------------------------------------------------------------------------------

// Bytes that tensors asked for, now and at most; the header that remembers a block's size is not counted, nor
// is what libraries allocate beside the allocator (measured: the process figures beside it).
std::atomic<int64_t> live{0}, peak{0}, refusals{0}, refused_bytes{0};
// The same with what the pool keeps for later.
std::atomic<int64_t> held_peak{0};
std::atomic<int64_t> cap{INT64_MAX};
// What the executor is doing, noted together with a new peak or refusal, so that a record can say where.
std::atomic<uint64_t> place{0}, peak_place{0}, refused_place{0};

constexpr size_t kHeader = 64;  // keeps the 64-byte alignment that c10 promises

// Never destroyed, like the allocator.
fleet::Pool* const pool = new fleet::Pool;

// Raises `most` to `now`; whether it was lower.
bool raise(std::atomic<int64_t>& most, int64_t now) {
  int64_t before = most.load(std::memory_order_relaxed);
  while (before < now && !most.compare_exchange_weak(before, now)) {
  }
  return before < now;
}

class CappedAllocator final : public c10::Allocator {
  static void release(void* data) {
    if (!data) return;
    char* block = static_cast<char*>(data) - kHeader;
    int64_t bytes;
    std::memcpy(&bytes, block, sizeof bytes);
    live.fetch_sub(bytes, std::memory_order_relaxed);
    if (pool->owns(block)) {
      pool->put(block, bytes + kHeader);
    } else {
      c10::free_cpu(block);
    }
  }

  static void refuse(int64_t bytes, int64_t now) {
    live.fetch_sub(bytes, std::memory_order_relaxed);
    refused_bytes = now;
    refused_place = place.load(std::memory_order_relaxed);
    ++refusals;
  }

 public:
  c10::DataPtr allocate(size_t n) override {
    const c10::Device cpu(c10::DeviceType::CPU);
    if (n == 0) return {nullptr, nullptr, &release, cpu};
    const auto bytes = static_cast<int64_t>(n);
    const int64_t now = live.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    if (now > cap.load(std::memory_order_relaxed)) {
      refuse(bytes, now);
      TORCH_CHECK_WITH(OutOfMemoryError, false, "the memory cap of ", cap.load(), " bytes refuses ", bytes,
                       " more: ", now, " would be live");
    }
    char* block;
    try {
      block = static_cast<char*>(pool->take(n + kHeader));
      if (!block) block = static_cast<char*>(c10::alloc_cpu(n + kHeader));
    } catch (...) {  // no cap, but the machine has no more
      refuse(bytes, now);
      throw;
    }
    if (raise(peak, now)) peak_place = place.load(std::memory_order_relaxed);
    raise(held_peak, now + pool->kept_bytes());
    std::memcpy(block, &bytes, sizeof bytes);
    return {block + kHeader, block + kHeader, &release, cpu};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override { default_copy_data(to, from, n); }
};

// Never destroyed: tensors in statics may be freed after main.
CappedAllocator* const capped = new CappedAllocator;

// ---- the autograd node ----------------------------------------------------------------------------------

// Takes ownership of the gradients, gives ownership of the results; non-zero means failure, described in `error`.
using Backward = int (*)(void* state, Tensor** grads, int64_t n_grads, const uint8_t* needed, Tensor** results,
                         int64_t n_results, char* error, int64_t error_size);
using Drop = void (*)(void* state);

class RustNode final : public torch::autograd::Node {
 public:
  void* state = nullptr;
  Backward backward = nullptr;
  Drop drop = nullptr;

  variable_list apply(variable_list&& incoming) override {
    TORCH_CHECK(state, "this part of the graph was already used by an earlier backward, which freed it");
    TORCH_CHECK(!at::GradMode::is_enabled(), "a Rust function cannot be differentiated twice");
    const auto n = static_cast<int64_t>(num_outputs());
    std::vector<Tensor*> grads(incoming.size(), nullptr), results(n, nullptr);
    give(incoming, grads.data());
    const auto n_grads = static_cast<int64_t>(incoming.size());
    incoming.clear();  // so that the callback holds the last handle and can free what it has used
    std::vector<uint8_t> needed(n);
    for (int64_t i = 0; i < n; ++i) needed[i] = task_should_compute_output(i);
    char error[1024] = {0};
    const int failed =
        backward(state, grads.data(), n_grads, needed.data(), results.data(), n, error, sizeof error);
    variable_list out(n);
    for (int64_t i = 0; i < n; ++i) {
      if (!results[i]) continue;
      out[i] = std::move(*results[i]);
      delete results[i];
    }
    if (failed) throw std::runtime_error(error);
    return out;
  }

  // The engine calls this as soon as the node's part of backward is done: saved tensors go now, not later.
  void release_variables() override {
    if (state) drop(state);
    state = nullptr;
  }

  ~RustNode() override { release_variables(); }
  std::string name() const override { return "RustNode"; }
};

}  // namespace

extern "C" {

void fleet_allocator_install() { c10::SetCPUAllocator(capped, 255); }
void fleet_allocator_set_cap(int64_t bytes) { cap = bytes; }
void fleet_allocator_reset_peak() {
  peak = live.load();
  held_peak = live + pool->kept_bytes();
  peak_place = place.load();
}
void fleet_allocator_set_place(uint64_t where) { place.store(where, std::memory_order_relaxed); }

struct FleetAllocatorStats {
  int64_t live, peak, held, held_peak, refusals, refused_bytes;
  uint64_t peak_place, refused_place;
};
void fleet_allocator_stats(FleetAllocatorStats* out) {
  *out = {live, peak, live + pool->kept_bytes(), held_peak, refusals, refused_bytes, peak_place, refused_place};
}

struct FleetCudaStats {
  int64_t allocated, allocated_peak, reserved, reserved_peak, ooms;
};
char* fleet_cuda_stats(int64_t device, FleetCudaStats* out) {
  return guarded([&] {
    const auto stats = c10::getDeviceAllocator(c10::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    const auto& allocated = stats.allocated_bytes[0];  // [0] is the aggregate over the small and the large pool
    const auto& reserved = stats.reserved_bytes[0];
    *out = {allocated.current, allocated.peak, reserved.current, reserved.peak, stats.num_ooms};
  });
}
// Bytes of the device that nobody holds, and all of them.
char* fleet_cuda_memory_info(int64_t device, uint64_t* free_bytes, uint64_t* total_bytes) {
  return guarded([&] {
    const auto info = c10::getDeviceAllocator(c10::kCUDA)->getMemoryInfo(static_cast<c10::DeviceIndex>(device));
    *free_bytes = info.first;
    *total_bytes = info.second;
  });
}
char* fleet_cuda_reset_peak(int64_t device) {
  return guarded(
      [&] { c10::getDeviceAllocator(c10::kCUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

// From here on operators that have a form with a fixed order of additions take it; those without warn.
char* fleet_deterministic() {
  return guarded([] {
    auto& context = at::globalContext();
    context.setDeterministicAlgorithms(true, /*warn_only=*/true);
    context.setDeterministicCuDNN(true);
    context.setBenchmarkCuDNN(false);
  });
}

// The CUstream that this thread's work on the device goes to; null is the default one.
char* fleet_cuda_stream(int64_t device, void** out) {
  return guarded([&] {
    const c10::Device where(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
    *out = c10::impl::VirtualGuardImpl(c10::kCUDA).getStream(where).native_handle();
  });
}

// Makes `outputs`, computed without a graph, differentiable with respect to `inputs` through the callback. Each
// slot of `outputs` is replaced by a new tensor on the same data. Takes ownership of `state` in every case.
char* fleet_function_attach(Tensor** outputs, int64_t n_outputs, Tensor* const* inputs, int64_t n_inputs, void* state,
                            Backward backward, Drop drop) {
  auto node = std::shared_ptr<RustNode>(new RustNode, torch::autograd::deleteNode);
  node->state = state;
  node->backward = backward;
  node->drop = drop;
  return guarded([&] {
    const auto ins = list(inputs, n_inputs);
    const bool differentiable = at::GradMode::is_enabled() && torch::autograd::any_variable_requires_grad(ins);
    if (differentiable) node->set_next_edges(torch::autograd::collect_next_edges(ins));
    variable_list fresh;
    for (int64_t i = 0; i < n_outputs; ++i) {
      fresh.push_back(outputs[i]->detach());
      if (!differentiable) continue;
      if (fresh.back().is_floating_point()) {
        torch::autograd::create_gradient_edge(fresh.back(), node);
      } else {
        node->add_input_metadata(torch::autograd::Node::undefined_input());
      }
    }
    give(fresh, outputs);
  });
}

// Gradients of `outputs`, weighted by `grads` (null: ones, for a scalar), with respect to `inputs`; null where an
// output does not depend on an input. Frees the graph.
char* fleet_grad(Tensor* const* outputs, int64_t n_outputs, Tensor* const* grads, Tensor* const* inputs,
                 int64_t n_inputs, Tensor** results) {
  return guarded([&] {
    give(torch::autograd::grad(list(outputs, n_outputs), list(inputs, n_inputs), list(grads, n_outputs),
                               /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true),
         results);
  });
}

// Gradients of a square 2-d convolution's input, weight and bias, those that `needed` names; null elsewhere.
char* fleet_conv2d_backward(Tensor* grad, Tensor* input, Tensor* weight, int64_t stride, int64_t padding, int64_t groups,
                            const uint8_t* needed, Tensor** results) {
  return guarded([&] {
    const int64_t bias[] = {weight->size(0)}, strides[] = {stride, stride}, paddings[] = {padding, padding},
                  ones[] = {1, 1}, zeros[] = {0, 0};
    auto [dx, dw, db] = at::convolution_backward(
        *grad, *input, *weight, needed[2] ? c10::OptionalIntArrayRef(bias) : c10::nullopt, strides, paddings, ones,
        /*transposed=*/false, zeros, groups, {needed[0] != 0, needed[1] != 0, needed[2] != 0});
    give({dx, dw, db}, results);
  });
}

char* fleet_adamw_step(Tensor* const* params, Tensor* const* grads, Tensor* const* means, Tensor* const* squares,
                       Tensor* const* steps, int64_t n, double lr, double beta1, double beta2, double weight_decay,
                       double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_fused_adamw_(list(params, n), list(grads, n), list(means, n), list(squares, n), {}, list(steps, n), lr, beta1,
                      beta2, weight_decay, eps, /*amsgrad=*/false, /*maximize=*/false);
  });
}

const char* fleet_torch_version() { return TORCH_VERSION; }

// Version of the CUDA runtime, such as 13000; 0 where there is none.
int64_t fleet_cuda_runtime_version() {
  int64_t version = 0;
  char* error = guarded([&] { version = at::detail::getCUDAHooks().versionCUDART(); });
  free(error);
  return version;
}

// How often the tensor was written to in place: what a function saves must not have changed when it is used.
int64_t fleet_tensor_version(Tensor* t) { return static_cast<int64_t>(t->_version()); }

}  // extern "C"
