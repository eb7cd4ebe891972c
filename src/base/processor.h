// What the machine calls its processor, and how much of it the process may use.
#pragma once

#include <filesystem>
#include <string>

namespace fathom {

/// "AMD EPYC 7763 64-Core Processor"; where the system does not say, the architecture ("aarch64").
std::string processor_name();

/// Cores that the process can keep busy: those that it may run on, and no more than its control group's share
/// of time makes whole ones (at least one). A container that may use 2 cores of 64 is stopped most of the
/// time when 64 threads of it wait for each other.
int usable_cores();

/// Cores that control groups leave, of files as Linux has them below `root` ("/"): the smallest quota of the
/// group that `root`/proc/self/cgroup names and those above it (version 2: cpu.max; 1: cpu.cfs_quota_us). 0
/// where there is none.
int control_group_cores(const std::filesystem::path& root);

/// Nodes of memory, of which each has its own cores: 1 on most machines, and where the system does not say.
int memory_nodes();

}  // namespace fathom
