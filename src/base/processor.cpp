#include "base/processor.h"

#include <sched.h>
#include <sys/utsname.h>

#include <algorithm>
#include <fstream>
#include <thread>

namespace fathom {
namespace {

// Microseconds of time in each period, as "max 100000" or "200000 100000" say; version 1 has a file for each
// and -1 for no quota.
double cores_of_quota(const std::filesystem::path& group) {
  double quota = 0, period = 0;
  if (std::ifstream file(group / "cpu.max"); file >> quota >> period && period > 0) return quota / period;
  std::ifstream quota_file(group / "cpu.cfs_quota_us"), period_file(group / "cpu.cfs_period_us");
  if (quota_file >> quota && period_file >> period && quota > 0 && period > 0) return quota / period;
  return 0;
}

}  // namespace

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  utsname system{};
  ::uname(&system);
  return system.machine;
}

int control_group_cores(const std::filesystem::path& root) {
  double least = 0;
  std::ifstream groups(root / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    // "0::/user.slice/job" or "4:cpu,cpuacct:/job"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && controllers.find("cpu") == std::string::npos) continue;
    const std::filesystem::path mount = root / "sys/fs/cgroup" / controllers;
    for (std::filesystem::path group = line.substr(second + 1);; group = group.parent_path()) {
      const double cores = cores_of_quota(mount / group.relative_path());
      if (cores > 0 && (least == 0 || cores < least)) least = cores;
      if (group.relative_path().empty()) break;
    }
  }
  return least == 0 ? 0 : std::max(1, static_cast<int>(least));
}

int usable_cores() {
  static const int cores = [] {
    int allowed = static_cast<int>(std::thread::hardware_concurrency());
    if (cpu_set_t set; ::sched_getaffinity(0, sizeof set, &set) == 0) allowed = CPU_COUNT(&set);
    const int quota = control_group_cores("/");
    return std::max(1, quota > 0 ? std::min(allowed, quota) : allowed);
  }();
  return cores;
}

int memory_nodes() {
  int nodes = 0;
  std::error_code error;
  while (std::filesystem::exists("/sys/devices/system/node/node" + std::to_string(nodes), error)) ++nodes;
  return std::max(1, nodes);
}

}  // namespace fathom
