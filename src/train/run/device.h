// The devices that are there to train on.
#pragma once

#include <cstdint>
#include <string>

#include "train/train.h"

namespace fathom {

/// `device`, or what stands for `automatic` here. Throws Error for cuda where libtorch has none or sees no
/// GPU.
Device found_device(Device device);

/// The process computes from here on, with Device::cuda, on this GPU of the machine. Throws Error if there
/// are fewer.
void use_gpu(int number);

/// Returns when the device has done what it was given: a GPU is given work ahead.
void wait_for(Device device);

/// What computes, for people: "NVIDIA H200", or the processor with threads and instruction sets.
std::string device_name(Device device);

/// Memory of the GPU in use, in bytes; 0 where its driver does not say.
std::int64_t gpu_memory();

/// The most memory of the GPU in use that the process has taken so far, in bytes.
std::int64_t gpu_peak_memory();

}  // namespace fathom
