// llama.cpp's own test vectors, where the data folder stands beside the checkout.
#include <gtest/gtest.h>

#include <sstream>

#include "base/file.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

class Vectors : public testing::TestWithParam<const char*> {};

TEST_P(Vectors, IdsAreThoseOfLlamaCpp) {
  const fs::path folder = fs::path(FATHOM_SOURCE) / "../shared/data/tokenizers/vectors";
  const fs::path model = folder / GetParam();
  if (!fs::exists(model)) GTEST_SKIP() << model << " is not there";
  const Tokenizer tokenizer = load_tokenizer(model);
  const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string inputs = read_file(model.string() + ".inp");
  std::istringstream outputs(read_file(model.string() + ".out"));
  for (std::size_t begin = 0; begin < inputs.size();) {
    const std::size_t end = std::min(inputs.find(separator, begin), inputs.size());
    const std::string text = inputs.substr(begin, end - begin);
    std::string line;
    ASSERT_TRUE(std::getline(outputs, line));
    std::istringstream numbers(line);
    const std::vector<Token> expected{std::istream_iterator<Token>(numbers), {}};
    EXPECT_EQ(tokenizer.encode(text, false), expected) << text;
    begin = end + separator.size();
  }
}

INSTANTIATE_TEST_SUITE_P(LlamaCpp, Vectors,
                         testing::Values("ggml-vocab-gpt-2.gguf", "ggml-vocab-llama-spm.gguf"));

}  // namespace
}  // namespace fathom
