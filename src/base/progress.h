// What a person sees of long work: a bar with rate and time left on a terminal, plain lines elsewhere. On
// standard error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace fathom {

/// "1h 02m", "3m 10s", "12s".
std::string format_duration(double seconds);

/// "98.0 MB", "1.21 GB" (powers of ten, as disks and Hugging Face count).
std::string format_bytes(std::int64_t bytes);

/// "134.5M", "1.98B".
std::string format_count(std::int64_t count);

class Progress {
 public:
  /// `unit` names what is counted ("tok"); `total` 0 means unknown.
  Progress(std::string title, std::int64_t total, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// For work whose size is known only later, or changes.
  void set_total(std::int64_t total) { total_ = total; }
  /// Adds `count` units; `note` stands at the line's end ("loss 2.31"). Redraws at most 10 times a second (a
  /// line every 10 s where standard error is no terminal).
  void advance(std::int64_t count, const std::string& note = "");
  /// Draws the last state and ends the line. The destructor does it too.
  void finish();
  double seconds() const;

 private:
  void draw(bool last);

  std::string title_, unit_, note_;
  std::int64_t total_, done_ = 0;
  std::chrono::steady_clock::time_point start_, drawn_;
  bool terminal_, finished_ = false, visible_ = false;
};

/// A line on standard error about something that the user did not ask for.
void print_note(const std::string& text);

/// Silences every Progress and note (`--quiet`).
void set_quiet(bool quiet);

}  // namespace fathom
