// What the system says of this process and its room.
#pragma once

#include <cstdint>

namespace fathom {

/// Seconds since this process was started, to the 10 ms that the system keeps; 0 where it does not say.
double process_seconds();

/// The most memory that has been resident so far, in bytes; 0 where the system does not say.
std::int64_t peak_memory();

/// Counts peak_memory anew from what is resident now, where the system lets it.
void reset_peak_memory();

/// Memory that programs can still have without others being swapped out, in bytes; 0 where the system does
/// not say.
std::int64_t available_memory();

}  // namespace fathom
