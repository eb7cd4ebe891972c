// The teacher's top tokens (top_k.h) on the disk, written once and read in every later epoch and run.
//
// A folder with two files. cache.json says of what the answers are: teacher, text, how it is cut, k. top.bin
// has a slot for each sequence of the text, by its place there (Sequence::place), whatever order a seed gives
// them: a digest of 16 characters, then ids and log-probabilities (f16) of the learned rows. Ids take 2 bytes
// where the vocabulary allows it, else 4. Slots are as long as if all rows were learned; what is never
// written of them takes no room on the disk. A slot whose digest, which is of cache.json's words too, does
// not fit (torn when a run was killed, damaged, of another cache) counts as empty and is written again.
// Several processes may share the folder.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "base/json.h"
#include "corpus/packing.h"
#include "train/step/teacher.h"
#include "train/step/top_k.h"

namespace fathom {

struct TopForm {
  std::int64_t k = 0, vocab = 0, context = 0;

  std::int64_t id_bytes() const { return vocab <= 65'536 ? 2 : 4; }
  /// On the disk, for so many learned tokens.
  std::int64_t bytes(std::int64_t rows) const { return rows * k * (id_bytes() + 2); }
};

class TeacherCache {
 public:
  /// Creates the folder, or opens one that has the same identity. Throws Error: answers of another identity,
  /// no room for those of `rows` learned tokens.
  TeacherCache(const std::filesystem::path& folder, const Json& identity, const TopForm& form,
               std::int64_t rows);
  ~TeacherCache();
  TeacherCache(const TeacherCache&) = delete;
  TeacherCache& operator=(const TeacherCache&) = delete;

  /// Appends those of a sequence with so many learned rows to `top`; false if they are not there.
  bool read(std::int64_t place, std::int64_t rows, TopTokens& top);
  /// Those of `rows` rows of `top` from `first` on. Throws Error (a full disk).
  void write(std::int64_t place, const TopTokens& top, std::int64_t first, std::int64_t rows);

  /// What the answers take on the disk now.
  std::int64_t bytes() const;

 private:
  std::int64_t slot(std::int64_t place) const;
  std::string sum(std::span<const std::byte> content) const;

  std::filesystem::path file_;
  std::string identity_;
  TopForm form_;
  int descriptor_ = -1;
};

/// A teacher that is asked once for each sequence.
class CachedTeacher {
 public:
  /// `teacher` must outlive it; it is made ready at the first sequence that the cache does not have.
  CachedTeacher(const Checkpoint& teacher, bool bf16, Device device, float temperature, const TopForm& form,
                std::unique_ptr<TeacherCache> cache);

  /// Of the learned rows of the sequences, laid end to end.
  TopTokens top(const std::vector<Sequence>& sequences);

 private:
  /// Appends them, by the teacher itself.
  void compute(const Sequence& sequence, std::int64_t rows, TopTokens& top);

  const Checkpoint& checkpoint_;
  bool bf16_;
  Device device_;
  float temperature_;
  TopForm form_;
  std::unique_ptr<TeacherCache> cache_;
  std::unique_ptr<Teacher> teacher_;
};

}  // namespace fathom
