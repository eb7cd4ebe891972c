#include "train/run/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <memory>
#include <optional>

#include "base/error.h"
#include "kernels/backend.h"
#include "train/ops/kernel_ops.h"

namespace fathom {
namespace {

// By what libtorch says of itself at run time: nothing here needs CUDA's headers.
int gpus() { return at::detail::getCUDAHooks().getNumGPUs(); }

/// What the GPU's driver says of the GPU in use, which libtorch has no word for: its own interface, whose
/// functions have had the same names since CUDA 3.2, in a library that is there wherever there is a GPU.
class Driver {
 public:
  Driver() : library_(::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL), ::dlclose) {
    int device = 0;
    const auto number = c10::impl::VirtualGuardImpl(at::kCUDA).getDevice().index();
    if (call<int(int*, int)>("cuDeviceGet", &device, number)) device_ = device;
  }
  std::string name() const {
    char text[256] = "";
    const bool known =
        device_ && call<int(char*, int, int)>("cuDeviceGetName", text, int{sizeof text}, *device_);
    return known ? text : "a GPU";
  }
  std::int64_t memory() const {
    std::size_t bytes = 0;
    const bool known = device_ && call<int(std::size_t*, int)>("cuDeviceTotalMem_v2", &bytes, *device_);
    return known ? static_cast<std::int64_t>(bytes) : 0;
  }

 private:
  /// Whether the function is there and succeeds.
  template <typename Function, typename... Arguments>
  bool call(const char* function, Arguments... arguments) const {
    void* found = library_ ? ::dlsym(library_.get(), function) : nullptr;
    return found != nullptr && reinterpret_cast<Function*>(found)(arguments...) == 0;
  }

  std::unique_ptr<void, int (*)(void*)> library_;
  std::optional<int> device_;
};

}  // namespace

Device found_device(Device device) {
  if (device == Device::automatic) return gpus() > 0 ? Device::cuda : Device::cpu;
  if (device != Device::cuda || gpus() > 0) return device;
  if (!at::detail::getCUDAHooks().hasCUDART()) {
    fail(
        "--device cuda: this program was built with a libtorch for CPUs; build it with a CUDA libtorch "
        "(-DCMAKE_PREFIX_PATH, docs/training.md), or train with --device cpu");
  }
  fail(
      "--device cuda: libtorch sees no GPU: see that nvidia-smi lists one and that CUDA_VISIBLE_DEVICES does "
      "not hide it, or train with --device cpu");
}

void use_gpu(int number) {
  if (number >= gpus()) {
    fail(
        "--device cuda: rank {} of this machine needs a GPU of its own, and libtorch sees {}: start as many "
        "ranks a machine as it has GPUs",
        number, gpus());
  }
  c10::impl::VirtualGuardImpl(at::kCUDA).setDevice({at::kCUDA, static_cast<c10::DeviceIndex>(number)});
}

void wait_for(Device device) {
  const c10::Device place = operations(device).device();
  if (!place.is_cpu()) c10::impl::VirtualGuardImpl(place.type()).synchronizeDevice(place.index());
}

std::string device_name(Device device) {
  if (device == Device::cuda) return Driver().name();
  const std::string processor = make_cpu_backend()->describe();
  return device == Device::torch ? "torch on " + processor : processor;
}

std::int64_t gpu_memory() { return Driver().memory(); }

std::int64_t gpu_peak_memory() {
  const auto total = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const c10::DeviceIndex number = operations(Device::cuda).device().index();
  return c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(number).allocated_bytes[total].peak;
}

const Operations& operations(Device device) {
  static const KernelOperations kernels;
  static const Operations by_torch(at::kCPU);
  if (device == Device::cpu) return kernels;
  if (device == Device::torch) return by_torch;
  static const Operations on_gpu(c10::impl::VirtualGuardImpl(at::kCUDA).getDevice());
  return on_gpu;
}

}  // namespace fathom
