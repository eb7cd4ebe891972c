#include "base/processor.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace fathom {
namespace {

/// A folder with files as Linux has them, for a test.
class System {
 public:
  System() { std::filesystem::create_directories(root_); }
  ~System() { std::filesystem::remove_all(root_); }
  System(const System&) = delete;
  System& operator=(const System&) = delete;

  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  int cores() const { return control_group_cores(root_); }

 private:
  std::filesystem::path root_ = std::filesystem::path(testing::TempDir()) / "fathom_control_groups";
};

TEST(ControlGroups, WithoutAQuotaAllCoresAreLeft) {
  const System system;
  EXPECT_EQ(system.cores(), 0);
  system.write("proc/self/cgroup", "0::/\n");
  EXPECT_EQ(system.cores(), 0);
  system.write("sys/fs/cgroup/cpu.max", "max 100000\n");
  EXPECT_EQ(system.cores(), 0);
}

TEST(ControlGroups, TheSmallestQuotaAboveAProcessHolds) {
  const System system;
  system.write("proc/self/cgroup", "0::/user.slice/job\n");
  system.write("sys/fs/cgroup/user.slice/job/cpu.max", "max 100000\n");
  system.write("sys/fs/cgroup/user.slice/cpu.max", "350000 100000\n");
  EXPECT_EQ(system.cores(), 3);
  system.write("sys/fs/cgroup/user.slice/job/cpu.max", "50000 100000\n");
  EXPECT_EQ(system.cores(), 1);
}

// In a container the process's path is often the host's, which is not there, and the mount's root its own.
TEST(ControlGroups, AContainersRootIsRead) {
  const System system;
  system.write("proc/self/cgroup", "0::/system.slice/docker-1234.scope\n");
  system.write("sys/fs/cgroup/cpu.max", "200000 100000\n");
  EXPECT_EQ(system.cores(), 2);
}

TEST(ControlGroups, VersionOneHasAFileEach) {
  const System system;
  system.write("proc/self/cgroup", "5:memory:/a\n4:cpu,cpuacct:/a\n");
  system.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1\n");
  system.write("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(system.cores(), 0);
  system.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n");
  system.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(system.cores(), 4);
}

TEST(Processor, TheProcessMayUseAtLeastOneCoreOfOneNode) {
  EXPECT_GE(usable_cores(), 1);
  EXPECT_GE(memory_nodes(), 1);
}

}  // namespace
}  // namespace fathom
