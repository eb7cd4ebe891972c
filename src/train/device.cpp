#include "train/device.h"

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "base/error.h"
#include "train/kernel_ops.h"

namespace fathom {
namespace {

// By what libtorch says of itself at run time: nothing here needs CUDA's headers.
int gpus() { return at::detail::getCUDAHooks().getNumGPUs(); }

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
