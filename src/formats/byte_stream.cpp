#include "formats/byte_stream.h"

#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "base/error.h"
#include "formats/text_format.h"

namespace fathom {
namespace {

constexpr std::size_t head_bytes = 100'000;
constexpr std::string_view utf8_mark = "\xef\xbb\xbf";

bool is_zstd(std::string_view bytes) { return bytes.starts_with("\x28\xb5\x2f\xfd"); }

}  // namespace

struct ByteStream::State {
  explicit State(const std::filesystem::path& path) : where(path.string()), file(path, std::ios::binary) {
    if (!file) fail("{}: cannot open: {}", where, std::strerror(errno));
    if (std::filesystem::is_directory(path)) fail("{}: a directory, expected a file of text", where);
    const std::string_view first = read();
    if (is_zstd(first) || is_named_zstd(path)) {
      decompressor.reset(ZSTD_createDCtx());
      in = {first.data(), first.size(), 0};
      unpacked.resize(ZSTD_DStreamOutSize());
      while (head.size() < head_bytes && take_more()) {
      }
    } else {
      head = first;
    }
    if (head.starts_with(utf8_mark)) head.erase(0, utf8_mark.size());
  }

  std::string_view read() {
    file.read(raw.data(), static_cast<std::streamsize>(raw.size()));
    if (file.bad()) fail("{}: cannot read: {}", where, std::strerror(errno));
    return {raw.data(), static_cast<std::size_t>(file.gcount())};
  }

  bool take_more() {
    const std::string_view more = unpack();
    head += more;
    return !more.empty();
  }

  std::string_view unpack() {
    ZSTD_outBuffer out{unpacked.data(), unpacked.size(), 0};
    while (out.pos == 0) {
      if (in.pos == in.size && !buffered) {
        const std::string_view more = read();
        if (more.empty()) {
          if (frame_open)
            fail("{}: the zstd data end within a frame: the file is torn, fetch it again", where);
          return {};
        }
        in = {more.data(), more.size(), 0};
      }
      const std::size_t left = ZSTD_decompressStream(decompressor.get(), &out, &in);
      if (ZSTD_isError(left) != 0) fail("{}: not valid zstd: {}", where, ZSTD_getErrorName(left));
      frame_open = left != 0;
      // A full buffer within a frame: the decompressor may hold back more of it.
      buffered = out.pos == out.size && frame_open;
    }
    return {unpacked.data(), out.pos};
  }

  struct Free {
    void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
  };

  std::string where;
  std::ifstream file;
  std::unique_ptr<ZSTD_DCtx, Free> decompressor;  // null: the file is plain
  std::string raw = std::string(ZSTD_DStreamInSize(), '\0'), unpacked, head;
  ZSTD_inBuffer in{nullptr, 0, 0};
  bool frame_open = false, buffered = false, begun = false;
};

ByteStream::ByteStream(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {}

ByteStream::~ByteStream() = default;

std::string_view ByteStream::head() const { return state_->head; }

std::string_view ByteStream::next() {
  if (!state_->begun) {
    state_->begun = true;
    if (!state_->head.empty()) return state_->head;
  }
  return state_->decompressor ? state_->unpack() : state_->read();
}

}  // namespace fathom
