// What GGUF files leave out, or say by numbers that mean none.
#include "model/gguf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/file.h"
#include "gguf_writer.h"
#include "model/checkpoint.h"
#include "oracle.h"
#include "scratch.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

struct GemmaSizes {
  const char* architecture;
  std::uint32_t hidden, heads, head_dim, layers;
};

/// query_pre_attn_scalar that a file of these sizes is taken to have.
double attention_scalar(const GemmaSizes& sizes) {
  constexpr std::uint32_t u32 = 4, string = 8, f32 = 0;
  const std::string prefix = std::string(sizes.architecture) + ".";
  const std::pair<const char*, std::uint32_t> numbers[] = {
      {"embedding_length", sizes.hidden},           {"attention.head_count", sizes.heads},
      {"attention.key_length", sizes.head_dim},     {"block_count", sizes.layers},
      {"attention.value_length", sizes.head_dim},   {"feed_forward_length", 8},
      {"attention.head_count_kv", sizes.heads / 2}, {"context_length", 64}};
  test::GgufWriter writer;
  writer.header(1, 1 + std::size(numbers));
  writer.text("general.architecture").number(string).text(sizes.architecture);
  for (const auto& [key, value] : numbers) writer.text(prefix + key).number(u32).number(value);
  writer.tensor("token_embd.weight", {sizes.hidden, 1}, f32, 0).data(sizes.hidden * sizeof(float));
  const test::Scratch scratch;
  write_file(scratch / "m.gguf", writer.bytes());
  const double scale = load_config(scratch / "m.gguf").config.attention_scale;
  return std::round(1 / (scale * scale));
}

// The configurations of google/gemma-2-2b, 9b, 27b and gemma-3-1b-pt to 27b-pt.
TEST(GgufConfig, TheAttentionScaleOfGemmaStaysWhenLayersArePruned) {
  for (const std::uint32_t pruned : {0U, 1U, 20U}) {
    EXPECT_EQ(attention_scalar({"gemma2", 2304, 8, 256, 26 - pruned}), 256);
    EXPECT_EQ(attention_scalar({"gemma2", 3584, 16, 256, 42 - pruned}), 256);
    EXPECT_EQ(attention_scalar({"gemma2", 4608, 32, 128, 46 - pruned}), 144);
    EXPECT_EQ(attention_scalar({"gemma3", 1152, 4, 256, 26 - pruned}), 256);
    EXPECT_EQ(attention_scalar({"gemma3", 2560, 8, 256, 34 - pruned}), 256);
    EXPECT_EQ(attention_scalar({"gemma3", 3840, 16, 256, 48 - pruned}), 256);
    EXPECT_EQ(attention_scalar({"gemma3", 5376, 32, 128, 62 - pruned}), 168);
  }
  EXPECT_EQ(attention_scalar({"gemma2", 3584, 16, 256, 46}), 256);  // by no number of layers
}

TEST(GgufConfig, SizesOfNoKnownModelAreScaledAsLlamaCppGuesses) {
  testing::internal::CaptureStderr();
  EXPECT_EQ(attention_scalar({"gemma2", 96, 4, 8, 46}), 24);
  EXPECT_EQ(attention_scalar({"gemma3", 96, 4, 8, 61}), 8);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("1 / sqrt(24) is a guess"));
}

TEST(GgufConfig, TokenMinusOneIsNoneInModelAndTokenizerAlike) {
  const test::Scratch scratch;
  const std::string original = read_file(load_oracle("llama-text-gguf").model);
  for (const std::string name : {"bos", "eos"}) {
    std::string bytes = original;
    const std::string key = "tokenizer.ggml." + name + "_token_id";
    const std::uint32_t none = 0xFFFFFFFF;
    std::memcpy(bytes.data() + bytes.find(key) + key.size() + sizeof(std::uint32_t), &none, sizeof none);
    write_file(scratch / "m.gguf", bytes);
    const Checkpoint checkpoint = load_checkpoint(scratch / "m.gguf");
    const Tokenizer tokenizer = load_tokenizer(scratch / "m.gguf");
    EXPECT_EQ(checkpoint.hf_config.contains("bos_token_id"), name != "bos");
    const bool ends = name != "eos";
    EXPECT_EQ(checkpoint.config.end_tokens,
              ends ? std::vector<std::int64_t>{2} : std::vector<std::int64_t>{});
    EXPECT_EQ(tokenizer.special_text("eos_token"), ends ? "<|im_end|>" : "");
    save_checkpoint(checkpoint, scratch / ("saved-" + name));
    EXPECT_EQ(load_checkpoint(scratch / ("saved-" + name)).config.end_tokens, checkpoint.config.end_tokens);
  }
}

}  // namespace
}  // namespace fathom
