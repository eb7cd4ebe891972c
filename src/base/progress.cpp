#include "base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace fathom {
namespace {

bool quiet_mode = false;

double since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

void set_quiet(bool quiet) { quiet_mode = quiet; }

void print_note(const std::string& text) {
  // In the place of a bar, which is drawn anew below.
  const char* const start = ::isatty(STDERR_FILENO) == 1 ? "\r\x1b[K" : "";
  if (!quiet_mode) fmt::print(stderr, "{}{}\n", start, text);
}

std::string format_duration(double seconds) {
  const auto s = static_cast<std::int64_t>(std::llround(std::clamp(seconds, 0.0, 3.6e9)));
  if (s >= 3600) return fmt::format("{}h {:02}m", s / 3600, s / 60 % 60);
  if (s >= 60) return fmt::format("{}m {:02}s", s / 60, s % 60);
  return fmt::format("{}s", s);
}

std::string format_bytes(std::int64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (b >= 1e9) return fmt::format("{:.2f} GB", b / 1e9);
  if (b >= 1e6) return fmt::format("{:.1f} MB", b / 1e6);
  if (b >= 1e3) return fmt::format("{:.1f} kB", b / 1e3);
  return fmt::format("{} B", bytes);
}

std::string format_count(std::int64_t count) {
  const auto c = static_cast<double>(count);
  if (c >= 1e9) return fmt::format("{:.2f}B", c / 1e9);
  if (c >= 1e6) return fmt::format("{:.1f}M", c / 1e6);
  if (c >= 1e4) return fmt::format("{:.1f}k", c / 1e3);
  return fmt::format("{}", count);
}

Progress::Progress(std::string title, std::int64_t total, std::string unit)
    : title_(std::move(title)),
      unit_(std::move(unit)),
      total_(total),
      start_(std::chrono::steady_clock::now()),
      drawn_(start_),
      terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() { finish(); }

double Progress::seconds() const { return since(start_); }

void Progress::advance(std::int64_t count, const std::string& note) {
  done_ += count;
  note_ = note;
  const bool complete = total_ > 0 && done_ >= total_;  // finish will say so, with the time it took
  if (!complete && since(drawn_) >= (terminal_ ? 0.1 : 10.0)) draw(false);
}

void Progress::finish() {
  if (std::exchange(finished_, true)) return;
  // Work that took no time needs no line in a log.
  if (terminal_ ? visible_ : seconds() >= 1.0) draw(true);
}

void Progress::draw(bool last) {
  drawn_ = std::chrono::steady_clock::now();
  if (quiet_mode) return;
  const double elapsed = std::max(seconds(), 1e-9), rate = static_cast<double>(done_) / elapsed;
  std::string line = title_;
  if (total_ > 0) {
    const double part = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
    if (terminal_) {
      constexpr int width = 24;
      const int full = static_cast<int>(part * width);
      line += fmt::format(" [{}{}]", std::string(full, '#'), std::string(width - full, '.'));
    }
    line += fmt::format(" {:3.0f}%", part * 100);
  }
  line += fmt::format(" {} {} {}/s", format_count(done_), unit_, format_count(std::llround(rate)));
  if (last || total_ <= 0) {
    line += " in " + format_duration(elapsed);
  } else if (rate > 0) {
    line += " " + format_duration(static_cast<double>(total_ - done_) / rate) + " left";
  }
  if (!note_.empty()) line += "  " + note_;
  if (terminal_) {
    std::fprintf(stderr, "\r\x1b[K%s%s", line.c_str(), last ? "\n" : "");
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  std::fflush(stderr);
  visible_ = true;
}

}  // namespace fathom
