// Tests on each device; those on a GPU are skipped where there is none.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "train/ops/ops.h"
#include "train/run/device.h"
#include "train/run/options.h"

namespace fathom {

inline const auto each_device = testing::Values(Device::cpu, Device::torch, Device::cuda);
/// Those that compute by torch's operations.
inline const auto torch_devices = testing::Values(Device::torch, Device::cuda);

inline bool is_there(Device device) {
  return device != Device::cuda || found_device(Device::automatic) == Device::cuda;
}

/// "Cpu" for Device::cpu.
inline std::string test_name(Device device) {
  std::string name = name_of(devices, device);
  name.front() = static_cast<char>(name.front() - 'a' + 'A');
  return name;
}

}  // namespace fathom
