#include "depth/provenance.h"

#include <utility>

namespace fathom {

void add_provenance(Checkpoint& checkpoint, const std::string& command, Json options, Json measurements) {
  if (!checkpoint.provenance.is_array()) checkpoint.provenance = Json::array();
  const auto& source = checkpoint.source;
  checkpoint.provenance.push_back(
      Json{{"command", command},
           {"from", (source.has_filename() ? source : source.parent_path()).filename().string()},
           {"options", std::move(options)},
           {"measurements", std::move(measurements)}});
}

}  // namespace fathom
