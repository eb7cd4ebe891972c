// What the tests of the verbs that train share.
#pragma once

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "program.h"

namespace fathom::test {

inline const std::string model = FATHOM_TEST_DATA "/models/llama-text";

/// A scratch folder with some text.
struct Folder : Scratch {
  Folder() {
    std::ofstream text(*this / "a.txt");
    for (int i = 0; i < 300; ++i) text << "Sentence number " << i * 37 % 100 << " of the text. ";
  }
  std::string text() const { return (*this / "a.txt").string(); }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path()))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }
};

inline std::string train_arguments(const Folder& folder, const std::string& out, int steps) {
  return "train " + model + " --threads 1 --context 32 --batch-tokens 64 --tokens " +
         std::to_string(64 * steps) + " --text " + folder.text() + " --out " + (folder / out).string();
}

}  // namespace fathom::test
