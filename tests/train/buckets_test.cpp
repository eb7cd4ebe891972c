// When gradients are complete, and what ranks (here threads of one process) make of them.
#include "train/step/buckets.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "free_port.h"
#include "model/checkpoint.h"
#include "oracle.h"
#include "train/devices.h"
#include "train/model/model.h"

namespace fathom {
namespace {

DepthPlan looped() {
  return {.layers = 2, .visits = {{.layer = 0}, {.layer = 1}, {.layer = 0}, {.layer = 1}}};
}

std::map<std::string, at::Tensor> gradients(TrainModel& model) {
  std::map<std::string, at::Tensor> result;
  for (const auto& [name, parameter] : model.parameters()) result[name] = parameter.gradient.cpu().clone();
  return result;
}

class Completion : public testing::TestWithParam<Device> {};

TEST_P(Completion, ATiedLayerIsCompleteWithItsFirstVisitInAllDocuments) {
  if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  Checkpoint checkpoint = load_checkpoint(load_oracle("llama").model);
  checkpoint.plan = looped();
  TrainModel model(checkpoint, {.bf16 = true, .device = GetParam()});
  std::vector<std::int64_t> order;
  std::map<std::int64_t, std::map<std::string, at::Tensor>> then;
  model.on_complete([&](std::int64_t visit) {
    order.push_back(visit);
    then[visit] = gradients(model);
  });
  const at::Device device = model.operations().device();
  const at::Tensor hidden =
      at::cat({model.forward(at::arange(3, 12).view({1, 9}).to(device)),  // one document, and another
               model.forward(at::arange(20, 24).view({1, 4}).to(device))});
  hidden.backward(at::linspace(-1, 1, hidden.numel()).view(hidden.sizes()).to(hidden.options()));
  EXPECT_THAT(order, testing::ElementsAre(3, 2, 1, 0));
  for (const auto& [name, at_the_end] : gradients(model)) {
    for (const std::int64_t layer : {0, 1}) {
      if (!name.starts_with(layer_name(layer, ""))) continue;
      EXPECT_TRUE(then.at(layer).at(name).equal(at_the_end)) << name;  // its first visit has its number
      EXPECT_FALSE(then.at(layer + 1).at(name).equal(at_the_end)) << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, Completion, each_device,
                         [](const auto& instance) { return test_name(instance.param); });

void on_ranks(int count, const std::function<void(const Ranks& ranks)>& body) {
  const int port = test::free_port();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank) {
    threads.emplace_back([=] {
      const Ranks ranks({.rank = rank, .ranks = count, .address = "127.0.0.1", .port = port}, 60);
      body(ranks);
      ranks.leave();
    });
  }
  for (std::thread& thread : threads) thread.join();
}

std::map<std::string, Parameter> some_parameters() {
  std::map<std::string, Parameter> result;
  const std::pair<const char*, std::vector<std::int64_t>> shapes[] = {{"model.embed_tokens.weight", {11, 7}},
                                                                      {"model.layers.0.a", {5, 9}},
                                                                      {"model.layers.1.a", {100}},
                                                                      {"model.layers.1.b", {3}},
                                                                      {"model.norm.weight", {1}}};
  for (const auto& [name, shape] : shapes) {
    const at::Tensor values = at::arange(element_count(shape), at::kFloat).view(shape);
    result[name] = {.values = values.clone().set_requires_grad(true), .gradient = values.clone()};
  }
  return result;
}

TEST(Buckets, EveryGradientIsSummedOnce) {
  for (const std::int64_t size : {1, 50, 1'000'000}) {
    on_ranks(3, [&](const Ranks& ranks) {
      auto parameters = some_parameters();
      Buckets buckets(parameters, looped(), ranks, false, size);
      for (int step = 1; step < 3; ++step) {  // as it is again after the first
        for (auto& [name, parameter] : parameters) parameter.gradient.fill_(step * (ranks.rank() + 1));
        buckets.complete(0);  // of a backward pass that is not the last
        buckets.begin();
        if (ranks.rank() < 2) {  // one has nothing to do and says nothing
          for (const std::int64_t visit : {3, 2, 1, 0}) buckets.complete(visit);
        }
        buckets.finish();
        for (const auto& [name, parameter] : parameters) {
          EXPECT_TRUE(parameter.gradient.eq(6 * step).all().item<bool>()) << name << size;
        }
      }
    });
  }
}

TEST(Buckets, SharesAreAllOfTheValuesAndEachIsGivenToAll) {
  for (const std::int64_t size : {1, 50, 1'000'000}) {
    on_ranks(3, [&](const Ranks& ranks) {
      auto parameters = some_parameters();
      const Buckets buckets(parameters, looped(), ranks, true, size);
      for (auto& [name, parameter] : parameters) {
        EXPECT_TRUE(parameter.values.equal(parameter.gradient)) << name;  // what they held
        const Buckets::Share& share = buckets.share(name);
        parameter.values.detach().view(-1).narrow(0, share.first, share.count).mul_(-2);
      }
      buckets.share_values();
      for (auto& [name, parameter] : parameters) {
        EXPECT_TRUE(parameter.values.equal(parameter.gradient * -2)) << name;
        const Buckets::Share& share = buckets.share(name);
        const at::Tensor own = parameter.values.detach().view(-1).narrow(0, share.first, share.count);
        const at::Tensor whole = buckets.whole(own, share, parameter.values.sizes());
        EXPECT_EQ(whole.defined(), ranks.is_first());
        if (ranks.is_first()) {
          EXPECT_TRUE(whole.equal(parameter.values));
        }
      }
    });
  }
}

TEST(Ranks, AllHearWhatEachSays) {
  on_ranks(4, [](const Ranks& ranks) {
    const auto all = ranks.gather({1.0 * ranks.rank(), 1e300}, "a test");
    ASSERT_EQ(all.size(), 4U);
    for (std::size_t rank = 0; rank < 4; ++rank) {
      EXPECT_THAT(all[rank], testing::ElementsAre(static_cast<double>(rank), 1e300));
    }
    EXPECT_EQ(ranks.of_first(7.0 + ranks.rank(), "a test"), 7);
    EXPECT_TRUE(ranks.any(ranks.rank() == 3, "a test"));
    EXPECT_FALSE(ranks.any(false, "a test"));
  });
  const Ranks alone;
  EXPECT_EQ(alone.of_first(3, "a test"), 3);
  EXPECT_FALSE(alone.any(false, "a test"));
}

TEST(Ranks, WhoLeavesWithoutAWordIsLost) {
  std::vector<std::string> heard(3);
  const int port = test::free_port();
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 3; ++rank) {
    threads.emplace_back([=, &heard] {
      const Ranks ranks({.rank = rank, .ranks = 3, .address = "127.0.0.1", .port = port}, 1);
      ranks.gather({0}, "the others");
      if (rank == 2) return;
      try {
        ranks.gather({1}, "a number");
      } catch (const RankLost& lost) {
        heard[static_cast<std::size_t>(rank)] = lost.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int rank : {0, 1}) {
    EXPECT_EQ(heard[static_cast<std::size_t>(rank)], "rank 2 is gone (of 3 ranks): waited for a number");
  }
}

}  // namespace
}  // namespace fathom
