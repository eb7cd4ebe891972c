// Models in several GGUF files, as llama-gguf-split divides them.
#pragma once

#include <filesystem>

#include "formats/gguf_part.h"

namespace fathom {

/// `part`, which was read from `path`, with the tensors of all others that belong to it and the metadata of
/// the first, whose `path` this becomes. The parts lie beside each other under llama.cpp's names,
/// PREFIX-00001-of-00003.gguf; a file of its own stays as it is. Throws Error naming the part that is missing
/// or does not belong to the others.
GgufPart join_gguf_parts(std::filesystem::path& path, GgufPart part);

}  // namespace fathom
