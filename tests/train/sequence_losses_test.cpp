#include "train/step/sequence_losses.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "base/progress.h"
#include "model/checkpoint.h"
#include "oracle.h"
#include "train/devices.h"

namespace fathom {
namespace {

class SequenceLosses : public testing::TestWithParam<std::tuple<Device, std::string>> {};

TEST_P(SequenceLosses, AreTransformersLossOfEachSequence) {
  const auto& [device, name] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  set_quiet(true);
  const Oracle oracle = load_oracle(name);
  const Checkpoint model = load_checkpoint(oracle.model);
  const std::size_t count = oracle.ids.size() - 1;
  const Sequence whole{.inputs = {oracle.ids.begin(), oracle.ids.end() - 1},
                       .labels = {oracle.ids.begin() + 1, oracle.ids.end()},
                       .starts = {0}};
  Sequence other = whole;
  other.inputs[0] = other.labels[count - 1];  // what comes first changes all that follows
  const std::vector<Sequence> sequences = {whole, other, whole};
  const auto losses = sequence_losses(model, sequences, /*bf16=*/false, device);
  ASSERT_EQ(losses.size(), 3U);
  EXPECT_NEAR(losses[0], oracle.loss, 1e-4);
  EXPECT_NEAR(losses[2], losses[0], 1e-6);
  EXPECT_GT(std::abs(losses[1] - losses[0]), 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Models, SequenceLosses,
                         testing::Combine(each_device, testing::Values("llama", "gemma2")));

}  // namespace
}  // namespace fathom
