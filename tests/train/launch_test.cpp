// What launchers say in the environment.
#include "train/run/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"

namespace fathom {
namespace {

using Variables = std::map<std::string, std::string>;
using testing::AllOf;
using testing::HasSubstr;

Launch launch(const Variables& variables) {
  return launch_from([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

std::string complaint(const Variables& variables) {
  try {
    launch(variables);
  } catch (const UsageError& error) {
    return error.what();
  }
  return "none";
}

TEST(Launch, AloneWhereNobodySaysOtherwise) {
  EXPECT_EQ(launch({}).ranks, 1);
  EXPECT_EQ(launch({{"MASTER_ADDR", "node"}, {"LOCAL_RANK", "1"}}).ranks, 1);
  EXPECT_EQ(launch({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).ranks, 1);  // needs no address
  // A batch script of Slurm is one process, whatever it may start.
  EXPECT_EQ(launch({{"SLURM_NTASKS", "4"}, {"SLURM_JOB_NODELIST", "a"}}).ranks, 1);
  EXPECT_EQ(launch({{"SLURM_PROCID", "0"}, {"SLURM_JOB_NODELIST", "a"}}).ranks, 1);
}

TEST(Launch, Torchrun) {
  Variables variables = {{"RANK", "3"},
                         {"WORLD_SIZE", "4"},
                         {"LOCAL_RANK", "1"},
                         {"MASTER_ADDR", "node-a"},
                         {"MASTER_PORT", "1234"},
                         {"OMPI_COMM_WORLD_RANK", "0"},  // is not asked
                         {"OMPI_COMM_WORLD_SIZE", "2"}};
  Launch found = launch(variables);
  EXPECT_EQ(found.rank, 3);
  EXPECT_EQ(found.ranks, 4);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.address, "node-a");
  EXPECT_EQ(found.port, 1234);
  EXPECT_FALSE(found.served);
  variables["TORCHELASTIC_USE_AGENT_STORE"] = "True";
  EXPECT_TRUE(launch(variables).served);
}

TEST(Launch, OpenMpi) {
  Variables variables = {{"OMPI_COMM_WORLD_RANK", "1"},
                         {"OMPI_COMM_WORLD_SIZE", "2"},
                         {"OMPI_COMM_WORLD_LOCAL_RANK", "1"},
                         {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"}};
  const Launch found = launch(variables);
  EXPECT_EQ(found.rank, 1);
  EXPECT_EQ(found.ranks, 2);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.address, "127.0.0.1");  // all are on this machine
  EXPECT_EQ(found.port, 29500);
  variables["OMPI_COMM_WORLD_LOCAL_SIZE"] = "1";
  EXPECT_THAT(complaint(variables), AllOf(HasSubstr("Open MPI"), HasSubstr("MASTER_ADDR")));
  variables["MASTER_ADDR"] = "node-b";
  EXPECT_EQ(launch(variables).address, "node-b");
}

TEST(Launch, SlurmAndTheFirstOfItsNodes) {
  Variables variables = {{"SLURM_PROCID", "5"}, {"SLURM_NTASKS", "8"}, {"SLURM_LOCALID", "1"}};
  const std::pair<const char*, const char*> lists[] = {{"alone", "alone"},
                                                       {"one,two", "one"},
                                                       {"node[03-07,12],other", "node03"},
                                                       {"node[7,9-11]", "node7"},
                                                       {"rack[1-2]-blade", "rack1-blade"},
                                                       {"r[1-2]-b,z[3]", "r1-b"},
                                                       {"n[001]", "n001"}};
  for (const auto& [list, first] : lists) {
    variables["SLURM_JOB_NODELIST"] = list;
    EXPECT_EQ(launch(variables).address, first) << list;
  }
  variables["SLURM_STEP_NODELIST"] = "step[4-5]";
  variables["MASTER_PORT"] = "4000";
  const Launch found = launch(variables);
  EXPECT_EQ(found.rank, 5);
  EXPECT_EQ(found.ranks, 8);
  EXPECT_EQ(found.local_rank, 1);
  EXPECT_EQ(found.address, "step4");
  EXPECT_EQ(found.port, 4000);
}

TEST(Launch, HalfOfItIsAnErrorThatNamesTheRest) {
  EXPECT_THAT(complaint({{"RANK", "0"}}), HasSubstr("has RANK but no WORLD_SIZE"));
  EXPECT_THAT(complaint({{"WORLD_SIZE", "2"}}), HasSubstr("has WORLD_SIZE but no RANK"));
  EXPECT_THAT(complaint({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), HasSubstr("no MASTER_ADDR"));
  EXPECT_THAT(complaint({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}}),
              HasSubstr("no MASTER_PORT"));
  EXPECT_THAT(complaint({{"OMPI_COMM_WORLD_RANK", "0"}}), HasSubstr("no OMPI_COMM_WORLD_SIZE"));
  EXPECT_THAT(complaint({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}}),
              AllOf(HasSubstr("Slurm"), HasSubstr("MASTER_ADDR")));
}

TEST(Launch, WhatIsNoNumberInItsRangeIsAnError) {
  Variables variables = {{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}};
  EXPECT_THAT(complaint(variables), HasSubstr("RANK is '2', expected a whole number from 0 to 1"));
  variables["RANK"] = "1x";
  EXPECT_THAT(complaint(variables), HasSubstr("RANK is '1x'"));
  variables["RANK"] = "1";
  variables["WORLD_SIZE"] = "0";
  EXPECT_THAT(complaint(variables), HasSubstr("WORLD_SIZE is '0'"));
  variables["WORLD_SIZE"] = "2";
  variables["MASTER_PORT"] = "70000";
  EXPECT_THAT(complaint(variables),
              HasSubstr("MASTER_PORT is '70000', expected a whole number from 1 to 65535"));
}

}  // namespace
}  // namespace fathom
