#include "train/step/kept_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <thread>
#include <vector>

namespace fathom {
namespace {

at::Tensor filled(std::int64_t count, float value) { return at::empty({count}, at::kFloat).fill_(value); }

TEST(KeptMemory, ATensorTakesTheMemoryOfOneOfItsSize) {
  const KeptMemory kept;
  const at::Tensor most = filled(10'000'000, 0);  // beside which a little may lie idle
  at::Tensor first = filled(100'000, 1);
  const void* place = first.data_ptr();
  first.reset();
  const at::Tensor other = filled(400'000, 2);
  EXPECT_NE(other.data_ptr(), place);
  EXPECT_EQ(filled(100'000, 3).data_ptr(), place);
  EXPECT_EQ(filled(99'990, 3).data_ptr(), place) << "of about its size";
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(place) % 64, 0U);
}

TEST(KeptMemory, TensorsOfAllSizesHoldTheirOwnValues) {
  const KeptMemory kept;
  std::vector<at::Tensor> tensors;
  // Those of every third size are freed on the way, and taken by later ones.
  for (std::int64_t i = 1; i <= 300; ++i) {
    tensors.push_back(filled(i * 997, static_cast<float>(i)));
    if (i % 3 == 0) tensors[static_cast<std::size_t>(i / 2)].reset();
  }
  kept.give_back();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!tensors[i].defined()) continue;
    EXPECT_EQ(tensors[i].numel(), static_cast<std::int64_t>(i + 1) * 997);
    EXPECT_EQ(tensors[i].min().item<float>(), static_cast<float>(i + 1));
    EXPECT_EQ(tensors[i].max().item<float>(), static_cast<float>(i + 1));
  }
}

TEST(KeptMemory, WhatIsKeptDoesNotAddUp) {
  const auto in_use = [] {
    const auto all = mallinfo2();
    return static_cast<std::int64_t>(all.uordblks + all.hblkhd);
  };
  const KeptMemory kept;
  const std::int64_t before = in_use();
  for (std::int64_t i = 0; i < 100; ++i) filled(1'000'000 + i * 40'000, 1);  // 4 to 20 MB, one at a time
  EXPECT_LT(in_use() - before, 30 << 20);
}

// Torch's own operations take memory without a tensor, and those in f32 by oneDNN.
TEST(KeptMemory, TorchComputesInIt) {
  const KeptMemory kept;
  const at::Tensor a = at::rand({300, 200}), b = at::rand({200, 400});
  const at::Tensor halves = a.to(at::kBFloat16).matmul(b.to(at::kBFloat16)).to(at::kFloat);
  EXPECT_LT((a.matmul(b) - halves).abs().max().item<float>(), 0.5);
  EXPECT_EQ(at::empty({0}).numel(), 0);
}

TEST(KeptMemory, TensorsOutliveIt) {
  at::Tensor tensor;
  {
    const KeptMemory kept;
    tensor = filled(100'000, 5);
  }
  EXPECT_EQ(tensor.sum().item<float>(), 500'000);
  EXPECT_EQ(tensor.clone().sum().item<float>(), 500'000);
  std::jthread([own = std::move(tensor)]() mutable { own.reset(); });
}

}  // namespace
}  // namespace fathom
