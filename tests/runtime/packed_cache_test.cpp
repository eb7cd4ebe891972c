// Packed weights from a file are those that would be packed, or they are packed again.
#include "runtime/packed_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/fingerprint.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "damage.h"
#include "logits.h"
#include "oracle.h"
#include "runtime/engine.h"
#include "scratch.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// What a file begins with: this, the key in 16 digits, 16 bytes a weight, a digest in 16 digits.
constexpr std::size_t magic = std::string_view("fathom packed weights\n").size(), digits = 16, page = 4096;

class PackedCacheTest : public testing::Test {
 protected:
  PackedCacheTest() { set_quiet(true); }
  ~PackedCacheTest() override { set_quiet(false); }

  // Models that pack in no time are kept, too.
  PackedCache cache() const { return {.folder = folder_, .least_seconds = 0}; }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    if (!fs::exists(folder_)) return found;
    for (const auto& file : fs::directory_iterator(folder_))
      if (file.path().filename() != "lock") found.push_back(file.path());
    return found;
  }
  // The only one.
  fs::path file() const {
    EXPECT_EQ(files().size(), 1U);
    return files().at(0);
  }
  // A model that may be changed.
  fs::path copy_of(const std::string& name) const {
    fs::copy(load_oracle(name).model, scratch_ / name);
    return scratch_ / name;
  }

  static std::vector<float> logits(const Checkpoint& model, const PackedCache& cache = {},
                                   Compute compute = Compute::int8) {
    Engine engine(model, {.compute = compute, .cache = cache});
    const std::array<Token, 5> ids = {1, 5, 2, 7, 3};
    return logits_of(engine, ids);
  }
  static std::vector<float> logits(const fs::path& model, const PackedCache& cache = {},
                                   Compute compute = Compute::int8) {
    return logits(load_checkpoint(model), cache, compute);
  }

  // Weights are not checked: with others in the file a start that takes them from there computes others.
  static void spoil_weights(const fs::path& file) {
    std::string content = read_file(file);
    std::fill(content.begin() + page, content.end(), '\1');
    write_file(file, content);
  }
  // Whether the model's start takes its weights from the file that is there.
  bool is_served(const fs::path& model, Compute compute = Compute::int8) const {
    for (const fs::path& kept : files()) spoil_weights(kept);
    return logits(model, cache(), compute) != logits(model, {}, compute);
  }

  test::Scratch scratch_;
  fs::path folder_ = scratch_ / "deep" / "cache";
};

TEST_F(PackedCacheTest, LogitsAreTheSameToTheLastBit) {
  for (const char* name : {"llama-bf16", "llama-odd-bias", "qwen2", "gemma2", "qwen3-gguf", "llama-gguf"}) {
    const fs::path model = load_oracle(name).model;
    for (const Compute compute :
         {Compute::f32, Compute::bf16, Compute::int8, Compute::int4, Compute::int8_groups,
          Compute::int6_groups, Compute::int4_groups, Compute::native}) {
      const std::string what = std::string(name) + " " + compute_name(compute);
      const auto expected = logits(model, {}, compute);
      EXPECT_EQ(logits(model, cache(), compute), expected) << what << ", written";
      EXPECT_EQ(logits(model, cache(), compute), expected) << what << ", mapped";
      EXPECT_TRUE(is_served(model, compute)) << what;
      fs::remove_all(folder_);
    }
  }
}

TEST_F(PackedCacheTest, AdaptersAreKeptToo) {
  Checkpoint model = load_checkpoint(load_oracle("llama").model);
  model.plan.visits.push_back({.layer = 1, .adapter = 0});
  const auto add = [&](const char* name, std::int64_t rows, std::int64_t columns) {
    std::vector<float> values(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.01F * static_cast<float>(i % 13);
    model.tensors[adapter_name(0, name)] = make_tensor(DType::f32, {rows, columns}, values);
  };
  add("self_attn.q_proj.lora_A.weight", 3, in_features(model.config, Linear::q));
  add("self_attn.q_proj.lora_B.weight", out_features(model.config, Linear::q), 3);
  const auto expected = logits(model);
  EXPECT_EQ(logits(model, cache()), expected);
  EXPECT_THAT(files(), testing::IsEmpty());  // tensors in memory can change as they like
  save_checkpoint(model, scratch_ / "saved");
  EXPECT_EQ(logits(scratch_ / "saved", cache()), expected);
  EXPECT_EQ(logits(scratch_ / "saved", cache()), expected);
  EXPECT_TRUE(is_served(scratch_ / "saved"));
}

TEST_F(PackedCacheTest, WhatPacksFastOrIsNotToBeKeptLeavesNothing) {
  const fs::path model = load_oracle("llama").model;
  logits(model, {.folder = folder_});
  logits(model, {.folder = folder_, .least_seconds = 0, .most_bytes = 1000});
  EXPECT_FALSE(fs::exists(scratch_ / "deep"));
}

TEST_F(PackedCacheTest, AChangedModelIsPackedAnew) {
  const fs::path model = copy_of("llama-bf16"), tensors = model / "model.safetensors";
  logits(model, cache());
  ASSERT_TRUE(is_served(model));
  fs::last_write_time(tensors, fs::last_write_time(tensors) - std::chrono::nanoseconds(1));
  EXPECT_FALSE(is_served(model)) << "another time";
  const auto time = fs::last_write_time(tensors);
  std::string content = read_file(tensors);
  std::fill_n(content.end() - 1000, 1000, '\0');
  write_file(tensors, content);
  fs::last_write_time(tensors, time);
  EXPECT_FALSE(is_served(model)) << "another file";
  EXPECT_FALSE(is_served(model, Compute::bf16)) << "another type";
  EXPECT_EQ(files().size(), 4U);
}

TEST_F(PackedCacheTest, AFileOfAnotherModelUnderItsNameIsNotTaken) {
  const fs::path model = load_oracle("llama-bf16").model;
  logits(copy_of("llama-bf16"), cache());
  const fs::path foreign = scratch_ / "foreign";
  fs::rename(file(), foreign);
  logits(model, cache());
  fs::rename(foreign, file());
  EXPECT_FALSE(is_served(model));
}

TEST_F(PackedCacheTest, DamagedFilesAreWrittenAnew) {
  const fs::path model = load_oracle("llama-bf16").model;
  const auto expected = logits(model, cache());
  const fs::path kept = file();
  const std::string whole = read_file(kept);
  int harmless = 0;
  const auto start = [&](const std::string& content) {
    fs::remove(kept);
    write_file(kept, content);
    const auto got = logits(model, cache());
    // Other weights in an intact file are as good as any.
    if (content.size() == whole.size() && content.starts_with(whole.substr(0, page))) return ++harmless;
    EXPECT_EQ(got, expected);
    EXPECT_EQ(read_file(kept), whole);
    return harmless;
  };
  for (std::uint64_t seed = 0; seed < 150; ++seed) start(test::damaged(whole, seed));
  EXPECT_LT(harmless, 75);
  for (const std::size_t length : {std::size_t{0}, magic, page - 1, page, page + 64, whole.size() - 64})
    start(whole.substr(0, length));
  start(whole + std::string(64, '\0'));
  for (std::size_t at = 0; at < magic + digits + 9 * 16 + digits; ++at) {
    std::string content = whole;
    content[at] ^= 1;
    start(content);
  }
}

// A file whose digest says that it is whole.
TEST_F(PackedCacheTest, TypesAndSizesAreCheckedAgainstTheModel) {
  const fs::path model = load_oracle("llama-bf16").model;
  const auto expected = logits(model, cache());
  const fs::path kept = file();
  const std::string whole = read_file(kept);
  constexpr std::size_t weights = 2 * 4 + 1, end = magic + digits + weights * 16;
  for (std::size_t at = magic + digits; at < end; at += 8) {
    std::uint64_t old = 0;
    std::memcpy(&old, whole.data() + at, sizeof old);
    for (const std::uint64_t value :
         {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{6}, std::uint64_t{1} << 32, old + 64, old - 64,
          old + 1, std::uint64_t{1} << 63, ~std::uint64_t{0} - 63}) {
      if (value == old) continue;
      std::string content = whole;
      std::memcpy(content.data() + at, &value, sizeof value);
      Fingerprint digest;
      digest.add(std::string_view(content).substr(0, end));
      content.replace(end, digits, digest.hex());
      write_file(kept, content);
      EXPECT_EQ(logits(model, cache()), expected) << "byte " << at << " is " << value;
      EXPECT_EQ(read_file(kept), whole) << "byte " << at << " is " << value;
    }
  }
}

TEST_F(PackedCacheTest, ManyAtOnceWriteOneWholeFile) {
  const fs::path model = load_oracle("llama-bf16").model;
  const auto expected = logits(model);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<float>> got(4);
    std::vector<std::thread> threads;
    for (auto& own : got) threads.emplace_back([&] { own = logits(model, cache()); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& own : got) EXPECT_EQ(own, expected);
    EXPECT_TRUE(is_served(model));
    EXPECT_EQ(file().extension(), ".packed");
    fs::remove_all(folder_);
  }
}

TEST_F(PackedCacheTest, WhatWasNotUsedForLongestMakesRoom) {
  const fs::path model = load_oracle("llama-bf16").model;
  const auto before_now = [&](const fs::path& kept, int hours) {
    fs::last_write_time(kept, fs::file_time_type::clock::now() - std::chrono::hours(hours));
  };
  logits(model, cache(), Compute::int8);
  const fs::path first = file();
  before_now(first, 3);
  logits(model, cache(), Compute::int4);
  const auto both = files();
  const fs::path second = both[0] == first ? both[1] : both[0];
  before_now(second, 2);
  logits(model, cache(), Compute::int8);  // which is now the one that was used last
  const std::vector<std::string> others = {"mine.packed", "0123456789abcdef.txt", "notes.part"};
  for (const std::string& other : others) write_file(folder_ / other, std::string(100'000, 'x'));
  write_file(folder_ / "0123456789abcdef.packed.part", "left by a process that was killed");

  PackedCache small = cache();
  small.most_bytes = static_cast<std::int64_t>(fs::file_size(first)) + 60'000;
  logits(model, small, Compute::int8_groups);
  EXPECT_TRUE(fs::exists(first));
  EXPECT_FALSE(fs::exists(second));
  EXPECT_FALSE(fs::exists(folder_ / "0123456789abcdef.packed.part"));
  for (const std::string& other : others) EXPECT_TRUE(fs::exists(folder_ / other)) << other;
  EXPECT_EQ(files().size(), 2 + others.size());
}

TEST_F(PackedCacheTest, AFolderOrDiskThatTakesNothingIsOnlyNoted) {
  const fs::path model = load_oracle("llama-bf16").model;
  const auto expected = logits(model);
  set_quiet(false);
  write_file(scratch_ / "file", "");
  testing::internal::CaptureStderr();
  EXPECT_EQ(logits(model, {.folder = scratch_ / "file", .least_seconds = 0}), expected);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("packed weights are not kept"));

  // As a full disk does, this lets a file begin.
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit old_limit{};
  ::getrlimit(RLIMIT_FSIZE, &old_limit);
  const rlimit limit = {10'000, old_limit.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  testing::internal::CaptureStderr();
  EXPECT_EQ(logits(model, cache()), expected);
  const std::string note = testing::internal::GetCapturedStderr();
  ::setrlimit(RLIMIT_FSIZE, &old_limit);
  ::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(note, HasSubstr("cannot write"));
  EXPECT_THAT(note, HasSubstr("FATHOM_CACHE"));
  EXPECT_THAT(files(), testing::IsEmpty());

  testing::internal::CaptureStderr();
  EXPECT_EQ(logits(model, cache()), expected);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr(file().string()));
}

TEST_F(PackedCacheTest, AnInterruptLeavesNoPartOfAFile) {
  const fs::path model = load_oracle("llama-bf16").model;
  install_interrupt_handler();
  ::raise(SIGINT);
  EXPECT_THROW(logits(model, cache()), Interrupted);
  clear_interrupt();
  ::signal(SIGINT, SIG_DFL);
  ::signal(SIGTERM, SIG_DFL);
  EXPECT_THAT(files(), testing::IsEmpty());
}

TEST_F(PackedCacheTest, TheUserChoosesWhere) {
  const char* const home = std::getenv("HOME");
  const std::string own = home == nullptr ? "" : home;
  ::setenv("HOME", "/home/someone", 1);
  ::unsetenv("FATHOM_CACHE");
  ::unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(user_cache().folder, "/home/someone/.cache/fathom");
  ::setenv("XDG_CACHE_HOME", "relative", 1);
  EXPECT_EQ(user_cache().folder, "/home/someone/.cache/fathom");
  ::setenv("XDG_CACHE_HOME", "/var/cache", 1);
  EXPECT_EQ(user_cache().folder, "/var/cache/fathom");
  ::setenv("FATHOM_CACHE", "/elsewhere", 1);
  EXPECT_EQ(user_cache().folder, "/elsewhere");
  ::setenv("FATHOM_CACHE", "off", 1);
  EXPECT_EQ(user_cache().folder, "");
  ::unsetenv("XDG_CACHE_HOME");
  ::unsetenv("FATHOM_CACHE");
  ::setenv("HOME", own.c_str(), 1);
}

}  // namespace
}  // namespace fathom
