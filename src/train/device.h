// The devices that are there to train on.
#pragma once

#include "train/train.h"

namespace fathom {

/// `device`, or what stands for `automatic` here. Throws Error for cuda where libtorch has none or sees no
/// GPU.
Device found_device(Device device);

/// The process computes from here on, with Device::cuda, on this GPU of the machine. Throws Error if there
/// are fewer.
void use_gpu(int number);

}  // namespace fathom
