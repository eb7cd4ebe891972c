#include "formats/npy.h"

#include <gtest/gtest.h>

#include <vector>

#include "base/error.h"
#include "scratch.h"

namespace fathom {
namespace {

TEST(Npy, IsTheFileThatNumpyWrites) {
  const test::Scratch scratch;
  NpyWriter writer(scratch / "m.npy", 2, 3);
  writer.append(std::vector<float>{1, 2, 3, 4});
  writer.append(std::vector<float>{5, 6});
  writer.commit();

  // np.save of np.arange(1, 7, dtype=np.float32).reshape(2, 3), numpy 2: 118 bytes of header, newline
  // included.
  std::string expected("\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
                       69);
  expected.resize(127, ' ');
  expected += '\n';
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  expected.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  EXPECT_EQ(read_file(scratch / "m.npy"), expected);
}

TEST(Npy, TooFewOrTooManyValuesLeaveNoFile) {
  const test::Scratch scratch;
  const auto path = scratch / "m.npy";
  {
    NpyWriter writer(path, 1, 2);
    writer.append(std::vector<float>{1});
    EXPECT_THROW(writer.commit(), Error);
    EXPECT_THROW(writer.append(std::vector<float>{2, 3}), Error);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  EXPECT_THROW(NpyWriter(path, std::int64_t{1} << 40, std::int64_t{1} << 40), Error);
  EXPECT_THROW(NpyWriter(path, -1, 2), Error);
}

}  // namespace
}  // namespace fathom
