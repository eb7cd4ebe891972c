// Frozen weights in 4 bits.
#include "train/ops/four_bit.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "base/progress.h"
#include "base/random.h"
#include "formats/float16.h"
#include "scratch.h"
#include "train/devices.h"
#include "train/small_run.h"
#include "train/train.h"

namespace fathom {
namespace {

TEST(FourBit, Nf4CodesAreNormalQuantiles) {
  // As the paper's authors make them: 8 quantiles above 0 and 7 below, evenly between a half and 0.9677083,
  // over the largest.
  const auto quantiles = [](std::int64_t count) {
    return at::special_ndtri(at::linspace(0.9677083, 0.5, count + 1, at::kDouble).narrow(0, 0, count));
  };
  const at::Tensor above = quantiles(8), below = -quantiles(7);
  at::Tensor expected = std::get<0>(at::cat({above, at::zeros({1}, at::kDouble), below}).sort());
  expected = expected / expected.max();
  for (std::int64_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(nf4_codes[static_cast<std::size_t>(i)], expected[i].item<double>(), 1e-6) << i;
  }
}

std::vector<float> normal(std::int64_t count) {
  at::manual_seed(4);
  const at::Tensor values = at::randn({count}) * 0.02;
  return {values.data_ptr<float>(), values.data_ptr<float>() + count};
}

std::vector<float> decoded(const FourBitMatrix& matrix) {
  const at::Tensor values = matrix.decoded(at::kFloat);
  return {values.data_ptr<float>(), values.data_ptr<float>() + values.numel()};
}

TEST(FourBit, Nf4IsTheNearestCodeOfTheBlock) {
  const std::int64_t rows = 9, columns = 150;  // the last block of a row has 22 values
  const std::vector<float> values = normal(rows * columns);
  const std::vector<float> found = decoded(FourBitMatrix(FrozenType::nf4, rows, columns, values));
  std::vector<float> scales;
  for (std::int64_t i = 0; i < rows * columns; ++i) {
    if (i % columns % 64 == 0) scales.push_back(0);
    scales.back() = std::max(scales.back(), std::fabs(values[i]));
  }
  const float mean = std::accumulate(scales.begin(), scales.end(), 0.0F) / static_cast<float>(scales.size());
  float furthest = 0;
  for (const float scale : scales) furthest = std::max(furthest, std::fabs(scale - mean));
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t first = 0; first < columns; first += 64) {
      const std::int64_t end = std::min(first + 64, columns);
      float most = 0;
      for (std::int64_t i = first; i < end; ++i) most = std::max(most, std::fabs(values[row * columns + i]));
      for (std::int64_t i = first; i < end; ++i) {
        const float value = values[row * columns + i] / most;
        float nearest = nf4_codes[0];
        for (const float code : nf4_codes) {
          if (std::fabs(code - value) < std::fabs(nearest - value)) nearest = code;
        }
        // Scales are within half a step of 1/127 of what lies furthest from their mean.
        EXPECT_NEAR(found[row * columns + i], nearest * most, furthest / 253) << row << " " << i;
      }
    }
  }
}

struct Expected {
  FrozenType type;
  double bits, least_error, most_error;
};

class FourBitError : public testing::TestWithParam<Expected> {};

TEST_P(FourBitError, IsThatOfNormalWeights) {
  const auto& [type, bits, least, most] = GetParam();
  const std::int64_t rows = 512, columns = 1024;
  const std::vector<float> values = normal(rows * columns);
  const FourBitMatrix matrix(type, rows, columns, values);
  const std::vector<float> found = decoded(matrix);
  double error = 0, all = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    error += std::pow(values[i] - found[i], 2);
    all += std::pow(values[i], 2);
  }
  EXPECT_GT(std::sqrt(error / all), least);
  EXPECT_LT(std::sqrt(error / all), most);
  EXPECT_NEAR(8.0 * static_cast<double>(matrix.bytes()) / (rows * columns), bits, 0.01);

  std::vector<std::uint16_t> halves(values.size());
  matrix.decode(halves.data());
  for (std::size_t i = 0; i < halves.size(); i += 997) EXPECT_EQ(halves[i], to_bf16(found[i]));
  const at::Tensor by_torch = matrix.decoded(at::kBFloat16);
  EXPECT_EQ(std::memcmp(by_torch.data_ptr(), halves.data(), 2 * halves.size()), 0);
}

INSTANTIATE_TEST_SUITE_P(Types, FourBitError,
                         testing::Values(Expected{FrozenType::nf4, 4 + 8.0 / 64 + 32.0 / 64 / 256, 0.08, 0.1},
                                         Expected{FrozenType::int4, 4.5, 0.06, 0.1}),
                         [](const auto& instance) {
                           return instance.param.type == FrozenType::nf4 ? "Nf4" : "Int4";
                         });

TrainResult run(const Checkpoint& student, const TrainOptions& options) {
  set_quiet(true);
  Random random(7);
  std::vector<Token> document(300);
  for (Token& token : document) token = static_cast<Token>(2 + random.below(58));
  const test::Scratch scratch;
  return train({.student = student, .text = {{.store = store_documents({document}, 1, "text")}}}, options,
               scratch.path(), false);
}

TrainOptions lora() {
  TrainOptions options;
  options.trainable = Trainable::lora;
  options.lora.rank = 4;
  options.lora.merge = false;
  options.context = 16;
  options.tokens_per_step = 64;
  options.tokens = 64 * 4;
  options.optimiser.learning_rate = 1e-2;
  return options;
}

/// The model with its layers' matrices as they come back from 4 bits.
Checkpoint coarse(FrozenType type) {
  Checkpoint model = tiny();
  for (auto& [name, tensor] : model.tensors) {
    const bool linear = name.find("_proj.weight") != std::string::npos;
    if (!linear) continue;
    const FourBitMatrix matrix(type, tensor.rows(), tensor.row_elements(), decode(tensor));
    tensor = make_tensor(DType::f32, tensor.shape, decoded(matrix));
  }
  return model;
}

class FourBitRun : public testing::TestWithParam<Device> {};

TEST_P(FourBitRun, TrainsAsWithTheDecodedWeights) {
  if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  for (const FrozenType type : {FrozenType::nf4, FrozenType::int4}) {
    for (const bool bf16 : {false, true}) {
      TrainOptions options = lora();
      options.bf16 = bf16;
      options.device = GetParam();
      const TrainResult expected = run(coarse(type), options);
      options.frozen = type;
      const TrainResult found = run(tiny(), options);
      for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(found.steps[i].loss, expected.steps[i].loss) << i;
      // What was frozen is written as it was.
      for (const auto& [name, tensor] : tiny().tensors) {
        EXPECT_EQ(decode(found.model.tensors.at(name)), decode(tensor)) << name;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, FourBitRun, each_device,
                         [](const auto& instance) { return test_name(instance.param); });

TEST(FourBit, TakesLessMemory) {
  const Checkpoint model = tiny();
  TrainOptions options = lora();
  options.context = 8;
  const TrainInputs inputs{.student = model,
                           .text = {{.store = store_documents({{2, 3, 4, 5, 6, 7, 8, 9}}, 1, "text")}}};
  const TrainEstimate full = estimate_training(inputs, options);
  options.frozen = FrozenType::nf4;
  const TrainEstimate coarse = estimate_training(inputs, options);
  EXPECT_EQ(coarse.parameters, full.parameters);
  std::int64_t linear = 0, blocks = 0;
  for (const auto& [name, tensor] : model.tensors) {
    if (name.find("_proj.weight") == std::string::npos) continue;
    linear += tensor.elements();
    blocks += tensor.rows() * ((tensor.row_elements() + 63) / 64) * 64;
  }
  // bf16 three times, as it lies and packed for the way ahead and back; 4 bits and the scales.
  EXPECT_GT(full.weight_bytes - coarse.weight_bytes, 6 * linear - blocks * 5 / 8);
}

TEST(FourBit, IsForWhatIsFrozen) {
  TrainOptions options = lora();
  options.trainable = Trainable::all;
  options.frozen = FrozenType::nf4;
  EXPECT_THROW(run(tiny(), options), UsageError);
}

}  // namespace
}  // namespace fathom
